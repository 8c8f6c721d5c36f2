"""Paths, answers, errors and what a badly behaved client gets."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time

import pytest

from tests.real_agent import RealAgent, wait_until

SERVICE_FIELDS = {
    "id", "status", "phase", "ready", "pid", "port", "generation", "started_at", "finished_at", "exit_code",
    "restarts", "restart_streak", "restart_history", "reason",
}  # fmt: skip


STOP = "POST /service/a/stop HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"


def error_code(answer: dict) -> str:
    """Return the code of an error answer after checking its shape."""
    error = answer["error"]
    assert set(error) <= {"code", "message", "fields"}
    assert error["message"].endswith(".")
    return error["code"]


@pytest.mark.parametrize("path", ["/health", "/health/"])
def test_health_answers_without_a_token(shared: RealAgent, path: str) -> None:
    status, answer = shared.request("GET", path, token="")
    assert status == 200
    assert answer["status"] == "ok"
    assert answer["version"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/services"),
        ("GET", "/report"),
        ("POST", "/service/a/deploy"),
        ("POST", "/service/a/restart"),
        ("POST", "/service/a/stop"),
        ("GET", "/service/a/status"),
        ("GET", "/service/a/logs"),
        ("DELETE", "/service/a"),
        ("GET", "/nothing"),
    ],
)
@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_everything_else_wants_the_token(shared: RealAgent, method: str, path: str, token: str) -> None:
    body = {"command": "true"} if method == "POST" else None
    status, answer = shared.request(method, path, body, token=token)
    assert (status, error_code(answer)) == (401, "unauthorized")


@pytest.mark.parametrize("slash", ["", "/"])
def test_every_path_of_an_instance(shared: RealAgent, key: str, slash: str) -> None:
    status, deployed = shared.request("POST", f"/service/{key}/deploy{slash}", {"command": "sleep 60"})
    assert status == 201
    assert set(deployed) == SERVICE_FIELDS
    assert (deployed["id"], deployed["status"], deployed["generation"]) == (key, "running", 1)
    status, listed = shared.request("GET", f"/services{slash}")
    assert status == 200
    assert [set(entry) for entry in listed["services"] if entry["id"] == key] == [SERVICE_FIELDS]
    status, shown = shared.request("GET", f"/service/{key}/status{slash}")
    assert status == 200
    assert set(shown) == SERVICE_FIELDS | {"log_tail"}
    status, piece = shared.request("GET", f"/service/{key}/logs{slash}")
    assert (status, set(piece)) == (200, {"offset", "next_offset", "size", "data"})
    status, answer = shared.request("DELETE", f"/service/{key}{slash}")
    assert (status, error_code(answer)) == (409, "still_running")
    status, restarted = shared.request("POST", f"/service/{key}/restart{slash}")
    assert (status, restarted["restarts"], restarted["generation"]) == (200, 1, 1)
    assert restarted["pid"] != deployed["pid"]
    for _ in range(2):
        status, stopped = shared.request("POST", f"/service/{key}/stop{slash}")
        assert (status, stopped["phase"], stopped["status"], stopped["pid"]) == (
            200,
            "stopped",
            "stopped",
            None,
        )
    status, _ = shared.request("DELETE", f"/service/{key}{slash}")
    assert status == 200
    status, answer = shared.request("GET", f"/service/{key}/status{slash}")
    assert (status, error_code(answer)) == (404, "unknown_instance")
    assert not (shared.state_dir / "instances" / key).exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "restart"), ("POST", "stop"), ("GET", "status"), ("GET", "logs"), ("DELETE", "")],
)
def test_an_unknown_instance_is_404(shared: RealAgent, method: str, path: str) -> None:
    status, answer = shared.request(method, f"/service/nobody/{path}".rstrip("/"))
    assert (status, error_code(answer)) == (404, "unknown_instance")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 404),
        ("GET", "/service", 404),
        ("GET", "/service/a/b/c", 404),
        ("GET", "/service/a/nothing", 404),
        ("POST", "/services", 405),
        ("GET", "/service/a/deploy", 405),
        ("PUT", "/service/a", 405),
        ("GET", "/service/../status", 400),
        ("GET", "/service/./status", 400),
        ("GET", "/service/%2e%2e/status", 400),
        ("GET", "/service/" + "a" * 65 + "/status", 400),
        ("GET", "/service/a%00/status", 400),
    ],
)
def test_wrong_paths_and_methods(shared: RealAgent, method: str, path: str, expected: int) -> None:
    status, answer = shared.request(method, path)
    assert status == expected
    error_code(answer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("command", 5),
        ("command", ""),
        ("command", "a\0b"),
        ("command", "\ud800"),
        ("env", []),
        ("env", {"A": 1}),
        ("env", {"A=B": "x"}),
        ("env", {"": "x"}),
        ("cwd", "relative"),
        ("cwd", "/does/not/exist"),
        ("cwd", 1),
        ("user", "no-such-account"),
        ("user", ["root"]),
        ("port", "80"),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("port", 80.5),
        ("generation", "1"),
        ("generation", -1),
        ("generation", True),
        ("probes", "tcp"),
        ("probes", {"type": "udp"}),
        ("probes", {"type": "tcp"}),
        ("probes", {"type": "none", "path": "no-slash"}),
        ("probes", {"type": "none", "path": "/a b\r\nX: y"}),
        ("probes", {"type": "none", "expected_status": 99}),
        ("probes", {"type": "none", "startup_seconds": "1"}),
        ("probes", {"type": "none", "period_seconds": 0}),
        ("probes", {"type": "none", "host": "example.org"}),
        ("probes", {"type": "none", "surprise": 1}),
        ("restart", "sometimes"),
        ("restart", ["never"]),
        ("stop_command", 1),
        ("stop_grace", "5"),
        ("stop_grace", -1),
        ("stop_grace", 1e9),
        ("surprise", 1),
    ],
)
def test_deploy_checks_every_field(shared: RealAgent, key: str, field: str, value: object) -> None:
    status, answer = shared.request("POST", f"/service/{key}/deploy", {"command": "true", field: value})
    assert (status, error_code(answer)) == (400, "invalid")
    assert answer["error"]["fields"]
    assert shared.request("GET", f"/service/{key}/status")[0] == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff", b'{"command": NaN}', b"[" * 100_000])
def test_a_bad_body_is_400(shared: RealAgent, key: str, body: bytes) -> None:
    status, answer = shared.request("POST", f"/service/{key}/deploy", body)
    assert status == 400
    error_code(answer)


def test_null_counts_as_left_out(shared: RealAgent, key: str) -> None:
    body = {"command": "sleep 60", "env": None, "port": None, "probes": None, "generation": None}
    assert shared.request("POST", f"/service/{key}/deploy", body)[0] == 201


@pytest.mark.parametrize("verb", ["stop", "restart"])
def test_stop_and_restart_check_their_body(shared: RealAgent, key: str, verb: str) -> None:
    shared.deploy(key, "sleep 60", generation=5)
    for body, expected in [
        ({"generation": "5"}, 400),
        ({"other": 1}, 400),
        ([], 400),
        ({"generation": 4}, 409),
    ]:
        status, answer = shared.request("POST", f"/service/{key}/{verb}", body)
        assert status == expected, (body, answer)
        error_code(answer)
    assert shared.request("POST", f"/service/{key}/{verb}", {"generation": 5})[0] == 200


@pytest.mark.parametrize("query", ["offset=-1", "offset=x", "limit=", "other=1", "tail=1.5", "offset=" + "9" * 30])
def test_log_queries_are_checked(shared: RealAgent, key: str, query: str) -> None:
    shared.deploy(key, "true")
    status, answer = shared.request("GET", f"/service/{key}/logs?{query}")
    assert (status, error_code(answer)) == (400, "invalid")


def test_a_body_too_large_is_refused_before_it_is_read(shared: RealAgent) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as connection:
        head = STOP.replace("{token}", shared.token) + "Content-Length: 1048577\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 413
        assert error_code(json.loads(response.read())) == "too_large"


def test_a_large_body_without_a_token_still_gets_its_answer(shared: RealAgent) -> None:
    status, answer = shared.request("POST", "/service/a/deploy", b"x" * 300_000, token="wrong")
    assert (status, error_code(answer)) == (401, "unauthorized")


@pytest.mark.parametrize(
    "request_text",
    [
        "NONSENSE\r\n\r\n",
        "GET /services HTTP/9.9\r\n\r\n",
        "GET /health HTTP/2.0\r\n\r\n",
        "GET /health\r\n\r\n",
        "GET /health HTTP/1.1\r\n" + "X: y\r\n" * 500 + "\r\n",
        "GET /health HTTP/1.1\r\nX: " + "y" * 70_000 + "\r\n\r\n",
        "GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        "GET /health HTTP/1.1\r\nX: y\r\n folded: z\r\n\r\n",
        "GET /health HTTP/1.1\r\nX : y\r\n\r\n",
        STOP + "Content-Length: 2\r\ncontent-length: 3\r\n\r\n{} ",
        STOP + "Content-Length: -5\r\n\r\n",
        STOP + "Content-Length: x\r\n\r\n",
        STOP + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_malformed_requests_get_a_json_error_and_are_closed(shared: RealAgent, request_text: str) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as connection:
        connection.sendall(request_text.replace("{token}", shared.token).encode())
        connection.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 4") or head.startswith(b"HTTP/1.1 5"), data
    error_code(json.loads(body))
    assert b"Traceback" not in data


def test_a_client_that_waits_to_be_let_send_its_body(shared: RealAgent, key: str) -> None:
    """As curl does with a large one."""
    body = b'{"command": "true"}'
    head = f"POST /service/{key}/deploy HTTP/1.1\r\nAuthorization: Bearer {shared.token}\r\n"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as connection:
        connection.sendall(f"{head}expect: 100-Continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_an_http_1_0_client_is_answered_and_closed(shared: RealAgent) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"status": "ok"' in answer


def test_one_connection_serves_many_requests(shared: RealAgent) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, timeout=5)
    with contextlib.closing(connection):
        connection.connect()
        first = connection.sock
        for path in ("/health", "/services", "/nothing", "/report"):
            connection.request("GET", path, headers={"Authorization": f"Bearer {shared.token}"})
            response = connection.getresponse()
            assert int(response.headers["Content-Length"]) == len(response.read())
            assert connection.sock is first


def test_a_silent_client_is_cut_off(shared: RealAgent) -> None:
    """The agent here gives clients a second."""
    with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as silent:
        began = time.monotonic()
        assert silent.recv(1) == b""
        assert time.monotonic() - began < 4


def test_a_client_that_trickles_is_cut_off_too(shared: RealAgent) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=0.2) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nX: ")

        def is_closed() -> bool:
            try:
                slow.sendall(b"y")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_closed, 8)


def test_report(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "sleep 60")
    status, report = shared.request("GET", "/report")
    assert status == 200
    assert set(report) == {
        *("agent", "host", "services", "observed_at", "devices", "device_errors", "devices_observed_at"),
    }
    assert report["agent"]["protocol"] == 1
    assert report["agent"]["pid"] == shared.pid
    assert {"version", "boot_id", "started_at", "hostname"} <= set(report["agent"])
    host = report["host"]
    assert host["errors"] == {}
    assert host["cpu_count"] >= 1
    assert 0 < host["memory_used_bytes"] < host["memory_total_bytes"]
    assert 0 < host["memory_percent"] < 100
    assert 0 < host["disk_percent"] <= 100
    assert host["disk_used_bytes"] <= host["disk_total_bytes"]
    assert host["uptime_seconds"] > 0
    assert {"load_1m", "load_5m", "load_15m"} <= set(host)
    assert key in [service["id"] for service in report["services"]]


def test_cpu_is_a_rate_between_samples(agent: RealAgent) -> None:
    assert agent.request("GET", "/report")[1]["host"]["cpu_percent"] is None
    percent = wait_until(lambda: [agent.request("GET", "/report")[1]["host"]["cpu_percent"]] != [None], 5)
    assert percent
    assert 0 <= agent.request("GET", "/report")[1]["host"]["cpu_percent"] <= 100


def test_neither_token_nor_environment_values_are_logged(agent: RealAgent) -> None:
    agent.deploy("a", "echo started; sleep 60", env={"SECRET": "canary-value-17"})
    agent.request("GET", "/services", token="canary-token-18")
    agent.request("POST", "/service/a/deploy", {"command": "true", "env": {"X": ["canary-value-19"]}})
    agent.kill9()
    agent.start()
    agent.request("POST", "/service/a/restart")
    assert "canary" not in agent.stderr
    assert agent.token not in agent.stderr


def test_the_fields_it_was_deployed_with_are_told_to_whoever_takes_it_over(agent: RealAgent) -> None:
    agent.deploy("one", "sleep 300", env={"A": "b"}, cwd="/tmp", generation=3, probes={"type": "none"})
    status, answer = agent.request("GET", "/service/one/spec")
    assert status == 200 and (answer["id"], answer["generation"]) == ("one", 3)
    told = {name: answer["spec"][name] for name in ("command", "env", "cwd", "probes", "restart")}
    fields = {"command": "sleep 300", "env": {"A": "b"}, "cwd": "/tmp", "probes": {"type": "none"}, "restart": "never"}
    assert told == fields
    agent.request("POST", "/service/never/stop", {"generation": 1})
    assert agent.request("GET", "/service/never/spec")[1]["spec"] is None
    assert agent.request("GET", "/service/none/spec")[0] == 404
    assert agent.request("POST", "/service/one/spec", {})[0] == 405
    assert agent.request("GET", "/service/one/spec", token="")[0] == 401
