"""What fires, what is missed and said to be, and that nothing fires twice, whoever asks and whatever the clock does."""

import threading
from collections.abc import Callable
from datetime import time, timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from infini.models import Alert, AlertKind, AlertState
from inventory.models import Server
from scheduler import firing, planning, rounding, runs
from scheduler.models import Run, Task
from scheduler.states import OPEN_RUNS, RunState
from tests.scheduler.conftest import Clock

pytestmark = pytest.mark.django_db

MakeTask = Callable[..., Task]


def story(task: Task) -> list[tuple[str, str]]:
    """Each run as (time due, state), oldest first."""
    rows = Run.objects.filter(task=task).order_by("fire_at")
    return [(f"{run.fire_at:%m-%d %H:%M:%S}" if run.fire_at else "", run.state) for run in rows]


def end_runs(state: str = RunState.SUCCESS) -> None:
    Run.objects.open().update(state=state, finished_at=timezone.now())


def test_a_due_task_fires_once_and_moves_on(clock: Clock, make_task: MakeTask) -> None:
    task = make_task()
    assert firing.fire_due() == 15 * 3600
    assert not Run.objects.exists()
    clock.set("2026-06-02T03:00:00.4")
    for _round in range(3):
        assert firing.fire_due() == pytest.approx(86400 - 0.4)
    assert story(task) == [("06-02 03:00:00", "queued")]
    run = Run.objects.get()
    assert [r.state for r in run.results.all()] == ["waiting"]
    assert (run.command, run.trigger, run.policy["width"]) == ("true", "schedule", 50)


def test_it_wakes_a_host_once_the_rows_are_there(clock: Clock, make_task: MakeTask) -> None:
    make_task()
    clock.set("2026-06-02T03:00")
    with transaction.atomic():
        firing.fire_due()
        assert not OrmQ.objects.exists()
        transaction.set_rollback(True)


@pytest.mark.django_db(transaction=True)
def test_two_monitors_racing_fire_each_time_once(make_task: MakeTask) -> None:
    tasks = [make_task(f"t{n}", schedule_type="interval", interval_seconds=3600) for n in range(20)]
    due = timezone.now() - timedelta(seconds=1)
    Task.objects.update(next_run_at=due)
    begin = threading.Barrier(4)
    failed: list[BaseException] = []

    def monitor() -> None:
        try:
            begin.wait(10)
            for _round in range(3):
                firing.fire_due()
        except BaseException as error:  # noqa: BLE001  (handed to the test)
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=monitor) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert Run.objects.count() == 20 and {run.task_id for run in Run.objects.all()} == {t.pk for t in tasks}
    assert all(task.next_run_at and task.next_run_at > timezone.now() for task in Task.objects.all())
    assert {message.key for message in OrmQ.objects.all()} == {"runs"}


def test_a_restart_after_the_rows_were_written_fires_nothing_again(clock: Clock, make_task: MakeTask) -> None:
    """As if the monitor died right before it moved the task on: the row decides."""
    task = make_task()
    clock.set("2026-06-02T03:00:01")
    firing.fire_due()
    Task.objects.filter(pk=task.pk).update(next_run_at="2026-06-02T03:00:00Z")
    firing.fire_due()
    assert story(task) == [("06-02 03:00:00", "queued")]
    task.refresh_from_db()
    assert task.next_run_at and task.next_run_at.day == 3


# Outages


def outage(clock: Clock, make_task: MakeTask, **rule: object) -> Task:
    """Hourly; nothing ran from 12:00 until 17:20."""
    task = make_task(schedule_type="interval", interval_seconds=3600, **rule)
    clock.set("2026-06-01T17:20")
    firing.fire_due()
    return task


def test_an_outage_skipped(clock: Clock, make_task: MakeTask) -> None:
    task = outage(clock, make_task, misfire="skip")
    assert story(task) == [(f"06-01 {hour}:00:00", "missed") for hour in (13, 14, 15, 16, 17)]
    assert "the rule is to skip" in Run.objects.first().reason  # type: ignore[union-attr]
    alert = Alert.objects.get()
    assert (alert.kind, alert.subject_name) == (AlertKind.TASK_MISSED, "backup")
    assert "was due 2026-06-01 17:00:00 UTC and did not run" in alert.message
    clock.set("2026-06-01T18:00:01")
    firing.fire_due()
    assert story(task)[-1] == ("06-01 18:00:00", "queued")
    assert Alert.objects.get().state == AlertState.RECOVERED


def test_an_outage_made_up_for_once(clock: Clock, make_task: MakeTask) -> None:
    task = outage(clock, make_task, misfire="once")
    assert story(task) == [(f"06-01 {hour}:00:00", "missed") for hour in (13, 14, 15, 16)] + [
        ("06-01 17:00:00", "queued")
    ]
    assert not Alert.objects.exists()


def test_an_outage_longer_than_the_greatest_lateness(clock: Clock, make_task: MakeTask) -> None:
    task = outage(clock, make_task, misfire="once", late_most_seconds=600)
    assert {state for _at, state in story(task)} == {"missed"}
    assert Alert.objects.filter(kind=AlertKind.TASK_MISSED).count() == 1


