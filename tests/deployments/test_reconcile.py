"""What the site does by itself: never on silence, once per difference, and not against a person."""

import shutil
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from deployments import lifecycle
from deployments.asking import refresh_now
from deployments.models import Instance, Operation, Service
from deployments.phases import OperationKind, OperationState
from deployments.reconcile import braked, reconcile
from infini.models import User
from inventory.models import Server
from tests.deployments.conftest import fall_silent, status_of, turn
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]


def forget_everything(server: Server) -> None:
    """What a server looks like after its disk was replaced: the agent is there and knows nothing."""
    agent = server.agent
    for instance in agent.request("GET", "/services")[1]["services"]:
        agent.request("POST", f"/service/{instance['id']}/stop")
    agent.kill9()
    shutil.rmtree(agent.state_dir / "instances")
    agent.start()


def open_operation() -> Operation:
    return Operation.objects.get(state__in=["queued", "running"])


def test_what_a_fresh_report_lacks_is_sent_again(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    before = Instance.objects.get()
    forget_everything(server)

    refresh_now()
    assert reconcile([server.pk]) == 1
    operation = turn(open_operation())

    after = Instance.objects.get()
    assert (operation.kind, operation.state) == (OperationKind.RECONCILE, OperationState.DONE)
    assert after.pid != before.pid and is_running(after.pid)
    assert (after.generation, status_of(service)) == (before.generation, "deployed")
    assert reconcile([server.pk]) == 0


def test_a_deployment_that_never_reached_its_server_is_made_when_the_server_is_back(
    server: Server, make_service: Make
) -> None:
    server.agent.kill9()
    service = make_service("sleep 300", server)
    assert turn(lifecycle.deploy(service, by=None)).state == OperationState.FAILED
    assert (reconcile([server.pk]), status_of(service)) == (0, "offline")  # silence is no reason

    server.agent.start()
    refresh_now()
    reconcile([server.pk])
    turn(open_operation())

    assert status_of(service) == "deployed"


def test_a_stop_that_never_reached_its_server_is_made_when_the_server_is_back(
    server: Server, make_service: Make
) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    pid = Instance.objects.get().pid
    fall_silent(server)
    assert turn(lifecycle.stop(service, by=None)).state == OperationState.FAILED
    assert is_running(pid)

    server.agent.start()
    refresh_now()
    assert reconcile([server.pk]) == 1
    turn(open_operation())

    wait_until(lambda: not is_running(pid))


def test_what_the_agent_refused_is_not_tried_again_without_a_person(server: Server, make_service: Make) -> None:
    turn(lifecycle.deploy(make_service("sleep 300", server, run_as="no-such-account"), by=None))
    assert "no such account" in Instance.objects.get().reason or Instance.objects.get().reason
    refresh_now()
    assert reconcile([server.pk]) == 0


def test_a_process_that_failed_is_not_started_again(server: Server, make_service: Make) -> None:
    turn(lifecycle.deploy(make_service("exit 4", server), by=None))
    refresh_now()
    assert reconcile([server.pk]) == 0


def test_a_server_in_maintenance_is_left_alone(server: Server, make_service: Make) -> None:
    turn(lifecycle.deploy(make_service("sleep 300", server), by=None))
    forget_everything(server)
    Server.objects.update(maintenance=True)
    refresh_now()
    assert reconcile([server.pk]) == 0


def test_what_is_unknown_to_us_is_left_alone(server: Server) -> None:
    stranger = server.agent.deploy("stranger", "sleep 300")
    refresh_now()
    assert reconcile([server.pk]) == 0
    assert is_running(stranger["pid"])


def test_after_a_database_restore_nothing_is_killed(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    turn(lifecycle.stop(service, by=None))
    saved = Instance.objects.values().get()
    turn(lifecycle.deploy(service, by=None))
    pid = Instance.objects.get().pid
    Instance.objects.update(**{k: v for k, v in saved.items() if k != "id"})  # the database of an hour ago

    refresh_now()
    assert reconcile([server.pk]) == 0
    assert is_running(pid) and Instance.objects.get().pid == pid


def test_a_person_comes_before_the_site(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    forget_everything(server)
    refresh_now()
    reconcile([server.pk])
    by_itself = open_operation()

    turn(lifecycle.deploy(service, by=None))

    by_itself.refresh_from_db()
    assert by_itself.state == OperationState.CANCELLED
    assert status_of(service) == "deployed"


def test_when_many_servers_vanish_together_automatic_action_pauses(
    server: Server, make_service: Make, viewer: User, client: Client
) -> None:
    turn(lifecycle.deploy(make_service("sleep 300", server), by=None))
    forget_everything(server)
    refresh_now()
    gone = timezone.now() - timedelta(minutes=2)
    for number in range(3):
        Server.objects.create(name=f"gone-{number}", host_ip="h", agent_token="t", agent_seen_at=gone)

    assert "3 of 4 servers fell silent" in braked()
    assert reconcile([server.pk]) == 0
    client.force_login(viewer)
    assert "3 of 4 servers fell silent" in client.get("/admin/").content.decode()

    Server.objects.filter(name="gone-0").update(agent_seen_at=timezone.now())
    assert not braked()
    assert reconcile([server.pk]) == 1


def test_what_is_to_be_gone_and_has_ended_is_forgotten_and_a_refusal_not_asked_again_at_once(
    server: Server, make_service: Make
) -> None:
    turn(lifecycle.deploy(make_service("sleep 300", server), by=None))
    instance = Instance.objects.get()
    server.agent.request("POST", f"/service/{instance.key}/stop", {})
    Instance.objects.update(wanted="gone", phase="stopped", ready=False, pid=None)

    assert reconcile([server.pk]) == 1
    Operation.objects.filter(kind=OperationKind.RECONCILE).update(
        state=OperationState.FAILED, finished_at=timezone.now()
    )
    assert reconcile([server.pk]) == 0
    Operation.objects.update(finished_at=timezone.now() - timedelta(minutes=2))
    assert reconcile([server.pk]) == 1
    turn(open_operation())
    assert not Instance.objects.exists() and not server.agent.request("GET", "/services")[1]["services"]
