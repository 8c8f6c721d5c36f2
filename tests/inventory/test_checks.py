"""Reachability against real sockets on loopback."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from icmplib import ICMPLibError, ICMPv4Socket
from rest_framework.test import APIClient

from infini.models import Event
from inventory.checks import check_servers
from inventory.models import Server

Make = Callable[..., dict]


@pytest.fixture(autouse=True)
def no_ping(settings: Any) -> None:
    """Loopback answers every echo where echoes are allowed; what is tested here is the rest."""
    settings.CHECK_PING = False


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:  # bound but not listening: nobody else can take it
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A listener whose queue is full: further connections are neither taken nor refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            waiting.append(client)
        time.sleep(0.05)
        yield listener.getsockname()[1]
        for client in waiting:
            client.close()


def check(api: APIClient, server: dict) -> dict:
    answer = api.post(f"/api/servers/{server['id']}/check")
    assert answer.status_code == 200, answer.content
    return answer.json()


def events() -> list[str]:
    return list(Event.objects.filter(kind__contains="reachable").order_by("id").values_list("kind", flat=True))


def test_an_open_ssh_port_is_reachable(api: APIClient, make: Make, open_port: int) -> None:
    server = make("/api/servers", name="gpu-1", host_ip="localhost", port=open_port)
    before = timezone.now()
    result = check(api, server)
    assert {name: result[name] for name in ("id", "status", "method", "error")} == {
        "id": server["id"],
        "status": "online",
        "method": "tcp",
        "error": "",
    }
    read = api.get(f"/api/servers/{server['id']}").json()
    assert (read["status"], read["reachable"], read["last_check"]) == ("online", True, result["last_check"])
    assert before <= Server.objects.get().last_check <= timezone.now()
    assert read["version"] == server["version"]


def test_a_closed_port_is_said_to_refuse(api: APIClient, make: Make, closed_port: int) -> None:
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=closed_port)
    result = check(api, server)
    assert (result["status"], result["error"]) == ("offline", f"SSH port {closed_port} refused the connection.")
    assert api.get(f"/api/servers/{server['id']}").json()["check_error"] == result["error"]


def test_silence_is_told_from_refusal(api: APIClient, make: Make, silent_port: int, settings: Any) -> None:
    settings.CHECK_TIMEOUT_SECONDS = 0.5
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=silent_port)
    assert check(api, server)["error"] == f"SSH port {silent_port} did not answer within 0.5 s."


def test_a_name_that_cannot_be_resolved_is_said_so(api: APIClient, make: Make) -> None:
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1")
    Server.objects.update(host_ip="a..b")  # no name at all: no name server is asked
    result = check(api, server)
    assert result["status"] == "offline" and "cannot be resolved" in result["error"]


def test_the_agent_port_counts_when_there_is_a_token(
    api: APIClient, make: Make, open_port: int, closed_port: int
) -> None:
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=closed_port, agent_port=open_port)
    assert check(api, server)["status"] == "offline"
    api.patch(f"/api/servers/{server['id']}", {"agent_token": "token"}, format="json")
    result = check(api, server)
    assert (result["status"], result["method"], result["error"]) == ("online", "agent", "")


def test_a_silent_way_does_not_hold_up_the_next(
    api: APIClient, make: Make, open_port: int, silent_port: int, settings: Any
) -> None:
    settings.CHECK_TIMEOUT_SECONDS = 20
    body = {"host_ip": "127.0.0.1", "port": silent_port, "agent_port": open_port, "agent_token": "token"}
    server = make("/api/servers", name="gpu-1", **body)
    started = time.monotonic()
    assert check(api, server)["method"] == "agent"
    assert time.monotonic() - started < 5


def test_both_failures_are_told(api: APIClient, make: Make, closed_port: int) -> None:
    body = {"host_ip": "127.0.0.1", "port": closed_port, "agent_port": closed_port, "agent_token": "token"}
    error = check(api, make("/api/servers", name="gpu-1", **body))["error"]
    assert f"SSH port {closed_port} refused" in error and f"Agent port {closed_port} refused" in error
    assert "token" not in error


def test_an_event_only_when_it_changes(api: APIClient, make: Make, open_port: int, closed_port: int) -> None:
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=open_port)
    check(api, server)
    check(api, server)
    assert events() == ["server.reachable"]
    api.patch(f"/api/servers/{server['id']}", {"port": closed_port}, format="json")
    check(api, server)
    check(api, server)
    assert events() == ["server.reachable", "server.unreachable"]
    last = Event.objects.get(kind="server.unreachable")
    assert (last.actor_name, last.subject_name, last.data["method"]) == ("operator", "gpu-1", "tcp")


def test_an_older_check_does_not_overwrite_a_newer_one(api: APIClient, make: Make, closed_port: int) -> None:
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=closed_port)
    newer = timezone.now() + timedelta(minutes=1)
    Server.objects.update(reachable=True, last_check=newer, check_method="icmp")
    result = check(api, server)
    assert (result["status"], result["method"]) == ("online", "icmp")
    stored = Server.objects.get()
    assert (stored.reachable, stored.last_check, stored.check_error) == (True, newer, "")
    assert events() == []


def test_all_are_asked_at_once(api: APIClient, make: Make, open_port: int, silent_port: int, settings: Any) -> None:
    settings.CHECK_TIMEOUT_SECONDS = 1
    ids = [
        make("/api/servers", name=f"gpu-{n}", host_ip="127.0.0.1", port=silent_port if n else open_port)["id"]
        for n in range(30)
    ]
    started = time.monotonic()
    answer = api.post("/api/servers/check-all")
    assert time.monotonic() - started < 10  # one after the other takes 29 s
    assert (answer.status_code, sorted(row["id"] for row in answer.json())) == (200, sorted(ids))
    assert {row["id"]: row["status"] for row in answer.json()} == {
        pk: "offline" if at else "online" for at, pk in enumerate(ids)
    }


def test_a_hundred_take_as_long_as_the_slowest_and_two_seconds(
    api: APIClient, open_port: int, closed_port: int, silent_port: int, settings: Any
) -> None:
    settings.CHECK_TIMEOUT_SECONDS = 2
    ports = [silent_port, closed_port, *[open_port] * 3] * 20
    Server.objects.bulk_create(Server(name=f"gpu-{n}", host_ip="127.0.0.1", port=p) for n, p in enumerate(ports))
    started = time.monotonic()
    answer = api.post("/api/servers/check-all")
    assert time.monotonic() - started < 2 + 2
    assert [row["status"] for row in answer.json()].count("online") == 60 and len(answer.json()) == 100


def test_a_check_of_nothing_is_an_empty_list(api: APIClient) -> None:
    assert api.post("/api/servers/check-all").json() == []
    assert api.post("/api/servers/987654/check").status_code == 404


def test_a_server_deleted_meanwhile_has_no_result(make: Make, open_port: int) -> None:
    gone, kept = (make("/api/servers", name=name, host_ip="127.0.0.1", port=open_port) for name in "ab")
    rows = list(Server.objects.order_by("pk"))
    Server.objects.filter(pk=gone["id"]).delete()
    assert [result.id for result in check_servers(rows, by=None)] == [kept["id"]]


@pytest.mark.django_db(transaction=True)
def test_others_write_while_the_network_is_waited_for(
    make: Make, silent_port: int, settings: Any, open_port: int
) -> None:
    settings.CHECK_TIMEOUT_SECONDS = 3
    make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=silent_port)
    done: list[float] = []

    def work() -> None:
        check_servers(Server.objects.all(), by=None)
        done.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    make("/api/servers", name="gpu-2", host_ip="127.0.0.1")
    written = time.monotonic()
    thread.join()
    assert written < done[0]


@pytest.mark.django_db(transaction=True)
def test_a_check_inside_a_transaction_is_refused(make: Make, open_port: int) -> None:
    from django.db import transaction

    make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=open_port)
    with pytest.raises(RuntimeError), transaction.atomic():
        check_servers(Server.objects.all(), by=None)


def test_ping_is_used_where_it_is_allowed(api: APIClient, make: Make, open_port: int, settings: Any) -> None:
    settings.CHECK_PING = True
    server = make("/api/servers", name="gpu-1", host_ip="127.0.0.1", port=open_port)
    assert check(api, server)["method"] == ("icmp" if echoes_allowed() else "tcp")


def echoes_allowed() -> bool:
    try:
        ICMPv4Socket(privileged=False).close()
    except (ICMPLibError, OSError):
        return False
    return True
