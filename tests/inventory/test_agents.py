"""The agent client against a real agent over TLS, and against what only looks like one."""

import asyncio
import asyncio.sslproto
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from inventory.agents import (
    TLS_READ_BYTES,
    AgentAddress,
    AgentClient,
    AgentError,
    Ask,
    ask_each,
    keep_connections_small,
)
from tests.real_agent import RealAgent


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def ask(port: int, token: str = "t", certificate: str = "", seconds: float = 5) -> dict | AgentError:
    address = AgentAddress(1, "box", "127.0.0.1", port, token, certificate)
    [(_ask, answer)] = ask_each([Ask(address, "GET", "/report", timeout_seconds=seconds)])
    return answer


def test_tls_with_the_pinned_certificate_and_no_other(tmp_path: Path) -> None:
    own_cert, own_key = make_certificate(tmp_path, "own")
    other_cert, _ = make_certificate(tmp_path, "other")
    with RealAgent("--tls-cert", str(own_cert), "--tls-key", str(own_key)) as agent:
        answer = ask(agent.port, agent.token, own_cert.read_text())
        refused = ask(agent.port, agent.token, other_cert.read_text())
    assert isinstance(answer, dict) and answer["agent"]["version"]
    assert isinstance(refused, AgentError) and refused.code == "agent_certificate_changed"


def test_a_pinned_connection_is_kept_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake for each report would cost the monitor of a large fleet more than all the rest, and what asyncio
    holds for reading more memory than all the rest: by an attribute of its own, which another Python may name anew."""
    monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "max_size", asyncio.sslproto.SSLProtocol.max_size)
    keep_connections_small()
    own_cert, own_key = make_certificate(tmp_path, "own")
    with RealAgent("--tls-cert", str(own_cert), "--tls-key", str(own_key)) as agent:

        async def ask_twice() -> list[list[int]]:
            address = AgentAddress(1, "box", "127.0.0.1", agent.port, agent.token, own_cert.read_text())
            async with AgentClient() as client:
                for _ in range(2):
                    await client.ask(Ask(address, "GET", "/report"))
                kept = client._session.connector._conns.values()
                return [[len(one[0].transport._ssl_protocol._ssl_buffer) for one in ones] for ones in kept]

        assert asyncio.run(ask_twice()) == [[TLS_READ_BYTES]]


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 16\r\n\r\n{"error":"what"}',
    ],
)
def test_what_is_not_an_agent_is_said_to_be_none(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve_once, args=(listener, answer), daemon=True).start()
        got = ask(listener.getsockname()[1])
    assert isinstance(got, AgentError)
    assert "does not speak the agent's protocol" in got.message


def _serve_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


def test_a_silent_one_is_given_up_after_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=5) as listener:
        began = time.monotonic()
        got = ask(listener.getsockname()[1], seconds=0.3)
    assert isinstance(got, AgentError) and "did not answer within 0.3 s" in got.message
    assert time.monotonic() - began < 3


def test_many_are_asked_at_once_and_the_caller_is_called_while_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        port = listener.getsockname()[1]
        address = AgentAddress(1, "box", "127.0.0.1", port, "t")
        waited: list[int] = []
        began = time.monotonic()
        asks = [Ask(address, "GET", "/report", timeout_seconds=0.5) for _ in range(20)]
        answers = list(ask_each(asks, while_waiting=lambda: waited.append(1), every_seconds=0.1))
    assert len(answers) == 20 and waited
    assert time.monotonic() - began < 3


def test_a_token_is_not_in_a_printed_address() -> None:
    assert "canary" not in repr(AgentAddress(1, "box", "h", 1, "canary", "canary"))
