"""The command line: what the agent refuses, in one line that says what to do."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_agent import AGENT_FILE, RealAgent


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the agent with arguments that should make it end by itself."""
    command = [sys.executable, str(AGENT_FILE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)


def assert_refused(result: subprocess.CompletedProcess[str], words: str) -> None:
    """Check for status 2 and one line on stderr with `words`."""
    assert result.returncode == 2, result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert words in result.stderr
    assert result.stdout == ""


def test_version() -> None:
    assert run("--version").stdout.startswith("infini-agent ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "127.evil.example"])
def test_plain_http_beyond_loopback_is_refused(tmp_path: Path, host: str) -> None:
    result = run("--host", host, "--port", 0, "--state-dir", tmp_path)
    assert_refused(result, "--allow-plain-http")


def test_plain_http_beyond_loopback_when_told_to(tmp_path: Path) -> None:
    with RealAgent("--host", "0.0.0.0", "--allow-plain-http") as agent:
        assert agent.request("GET", "/health")[0] == 200


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("--port", taken.getsockname()[1], "--state-dir", tmp_path)
    assert_refused(result, "Address already in use")


def test_an_unwritable_state_dir(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(run("--port", 0, "--state-dir", tmp_path / "file" / "state"), "--state-dir")


def test_one_agent_for_a_state_dir() -> None:
    with RealAgent() as agent:
        assert_refused(run("--port", 0, "--state-dir", agent.state_dir), "another agent")


@pytest.mark.parametrize("content", [None, "", "short"])
def test_a_token_file_that_does_not_do(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "the-token"
    if content is not None:
        path.write_text(content)
    result = run("--port", 0, "--state-dir", tmp_path / "state", "--token-file", path)
    assert_refused(result, "the-token")
    assert not content or content not in result.stderr.replace("shorter", "")


def test_a_token_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "the-token").write_text("a token that is long enough\n")
    with RealAgent("--token-file", str(tmp_path / "the-token")) as agent:
        assert agent.request("GET", "/services", token="a token that is long enough")[0] == 200
        assert not (agent.state_dir / "token").exists()
        assert agent.request("GET", "/services", token="")[0] == 401


def test_the_token_is_made_once_with_256_bits() -> None:
    with RealAgent() as agent:
        token = agent.token
        assert len(bytes.fromhex(token)) == 32
        agent.kill9()
        agent.start()
        assert agent.token == token


def test_tls_options_come_together(tmp_path: Path) -> None:
    assert_refused(run("--port", 0, "--state-dir", tmp_path, "--tls-cert", "x"), "--tls-key")
    result = run("--port", 0, "--state-dir", tmp_path, "--tls-cert", "/none", "--tls-key", "/none")
    assert_refused(result, "--tls-cert")


def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=agent",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    # Beyond loopback, because with TLS that is allowed.
    options = ("--host", "0.0.0.0", "--tls-cert", str(cert), "--tls-key", str(key), "--client-timeout", "1")
    with RealAgent(*options) as agent:
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("127.0.0.1", agent.port, timeout=5, context=context)
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/services", headers={"Authorization": f"Bearer {agent.token}"})
                assert json.loads(connection.getresponse().read()) == {"services": []}
        # Neither a client without TLS nor one that says nothing keeps others from being served.
        with socket.create_connection(("127.0.0.1", agent.port), timeout=5) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            with socket.create_connection(("127.0.0.1", agent.port), timeout=5) as silent:
                connection = http.client.HTTPSConnection("127.0.0.1", agent.port, timeout=5, context=context)
                with contextlib.closing(connection):
                    connection.request("GET", "/health")
                    assert connection.getresponse().status == 200
                assert silent.recv(1) == b""