def test_an_outage_caught_up_with(clock: Clock, make_task: MakeTask) -> None:
    task = outage(clock, make_task, misfire="catch_up", catch_up_most=3, late_most_seconds=86400, overlap="skip")
    states = [state for _at, state in story(task)]
    assert states == ["missed", "missed", "queued", "queued", "queued"]
    # One after the other: the constraint lets one run at a time.
    assert Run.objects.claimable().count() == 3
    first = Run.objects.claimable()[0]
    Run.objects.filter(pk=first.pk).update(state="running", leased_until=timezone.now() + timedelta(seconds=9))
    assert not Run.objects.claimable().exists()


def test_caught_up_no_further_back_than_the_greatest_lateness(clock: Clock, make_task: MakeTask) -> None:
    task = outage(clock, make_task, misfire="catch_up", catch_up_most=10, late_most_seconds=2 * 3600)
    assert [state for _at, state in story(task)] == ["missed", "missed", "missed", "queued", "queued"]


def test_a_night_job_does_not_start_by_day(clock: Clock, make_task: MakeTask) -> None:
    task = make_task(window_opens=time(2), window_closes=time(4), late_most_seconds=86400)
    task.refresh_from_db()
    clock.set("2026-06-02T09:00")
    firing.fire_due()
    assert story(task) == [("06-02 03:00:00", "missed")]
    assert "outside of its window" in Run.objects.get().reason


def test_a_very_long_outage_is_told_in_few_rows(clock: Clock, make_task: MakeTask) -> None:
    task = make_task(schedule_type="interval", interval_seconds=600, misfire="skip")
    clock.set("2026-06-11T12:05")
    firing.fire_due()
    assert Run.objects.filter(state="missed").count() == firing.MISSED_SHOWN + 1
    first = Run.objects.order_by("fire_at").first()
    assert first and "This and every later time" in first.reason and first.fire_at == task.next_run_at


def test_once_and_late(clock: Clock, make_task: MakeTask) -> None:
    at = clock.moment + timedelta(hours=1)
    soon = make_task("soon", schedule_type="once", run_at=at)
    never = make_task("never", schedule_type="once", run_at=at, misfire="skip")
    clock.pass_(hours=1, minutes=30)
    assert firing.fire_due() is None
    assert [state for _at, state in story(soon) + story(never)] == ["queued", "missed"]


# Clocks


def test_a_clock_set_back_fires_nothing_again(clock: Clock, make_task: MakeTask) -> None:
    task = make_task()
    clock.set("2026-06-02T03:00:30")
    firing.fire_due()
    end_runs()
    clock.set("2026-06-02T02:59:50")
    firing.realign()
    clock.set("2026-06-02T03:00:05")
    firing.fire_due()
    assert story(task) == [("06-02 03:00:00", "success")]


def test_a_clock_that_ran_ahead_and_back_loses_nothing(clock: Clock, make_task: MakeTask) -> None:
    task = make_task(schedule_type="interval", interval_seconds=3600, misfire="skip")
    clock.pass_(days=30)
    firing.fire_due()  # all these times were never really there; they are told of as missed
    end_runs()
    clock.pass_(days=-30, minutes=10)
    firing.realign()
    task.refresh_from_db()
    assert task.next_run_at == clock.moment + timedelta(minutes=50)
    clock.pass_(minutes=50)
    firing.fire_due()
    assert story(task)[0] == ("06-01 13:00:00", "missed")  # the first of the row that stands for many
    clock.pass_(hours=1)
    firing.fire_due()
    assert ("06-01 14:00:00", "queued") in story(task)


def test_the_watch_notices_a_step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = 1000.0
    monkeypatch.setattr(firing.time, "time", lambda: wall)
    monkeypatch.setattr(firing.time, "monotonic", lambda: 10.0)
    watch = firing.ClockWatch()
    assert watch.stepped_back() and not watch.stepped_back()
    wall = 1004.0
    assert not watch.stepped_back()
    wall = 990.0
    assert watch.stepped_back() and not watch.stepped_back()


# Overlap


def overlapping(clock: Clock, make_task: MakeTask, rule: str) -> Task:
    task = make_task(schedule_type="interval", interval_seconds=60, overlap=rule)
    clock.pass_(seconds=60)
    firing.fire_due()
    Run.objects.update(state="running", claim="host", leased_until=clock.moment + timedelta(hours=1))
    clock.pass_(seconds=60)
    firing.fire_due()
    return task


def test_overlap_skipped_is_a_row(clock: Clock, make_task: MakeTask) -> None:
    task = overlapping(clock, make_task, "skip")
    assert [state for _at, state in story(task)] == ["running", "skipped"]
    assert Task.objects.with_status().get().status == "running"
    end_runs()
    assert Task.objects.with_status().get().status == "success"


def test_overlap_queued_waits_its_turn(clock: Clock, make_task: MakeTask) -> None:
    task = overlapping(clock, make_task, "queue")
    assert [state for _at, state in story(task)] == ["running", "queued"]
    assert not Run.objects.claimable().exists()
    Run.objects.filter(state="running").update(state="success")
    assert Run.objects.claimable().count() == 1


