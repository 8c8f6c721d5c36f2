"""What is kept of runs, and of what a command prints."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from scheduler import retention, runs
from scheduler.models import Run, RunResult, Task
from scheduler.output import KeptOutput
from scheduler.states import RunState, Trigger


@pytest.fixture
def ended(db: None, make_task: Callable[..., Task]) -> Callable[..., list[Run]]:
    """So many ended runs of a task, each a day older than the next."""

    def make(name: str, count: int) -> list[Run]:
        task, now, made = make_task(name), timezone.now(), []
        for age in range(count, 0, -1):
            run = runs.snapshot(task, trigger=Trigger.PERSON)
            run.state, run.finished_at = RunState.SUCCESS, now - timedelta(days=age - 0.5)
            run.save()
            RunResult.objects.create(run=run, server_name="a")
            made.append(run)
        return made

    return make


def test_runs_go_by_age_and_their_results_with_them(settings: Any, ended: Callable[..., list[Run]]) -> None:
    settings.RUN_KEEP_DAYS = 3
    ended("backup", 8)
    assert retention.prune() == 5
    assert Run.objects.count() == RunResult.objects.count() == 3
    assert retention.prune() == 0


def test_runs_go_by_number_for_each_task_and_open_ones_stay(settings: Any, ended: Callable[..., list[Run]]) -> None:
    settings.RUN_KEEP_COUNT = 4
    busy, quiet = ended("busy", 7), ended("quiet", 3)
    Run.objects.filter(pk=busy[0].pk).update(state=RunState.RUNNING, finished_at=None)
    assert retention.prune() == 2
    kept = set(Run.objects.values_list("pk", flat=True))
    assert kept == {run.pk for run in [busy[0], *busy[3:], *quiet]}


def test_a_long_line_of_waiting_runs_keeps_no_other_task_from_being_pruned(
    settings: Any, ended: Callable[..., list[Run]]
) -> None:
    settings.RUN_KEEP_COUNT = 4
    waiting, busy = ended("waiting", 9), ended("busy", 7)
    Run.objects.filter(task=waiting[0].task).update(state=RunState.QUEUED, finished_at=None)
    assert retention.prune() == 3
    assert set(Run.objects.values_list("pk", flat=True)) == {run.pk for run in [*waiting, *busy[3:]]}


def test_a_little_at_a_time(settings: Any, ended: Callable[..., list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    settings.RUN_KEEP_DAYS = 1
    monkeypatch.setattr(retention, "BATCH", 2)
    ended("backup", 8)
    assert retention.prune(most_seconds=0) == 2
    assert retention.prune() == 5 and Run.objects.count() == 1


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 5000])
def test_head_and_tail_are_kept_whatever_the_pieces(size: int) -> None:
    kept, whole = KeptOutput(1000), b"".join(b"line %d\n" % n for n in range(2000))
    for begin in range(0, len(whole), size):
        kept.add(whole[begin : begin + size])
    printed = kept.printed()
    head, _middle, tail = printed.text.partition("[… 17,890 bytes left out …]")
    assert (head[:-1], tail[1:]) == (whole[:500].decode(), whole[-500:].decode())
    assert printed.cut_bytes == len(whole) - 1000 and printed.raw is None and kept.total_bytes == len(whole)


def test_a_cut_through_a_character_leaves_it_out() -> None:
    kept = KeptOutput(10)
    kept.add("你好你好你好".encode())
    text = kept.printed().text
    assert text.startswith("你\n") and text.endswith("\n好") and "�" not in text


def test_equal_digests_mean_equal_output_also_where_it_was_cut() -> None:
    def digest(text: bytes) -> str:
        kept = KeptOutput(10)
        kept.add(text)
        return kept.digest()

    assert digest(b"x" * 100) == digest(b"x" * 100) != digest(b"x" * 50 + b"y" + b"x" * 49)
    assert digest(b"") == ""
