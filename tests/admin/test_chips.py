"""Chips: each state's word, and a tooltip that says since when, how far or why."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deployments.models import Instance, Operation, OperationResult, Service
from deployments.phases import OperationState, Phase
from deployments.shown import instance_chip, operation_chip, service_chip, with_progress, with_silent_server
from deployments.shown import with_standing as with_rank
from infini.display import Bar, Source, clock
from inventory.models import Server
from scheduler.models import Run, RunResult
from scheduler.shown import run_chip
from scheduler.states import ResultState, RunState
from tests.admin.conftest import run_instances

pytestmark = pytest.mark.django_db

NOW = timezone.now()


def an_instance(service: Service, **columns: Any) -> Instance:
    Instance.objects.filter(placement__service=service).update(**columns)
    return Instance.objects.select_related("placement__server", "revision").get()


@pytest.mark.parametrize(
    ("columns", "word", "title"),
    [
        ({"phase": Phase.FAILED, "exit_code": 1, "observed_at": NOW}, "Failed", f"Exit 1 at {clock(NOW)}"),
        ({"phase": Phase.SUCCEEDED, "exit_code": 0, "observed_at": NOW}, "Succeeded", f"Exit 0 at {clock(NOW)}"),
        ({"phase": Phase.FAILED, "reason": "No such account."}, "Failed", "No such account."),
        ({"phase": Phase.RUNNING, "reason": "It answers 503."}, "Not ready", "It answers 503."),
        ({"phase": Phase.RUNNING, "ready": True}, "Ready", "Takes requests"),
        ({"phase": Phase.STOPPED}, "Stopped", "As wanted"),
    ],
)
def test_instances(columns: dict[str, Any], word: str, title: str, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service, ready=False)
    chip = instance_chip(an_instance(service, **columns))
    assert (chip.word, chip.title) == (word, title)


def test_a_starting_instance_says_how_long_it_may(make_service: Callable[..., Service]) -> None:
    service = make_service(probes={"type": "tcp", "startup_seconds": 900})
    run_instances(service, Phase.STARTING, ready=False)
    for since, title in ((170, "; 12 min left"), (870, " s left"), (1000, ", and its time is over")):
        instance = an_instance(service, started_at=timezone.now() - timedelta(seconds=since))
        assert instance_chip(instance).title.endswith(title)
    without_revision = Instance.objects.get()
    assert instance_chip(without_revision).title == "Its probe has not passed yet"


def test_a_lost_instance_and_its_service_name_the_silence(make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service, Phase.LOST, ready=False, reason="Not heard from.")
    seen = timezone.now() - timedelta(minutes=20)
    Server.objects.update(agent_seen_at=seen)
    assert instance_chip(an_instance(service)).title.startswith(f"Silent since {clock(seen)}; it may still run")
    assert instance_chip(Instance.objects.get()).title == "Not heard from."
    known: Any = Service.objects.with_status()
    assert service_chip(with_silent_server(with_rank(known)).get()).title == f"one is silent since {clock(seen)}"
    assert service_chip(with_rank(known).get()).title == "A server it runs on does not answer"


@pytest.mark.parametrize(
    ("state", "reason", "title"),
    [
        (OperationState.QUEUED, "", "Waits for a worker"),
        (OperationState.RUNNING, "", "1 of 3 done"),
        (OperationState.DONE, "", f"All 3, at {clock(NOW)}"),
        (OperationState.FAILED, "one: exit 1.", "1 of 3 failed. one: exit 1."),
        (OperationState.RETURNED, "r2 was not ready in time.", "r2 was not ready in time."),
        (OperationState.CANCELLED, "Superseded by Stop #4.", f"At {clock(NOW)}. Superseded by Stop #4."),
    ],
)
def test_operations(
    state: str, reason: str, title: str, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    run_instances(make_service("svc", *(make_server(name) for name in ("one", "two", "three"))))
    first, second, _third = OperationResult.objects.order_by("pk")
    for result, outcome in ((first, "done"), (second, "failed"), (_third, "waiting")):
        OperationResult.objects.filter(pk=result.pk).update(state=outcome)
    Operation.objects.update(state=state, reason=reason, finished_at=NOW)
    assert operation_chip(with_progress(Operation.objects.all()).get()).title == title


@pytest.mark.parametrize(
    ("state", "reason", "title"),
    [
        (RunState.QUEUED, "", "Waits for a worker"),
        (RunState.RUNNING, "", "1 of 2 done"),
        (RunState.FAILED, "", "1 of 2 failed."),
        (RunState.TIMED_OUT, "The run's time of 60 s is over.", "1 of 2 failed. The run's time of 60 s is over."),
        (RunState.MISSED, "The rule is to skip.", f"Due {clock(NOW)}. The rule is to skip."),
        (RunState.SKIPPED, "The one before still ran.", f"Due {clock(NOW)}. The one before still ran."),
        (RunState.CANCELLED, "Cancelled by li.", f"At {clock(NOW)}. Cancelled by li."),
    ],
)
def test_runs(state: str, reason: str, title: str) -> None:
    run = Run.objects.create(name="x", command="x", state=state, reason=reason, fire_at=NOW, finished_at=NOW)
    for number, outcome in enumerate((ResultState.SUCCESS, ResultState.FAILED)):
        RunResult.objects.create(run=run, server_name=str(number), state=outcome)
    assert run_chip(Run.objects.with_counts().get()).title == title


def test_stale_figures_are_dated() -> None:
    at = timezone.now() - timedelta(hours=1)
    dated = f"as of {timezone.localtime(at):%Y-%m-%d %H:%M:%S}"
    bar = str(Bar("CPU", 40, stale=True, as_of=at))
    assert "is-stale" in bar and f'title="CPU, {dated}"' in bar and f'aria-label="CPU, {dated}"' in bar
    source = str(Source("agent", at, stale=True))
    assert f"agent, {dated}" in source and ">schedule<" in source
    assert "agent, <time" in str(Source("agent", at)) and "schedule" not in str(Source("agent", at))
    assert str(Source("no agent has reported")) == '<span class="source">no agent has reported</span>'
