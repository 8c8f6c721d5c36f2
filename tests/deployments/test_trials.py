"""A revision is good once all was ready for a time without a break; what fails before then goes back."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import lifecycle, trials
from deployments.asking import refresh_now
from deployments.models import Instance, Operation, Service, Trial
from deployments.specs import change_service
from infini.errors import Conflict
from infini.models import Alert, Event
from inventory.models import Server
from tests.deployments.conftest import fall_silent, status_of, turn
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]
STABLE = 60.0


@pytest.fixture(autouse=True)
def stable(settings: Any) -> None:
    settings.STABLE_SECONDS = STABLE


def deploy(service: Service, command: str = "") -> Operation:
    service.refresh_from_db()
    if command:
        change_service(service, [], servers=None, spec={"command": command}, by=None)
    return turn(lifecycle.deploy(service, by=None))


def let_pass(seconds: float) -> None:
    """As if the trials had begun so long ago."""
    for trial in Trial.objects.all():
        trial.began_at -= timedelta(seconds=seconds)
        trial.ready_since = trial.ready_since and trial.ready_since - timedelta(seconds=seconds)
        trial.save()


def outcomes(service: Service) -> dict[int, str]:
    return dict(service.revisions.values_list("number", "outcome"))


def kill(instance: Instance) -> None:
    os.kill(instance.pid, signal.SIGKILL)  # type: ignore[arg-type]
    wait_until(lambda: refresh_now() or Instance.objects.get(pk=instance.pk).pid != instance.pid)


def test_it_is_done_at_once_and_good_after_the_stable_time(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    operation = deploy(service)
    assert (operation.state, status_of(service), outcomes(service)) == ("done", "deployed", {1: ""})

    let_pass(STABLE - 5)
    assert trials.judge() == 0
    let_pass(5)
    assert trials.judge() == 1

    service.refresh_from_db()
    assert outcomes(service) == {1: "good"} and service.good_revision.number == 1
    assert Event.objects.filter(kind="service.revision_good", data__revision=1).count() == 1
    assert trials.judge() == 0


def test_a_rolling_update_that_fails_within_the_time_goes_back(make_server: Callable, make_service: Make) -> None:
    service = make_service("sleep 300 # one", make_server("a"), make_server("b"))
    Service.objects.update(max_unavailable=1)
    deploy(service)
    let_pass(STABLE)
    trials.judge()
    operation = deploy(service, "sleep 300 # two")
    assert (operation.state, outcomes(service)) == ("done", {1: "good", 2: ""})

    kill(Instance.objects.filter(placement__server__name="b").get())
    assert trials.judge() == 1
    assert status_of(service) == "deploying"
    turn(Operation.objects.get(kind="roll_back"))

    operation.refresh_from_db()
    assert operation.state == "returned"
    assert operation.reason.startswith("r2 failed, r1 is deployed again. It failed ")
    assert "b: Killed by SIGKILL" in operation.reason or "137" in operation.reason
    assert outcomes(service) == {1: "good", 2: "bad"} and status_of(service) == "deployed"
    running = Instance.objects.select_related("revision")
    assert [(i.revision.number, is_running(i.pid)) for i in running] == [(1, True)] * 2
    assert Alert.objects.get(kind="rolled_back").state == "open"
    assert Trial.objects.get().revision.number == 1  # what was gone back to is watched too, and never goes back again


def test_what_the_agent_started_again_has_failed_as_well(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server, restart="always")
    operation = deploy(service)
    kill(Instance.objects.get())
    wait_until(lambda: refresh_now() or Instance.objects.get().ready)
    assert trials.judge() == 1
    operation.refresh_from_db()
    assert (operation.state, outcomes(service)) == ("failed", {1: "bad"})
    assert not Operation.objects.exclude(pk=operation.pk).exists()  # all at once: nothing goes back by itself


def test_silence_is_no_verdict_and_stops_the_clock(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    deploy(service)
    Instance.objects.update(phase="lost", ready=False)
    let_pass(20 * STABLE)
    assert trials.judge() == 0 and outcomes(service) == {1: ""}
    Instance.objects.update(phase="running", ready=True)
    assert trials.judge() == 0
    assert timezone.now() - Trial.objects.get().ready_since < timedelta(seconds=5)  # type: ignore[operator]


def test_a_probe_that_fails_begins_the_time_anew_and_one_that_never_passes_fails(
    server: Server, make_service: Make
) -> None:
    service = make_service("sleep 300", server)
    deploy(service)
    Instance.objects.update(ready=False)
    let_pass(STABLE)
    assert trials.judge() == 0 and Trial.objects.get().ready_since is None
    let_pass(trials.PATIENCE * STABLE)
    assert trials.judge() == 1 and outcomes(service) == {1: "bad"}


def test_a_restart_asked_for_is_no_failure(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    deploy(service)
    turn(lifecycle.restart(service, by=None))
    assert trials.judge() == 0
    let_pass(STABLE)
    assert trials.judge() == 1 and outcomes(service) == {1: "good"}


@pytest.mark.parametrize("verb", [lifecycle.stop, lifecycle.delete])
def test_what_is_stopped_or_deleted_gets_no_verdict(server: Server, make_service: Make, verb: Callable) -> None:
    service = make_service("sleep 300", server)
    deploy(service)
    turn(verb(service, by=None))
    let_pass(STABLE)
    trials.judge()
    assert not Trial.objects.exists() and not Service.objects.filter(good_revision__isnull=False).exists()


def test_a_deployment_that_fails_is_bad_and_an_unreached_server_is_no_verdict(
    server: Server, make_service: Make
) -> None:
    service = make_service("exit 3", server)
    deploy(service)
    assert outcomes(service) == {1: "bad"} and "code 3" in service.revisions.get().outcome_reason
    fall_silent(server)
    deploy(service, "sleep 300")
    assert outcomes(service)[2] == ""


def test_rolling_back_finds_the_last_good_one_also_when_the_present_is_good(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300 # one", server)
    with pytest.raises(Conflict):
        lifecycle.roll_back(service, by=None)
    for command in ("", "sleep 300 # two"):
        deploy(service, command)
        let_pass(STABLE)
        trials.judge()
    deploy(service, "exit 1")
    assert outcomes(service) == {1: "good", 2: "good", 3: "bad"}
    assert turn(lifecycle.roll_back(service, by=None)).revision.number == 2
    let_pass(STABLE)
    trials.judge()
    assert turn(lifecycle.roll_back(service, by=None)).revision.number == 1


def test_judging_asks_the_database_the_same_for_many(server: Server, make_service: Make) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            trials.judge()
        return len(captured)

    assert queries() == 1
    deploy(make_service("sleep 300", server, name="first"))
    one = queries()
    for name in ("second", "third"):
        deploy(make_service("sleep 300", server, name=name))
    assert queries() == one == 3
