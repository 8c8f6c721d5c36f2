"""Deploy, restart, stop and delete through real agents."""

import os
import signal
import socket
from collections.abc import Callable

import pytest
from django.conf import settings
from pytest_django.fixtures import Settings

from deployments import asking, lifecycle
from deployments.asking import refresh_now
from deployments.models import Instance, Operation, PortClaim, Service, Tombstone
from deployments.phases import OperationState, Phase, Wanted
from infini.errors import Conflict, Invalid
from infini.models import Event
from inventory.models import Server
from tests.deployments.conftest import status_of, turn
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[..., Service]
LISTEN = "exec python3 -m http.server {port} --bind {host}"


def instance_of(service: Service) -> Instance:
    return Instance.objects.get(placement__service=service)


def test_a_deployed_service_runs_on_each_server_with_a_port_of_its_own(
    make_server: Callable[..., Server], make_service: Make
) -> None:
    servers = [make_server("a"), make_server("b")]
    service = make_service(LISTEN, *servers)

    operation = lifecycle.deploy(service, by=None)
    assert status_of(service) == "deploying"
    operation = turn(operation)

    assert (operation.state, status_of(service)) == (OperationState.DONE, "deployed")
    instances = Instance.objects.filter(placement__service=service)
    assert {i.port for i in instances} <= set(range(settings.PORT_RANGE_FIRST, settings.PORT_RANGE_LAST + 1))
    for instance in instances:
        assert instance.ready and is_running(instance.pid)
        with socket.create_connection(("127.0.0.1", instance.port), timeout=2):
            pass


def test_one_failing_server_shows_its_reason_and_never_turns_the_service_green(
    make_server: Callable[..., Server], make_service: Make
) -> None:
    good, down = make_server("good"), make_server("down", agent_port=1, agent_token="t")
    service = make_service("sleep 300", good, down)

    operation = turn(lifecycle.deploy(service, by=None))

    assert operation.state == OperationState.FAILED
    results = {r.server_name: r for r in operation.results.all()}
    assert (results["good"].state, results["down"].state) == ("done", "failed")
    assert results["down"].reason == "The agent on down cannot be reached at 127.0.0.1:1: Connection refused."
    assert status_of(service) == "offline"


def test_wrong_token_and_nonsense_are_told_apart(make_server: Callable[..., Server], make_service: Make) -> None:
    real = make_server("real")
    refused = make_server("refused", agent_port=real.agent_port, agent_token="wrong")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        liar = make_server("liar", agent_port=listener.getsockname()[1], agent_token="t")
        _answer_once(listener, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        operation = turn(lifecycle.deploy(make_service("sleep 300", refused, liar), by=None))

    reasons = {r.server_name: r.reason for r in operation.results.all()}
    assert "refuses our token" in reasons["refused"]
    assert "does not speak the agent's protocol" in reasons["liar"]


def test_a_slow_agent_is_lost_and_the_others_go_on(
    make_server: Callable[..., Server], make_service: Make, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.AGENT_TIMEOUT_SECONDS = 1.0
    monkeypatch.setattr(asking, "REFRESH_TIMEOUT_SECONDS", 1.0)
    good = make_server("good")
    with socket.create_server(("127.0.0.1", 0), backlog=20) as silent:
        slow = make_server("slow", agent_port=silent.getsockname()[1], agent_token="t")
        operation = turn(lifecycle.deploy(make_service("sleep 300", good, slow), by=None))

    results = {r.server_name: r for r in operation.results.all()}
    assert (results["good"].state, results["slow"].state) == ("done", "failed")
    assert results["slow"].reason == "The agent on slow did not answer within 1 s."
    assert Instance.objects.get(placement__server=slow).phase == Phase.LOST  # it may have been started


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    import threading

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("no-such-command-here", 127, "no-such-command-here"),
        ("echo last words; exit 3", 3, "last words"),
    ],
)
def test_an_end_at_once_is_failed_with_exit_code_and_log(
    server: Server, make_service: Make, command: str, code: int, line: str
) -> None:
    service = make_service(command, server)

    operation = turn(lifecycle.deploy(service, by=None))

    result = operation.results.get()
    assert (operation.state, result.state, result.exit_code) == ("failed", "failed", code)
    assert line in result.log_tail
    assert status_of(service) == "online"


