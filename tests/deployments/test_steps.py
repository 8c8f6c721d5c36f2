"""Steps run twice, die half-way, or come late, and do no harm."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.conf import settings
from django.utils import timezone
from django_q.models import OrmQ

from deployments import lifecycle, queueing, stalls, steps
from deployments.asking import refresh_now
from deployments.models import Instance, Operation, Service
from infini.models import Lease
from inventory.models import Server
from tests.deployments.conftest import fall_silent, status_of, turn

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]


def test_a_step_done_twice_starts_nothing_twice(server: Server, make_service: Make) -> None:
    operation = lifecycle.deploy(make_service("sleep 300", server), by=None)
    steps.advance(operation.pk)
    pid = Instance.objects.get().pid
    Instance.objects.update(acked_generation=0)  # as if the worker had died before it wrote the answer down

    turn(operation)

    assert Instance.objects.get().pid == pid
    assert status_of(Service.objects.get()) == "deployed"


def test_a_held_operation_is_left_alone_until_its_lease_runs_out(server: Server, make_service: Make) -> None:
    operation = lifecycle.deploy(make_service("sleep 300", server), by=None)
    now = timezone.now()
    Operation.objects.update(leased_until=now + timedelta(seconds=30))
    steps.advance(operation.pk)
    assert Instance.objects.get().acked_generation == 0

    Operation.objects.update(leased_until=now - timedelta(seconds=1))
    steps.advance(operation.pk)
    assert Instance.objects.get().acked_generation == 1


def test_a_lost_step_is_queued_again_and_a_waiting_one_is_not(server: Server, make_service: Make) -> None:
    operation = lifecycle.deploy(make_service("sleep 300", server), by=None)
    assert OrmQ.objects.count() == 1
    assert queueing.queue_due_steps() == 0

    OrmQ.objects.all().delete()
    Operation.objects.update(queued_at=timezone.now() - timedelta(seconds=6))
    assert queueing.queue_due_steps() == 1
    assert OrmQ.objects.count() == 1

    turn(operation)
    Operation.objects.update(queued_at=None)
    assert queueing.queue_due_steps() == 0


def test_past_its_deadline_an_operation_fails_and_is_not_left_open(server: Server, make_service: Make) -> None:
    service = make_service(
        "sleep 300", server, port=settings.PORT_RANGE_FIRST + 99
    )  # never listens, so it is never ready
    operation = lifecycle.deploy(service, by=None)
    steps.advance(operation.pk)
    Operation.objects.update(deadline_at=timezone.now())

    operation = turn(operation)

    assert operation.state == "failed" and "Not done within" in operation.reason
    assert status_of(service) == "online"


def test_an_agent_that_restarts_costs_no_click_and_a_silent_one_is_said(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    refresh_now()
    server.agent.kill9()

    stop = lifecycle.stop(service, by=None)
    steps.advance(stop.pk)
    stop.refresh_from_db()
    assert stop.is_open and "cannot be reached" in stop.results.get().reason
    assert status_of(service) == "deploying"
    server.agent.start()
    assert turn(stop).state == "done" and stop.results.get().reason == "Stopped on request."

    fall_silent(server)
    deploy = lifecycle.deploy(service, by=None)
    steps.advance(deploy.pk)
    deploy.refresh_from_db()
    assert deploy.state == "failed" and "cannot be reached" in deploy.reason


def test_a_server_without_a_token_says_what_is_missing(make_server: Callable[..., Server], make_service: Make) -> None:
    bare = make_server("bare", agent_port=8888)
    operation = turn(lifecycle.deploy(make_service("sleep 300", bare), by=None))
    assert "bare has no agent token" in operation.reason


def test_a_worker_stalls_when_due_work_waits_and_nobody_steps(server: Server, make_service: Make) -> None:
    lifecycle.deploy(make_service("sleep 300", server), by=None)
    assert not stalls.worker_stalled()
    Operation.objects.update(step_due_at=timezone.now() - timedelta(seconds=61))
    assert stalls.worker_stalled()
    Operation.objects.update(stepped_at=timezone.now())
    assert not stalls.worker_stalled()


def test_a_monitor_stalls_when_its_lease_ran_out(db: None) -> None:
    assert not stalls.monitor_stalled()
    assert Lease.take("monitor", "a", seconds=5)
    assert not stalls.monitor_stalled()
    Lease.objects.update(expires_at=timezone.now() - timedelta(seconds=31))
    assert stalls.monitor_stalled()


def test_only_one_holder_has_a_lease_at_a_time(db: None) -> None:
    assert Lease.take("monitor", "a", seconds=60)
    assert not Lease.take("monitor", "b", seconds=60)
    assert Lease.take("monitor", "a", seconds=60)
    Lease.objects.update(expires_at=timezone.now())
    assert Lease.take("monitor", "b", seconds=60)
    assert Lease.objects.get().fence == 2