def test_overlap_replaced_cancels_the_old_one(clock: Clock, make_task: MakeTask) -> None:
    overlapping(clock, make_task, "replace")
    old, new = Run.objects.order_by("pk")
    assert old.cancel_asked_at == clock.moment and new.state == "queued"
    clock.pass_(seconds=60)
    firing.fire_due()
    new.refresh_from_db()
    assert (new.state, new.reason) == ("cancelled", "Cancelled for a newer run.")
    assert Run.objects.filter(state__in=OPEN_RUNS).count() == 2


# Targets


def test_a_server_deleted_since_is_told_of(
    clock: Clock, make_task: MakeTask, make_server: Callable[..., Server]
) -> None:
    task = make_task(servers=[make_server("stays"), make_server("goes")])
    Server.objects.get(name="goes").delete()
    clock.set("2026-06-02T03:00")
    firing.fire_due()
    results = {r.server_name: (r.state, r.reason) for r in Run.objects.get().results.all()}
    assert results == {"stays": ("waiting", ""), "goes": ("failed", "This server was deleted.")}
    planning.change_task(task, {"command"}, servers=list(task.servers.all()), by=None)
    assert [target.server_name for target in task.targets.all()] == ["stays"]


def test_no_server_left_is_a_failed_run_and_an_alert(clock: Clock, make_task: MakeTask) -> None:
    task = make_task(selector="rack=7")
    task.targets.all().delete()
    clock.set("2026-06-02T03:00")
    firing.fire_due()
    run = Run.objects.get()
    assert (run.state, run.reason) == ("failed", "No server is left to run on.")
    assert Alert.objects.get().kind == AlertKind.TASK_FAILED


def test_labels_are_looked_up_when_it_fires(
    clock: Clock, make_task: MakeTask, make_server: Callable[..., Server]
) -> None:
    make_task(selector="gpu, rack!=2, !old")
    make_server("a", labels={"gpu": "h100", "rack": "1"})
    make_server("b", labels={"gpu": "h100", "rack": "2"})
    make_server("c", labels={"gpu": "", "old": "yes"})
    make_server("d", labels={"gpu": "", "rack": "3"}, maintenance=True)
    clock.set("2026-06-02T03:00")
    firing.fire_due()
    states = {r.server_name: r.state for r in Run.objects.get().results.all()}
    assert states == {"a": "waiting", "d": "skipped", "for-backup": "waiting"}


def test_a_zone_that_is_gone_stops_the_task_and_says_so(clock: Clock, make_task: MakeTask) -> None:
    task = make_task()
    Task.objects.update(timezone="Old/Zone")
    clock.set("2026-06-02T03:00")
    assert firing.fire_due() is None
    assert story(task) == [("06-02 03:00:00", "missed")]
    assert "no time zone" in Run.objects.get().reason


def test_a_disabled_task_does_not_fire(clock: Clock, make_task: MakeTask) -> None:
    task = make_task()
    planning.set_enabled(task, False, by=None)
    clock.set("2026-06-05T03:00")
    assert firing.fire_due() is None and not Run.objects.exists()
    planning.set_enabled(task, True, by=None)
    task.refresh_from_db()
    assert task.next_run_at and task.next_run_at.day == 6


# Rounds


def test_looking_for_what_is_due_uses_the_index_and_few_queries(clock: Clock, make_task: MakeTask) -> None:
    for n in range(5):
        make_task(f"t{n}")
    with CaptureQueriesContext(connection) as few:
        firing.fire_due()
    for n in range(5, 40):
        make_task(f"t{n}")
    with CaptureQueriesContext(connection) as many:
        firing.fire_due()
    assert len(few) == len(many) == 2
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN QUERY PLAN {Task.objects.due().only('pk').query}".replace("2026-06-01 12:00:00", "'x'")
        )
        assert "next_run_at" in str(cursor.fetchall())


def test_a_run_whose_wake_up_was_lost_is_woken_again(clock: Clock, make_task: MakeTask) -> None:
    run = runs.execute(make_task(), by=None)
    clock.pass_(seconds=3)
    assert rounding.wake_forgotten()
    Run.objects.filter(pk=run.pk).update(state="running", leased_until=clock.moment + timedelta(seconds=9))
    assert not rounding.wake_forgotten()
    clock.pass_(seconds=10)
    assert rounding.wake_forgotten()


def test_a_long_run_is_told_of_once(clock: Clock, make_task: MakeTask) -> None:
    task = make_task(long_after_seconds=60)
    run = runs.execute(task, by=None)
    Run.objects.update(state="running", started_at=clock.moment)
    clock.pass_(seconds=50)
    assert rounding.tell_of_long_runs() == 0
    clock.pass_(seconds=20)
    assert rounding.tell_of_long_runs() == 1 and rounding.tell_of_long_runs() == 0
    run.refresh_from_db()
    runs.close(run, RunState.FAILED, "1 failed.")
    states = dict(Alert.objects.values_list("kind", "state"))
    assert states == {AlertKind.TASK_LONG: "recovered", AlertKind.TASK_FAILED: "open"}