def test_a_taken_port_fails_and_the_next_deployment_takes_another(server: Server, make_service: Make) -> None:
    first = settings.PORT_RANGE_FIRST
    with socket.create_server(("127.0.0.1", first)):
        service = make_service(LISTEN, server)
        operation = turn(lifecycle.deploy(service, by=None))
        result = operation.results.get()
        assert result.state == "failed" and result.exit_code == 1
        assert str(first) in result.reason and "in use" in result.log_tail

        turn(lifecycle.deploy(service, by=None))

    assert instance_of(service).port == first + 1
    assert status_of(service) == "deployed"


def test_two_services_never_share_a_port(server: Server, make_service: Make) -> None:
    make_service(LISTEN, server, name="first", port=settings.PORT_RANGE_FIRST + 50)
    lifecycle.deploy(Service.objects.get(name="first"), by=None)
    second = make_service(LISTEN, server, name="second", port=settings.PORT_RANGE_FIRST + 50)

    with pytest.raises(Conflict, match="belongs to the service first"):
        lifecycle.deploy(second, by=None)

    assert not Operation.objects.filter(service=second).exists()
    assert PortClaim.objects.count() == 1


def test_deploying_while_deploying_is_refused_and_stop_supersedes(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    first = lifecycle.deploy(service, by=None)

    with pytest.raises(Conflict, match="busy"):
        lifecycle.deploy(service, by=None)
    stopping = lifecycle.stop(service, by=None)

    first.refresh_from_db()
    assert first.state == OperationState.CANCELLED
    assert turn(stopping).state == OperationState.DONE
    assert status_of(service) == "online"


def test_stop_ends_the_process_and_frees_the_port(server: Server, make_service: Make) -> None:
    service = make_service(LISTEN, server)
    turn(lifecycle.deploy(service, by=None))
    pid = instance_of(service).pid

    turn(lifecycle.stop(service, by=None))

    assert not is_running(pid)
    assert instance_of(service).phase == Phase.STOPPED
    assert not PortClaim.objects.exists()


def test_restart_is_a_new_process_of_the_same_revision(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    before = instance_of(service)

    turn(lifecycle.restart(service, by=None))

    after = instance_of(service)
    assert after.pid != before.pid and is_running(after.pid) and not is_running(before.pid)
    assert after.revision_id == before.revision_id


def test_restart_of_what_never_ran_is_refused(server: Server, make_service: Make) -> None:
    with pytest.raises(Conflict, match="deploy it first"):
        lifecycle.restart(make_service("sleep 300", server), by=None)


def test_deploy_needs_a_command_and_a_server(server: Server, make_service: Make) -> None:
    with pytest.raises(Invalid, match="no deploy command"):
        lifecycle.deploy(make_service("", server, name="empty"), by=None)
    with pytest.raises(Invalid, match="on no server"):
        lifecycle.deploy(make_service("sleep 1", name="nowhere"), by=None)


def test_delete_stops_first_and_leaves_its_event(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    pid = instance_of(service).pid

    turn(lifecycle.delete(service, by=None))

    assert not is_running(pid)
    assert not Service.objects.exists() and not Instance.objects.exists()
    assert server.agent.request("GET", "/services")[1] == {"services": []}
    assert Event.objects.filter(kind="service.deleted", subject_name="svc").exists()


def test_delete_of_what_never_ran_is_immediate(server: Server, make_service: Make) -> None:
    assert lifecycle.delete(make_service("sleep 1", server), by=None) is None
    assert not Service.objects.exists()


def test_delete_on_a_silent_server_needs_force_and_leaves_a_tombstone(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    instance = instance_of(service)
    server.agent.kill9()
    Server.objects.update(agent_seen_at="2026-01-01T00:00:00Z")

    with pytest.raises(Conflict, match="one cannot be reached"):
        lifecycle.delete(service, by=None)
    turn(lifecycle.delete(service, by=None, force=True))

    assert not Service.objects.exists()
    assert Tombstone.objects.get().key == instance.key
    assert is_running(instance.pid)

    from deployments import graves

    server.agent.start()
    graves.end_buried([server.pk])
    wait_until(lambda: not is_running(instance.pid), 8)
    assert not Tombstone.objects.exists()


def test_a_server_taken_away_ends_with_the_next_deployment(
    make_server: Callable[..., Server], make_service: Make
) -> None:
    from deployments.specs import change_service

    stays, leaves = make_server("stays"), make_server("leaves")
    service = make_service("sleep 300", stays, leaves)
    turn(lifecycle.deploy(service, by=None))
    leaving = Instance.objects.get(placement__server=leaves)

    change_service(service, [], servers=[stays], spec={}, by=None)
    assert is_running(leaving.pid)
    turn(lifecycle.deploy(service, by=None))

    assert not is_running(leaving.pid)
    assert [i.placement.server for i in Instance.objects.all()] == [stays]
    assert list(service.placements.values_list("server__name", flat=True)) == ["stays"]


def test_environment_and_placeholders_reach_the_process(server: Server, make_service: Make) -> None:
    service = make_service(
        "echo port={port} host={host} service={service} keep={other} ${PLAIN} ${SECRET} ${PATH:+path}; sleep 300",
        server,
        name="a b",
        env={"PLAIN": "pl"},
        secret_env={"SECRET": "canary-5417"},
        port=settings.PORT_RANGE_FIRST + 77,
        probes={"type": "none"},
    )

    turn(lifecycle.deploy(service, by=None))

    tail = Operation.objects.get().results.get().log_tail
    assert (
        f"port={settings.PORT_RANGE_FIRST + 77} host=127.0.0.1 service=a b keep={{other}} pl canary-5417 path" in tail
    )
    assert "canary-5417" not in str(list(Event.objects.values_list("data", flat=True)))


def test_what_was_shell_quoted_stays_one_word(server: Server, make_service: Make) -> None:
    marker = f"/tmp/infini-quoting-{os.getpid()}"
    service = make_service(f"touch {{service}}; test ! -e {marker} && sleep 300", server, name=f"x; touch {marker}")
    Service.objects.update(wanted=Wanted.STOPPED)

    turn(lifecycle.deploy(service, by=None))

    assert not os.path.exists(marker)
    assert status_of(service) == "deployed"


def test_a_process_that_dies_is_started_again_where_asked_for(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server, restart="on-failure")
    turn(lifecycle.deploy(service, by=None))
    before = instance_of(service)
    os.kill(before.pid, signal.SIGKILL)

    def again() -> bool:
        refresh_now()
        return instance_of(service).ready and instance_of(service).pid != before.pid

    wait_until(again, 15)
    assert instance_of(service).restarts == 1
    assert status_of(service) == "deployed"


def test_what_the_agent_refuses_is_said_with_what_it_wants(server: Server, make_service: Make) -> None:
    operation = turn(lifecycle.deploy(make_service("sleep 300", server, cwd="/not/there"), by=None))
    told = "cwd: Give the absolute path of a directory that exists on this server."
    assert (operation.state, operation.results.get().reason) == ("failed", told)


def test_what_keeps_failing_ends_its_operation_while_the_agent_goes_on(server: Server, make_service: Make) -> None:
    service = make_service("echo no; exit 3", server, restart="on-failure")
    operation = turn(lifecycle.deploy(service, by=None), 40)
    result = operation.results.get()
    assert (operation.state, result.reason) == ("failed", "It keeps failing. Exited with code 3.")
    assert "no" in result.log_tail
    turn(lifecycle.stop(service, by=None))
    assert instance_of(service).phase == Phase.STOPPED
