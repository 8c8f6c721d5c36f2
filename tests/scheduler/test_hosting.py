"""Runs carried out over a real sshd: order, limits, ends of every kind, and a host that takes over from a dead one."""

import hashlib
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from infini.models import Alert, AlertKind, Lease
from inventory.installation.certificates import make_identity
from inventory.models import Server
from inventory.ssh.commands import CommandResult
from scheduler import claims, hosting, library, runs, shots, targets
from scheduler.models import Run, RunResult, SavedCommand, Task
from scheduler.states import RunState, Trigger
from tests.agent.test_upgrade import NEWER, running_from
from tests.real_agent import wait_until
from tests.real_sshd import FakeServer, RealSshd, refused_port, says_nothing
from tests.scheduler.conftest import results_of

pytestmark = pytest.mark.django_db

MakeTask = Callable[..., Task]
Fleet = Callable[..., list[Server]]


def carry_out(task: Task) -> Run:
    """Run it now and see it through."""
    run = runs.execute(task, by=None)
    hosting.carry_out_due(linger_seconds=0)
    run.refresh_from_db()
    return run


def states(run: Run) -> dict[str, int]:
    return dict(Counter(run.results.values_list("state", flat=True)))


def test_a_command_on_many_servers(make_task: MakeTask, fleet: Fleet) -> None:
    task = make_task(
        servers=fleet(12),
        command='echo "$GREETING, world"; echo oops >&2',
        environment={"GREETING": "hello; $(touch /tmp/never) '\""},
    )
    run = carry_out(task)
    assert (run.state, run.reason, run.claim) == ("success", "", "")
    assert run.started_at and run.finished_at and run.finished_at >= run.started_at
    rows = list(run.results.all())
    assert {(r.state, r.exit_status, r.output, r.error) for r in rows} == {
        ("success", 0, "hello; $(touch /tmp/never) '\", world\n", "oops\n")
    }
    assert len({r.digest for r in rows}) == 1 and all(r.finished_at >= r.started_at for r in rows)  # type: ignore[operator]
    assert Task.objects.with_status().get().status == "success"


def test_what_is_due_begins_before_anything_is_waited_for(
    make_task: MakeTask, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "POLL_SECONDS", 60.0)
    began = time.monotonic()
    assert carry_out(make_task(servers=fleet(1), command="true")).state == "success"
    assert time.monotonic() - began < 30


@pytest.mark.django_db(transaction=True)  # the SSH layer notes the stranger's key in the thread it works in
def test_each_way_to_end_has_its_word(make_task: MakeTask, fleet: Fleet, sshd: RealSshd) -> None:
    servers = fleet(6)
    names = ["ok", "exits", "killed", "slow", "refuses", "stranger"]
    for server, name in zip(servers, names, strict=True):
        Server.objects.filter(pk=server.pk).update(name=name)
    Server.objects.filter(name="refuses").update(port=refused_port())
    Server.objects.filter(name="stranger").update(host_key="")
    how = "case $HOW in exits) exit 3;; killed) kill -9 $$;; slow) sleep 60;; esac"
    begun = {}
    for name in names:
        task = make_task(f"do {name}", servers=[Server.objects.get(name=name)], command=how, timeout_seconds=1)
        task.environment = {"HOW": name}
        task.save()
        begun[name] = runs.execute(task, by=None)
    hosting.carry_out_due(linger_seconds=0)
    outcomes = {}
    for name, run in begun.items():
        run.refresh_from_db()
        result = results_of(run)[name]
        outcomes[name] = (run.state, result.state, result.exit_status)
        assert bool(result.reason) == (name != "ok"), name
    assert outcomes["ok"] == ("success", "success", 0)
    assert outcomes["exits"] == ("failed", "failed", 3)
    assert outcomes["killed"][:2] == ("failed", "failed")
    assert outcomes["slow"][:2] == ("failed", "timed_out")
    assert outcomes["refuses"] == outcomes["stranger"] == ("failed", "failed", None)
    assert Alert.objects.filter(kind=AlertKind.TASK_FAILED, state="open").count() == 5


def test_a_server_that_tells_no_exit_status(make_task: MakeTask, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that speaks SSH and runs no commands."""
    now = timezone.now()
    ended = CommandResult("", "", None, "", False, False, 0, now, now)
    monkeypatch.setattr(shots, "run", lambda *_given, **_options: ended)
    result = carry_out(make_task(servers=fleet(1), command="true")).results.get()
    assert result.state == "failed" and "no exit status" in result.reason


def test_a_failure_alert_ends_with_the_next_success(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    task = make_task(servers=fleet(1), command=f"test -e {tmp_path}/there")
    assert carry_out(task).reason == "1 failed."
    (tmp_path / "there").touch()
    well = carry_out(task)
    alert = Alert.objects.get()
    assert (alert.state, alert.ending) == ("recovered", f"backup #{well.pk} went well.")


def test_at_most_so_many_at_once(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    count = f"cd {tmp_path} && touch now.$$ && ls now.* | wc -l && sleep 0.15 && rm now.$$"
    run = carry_out(make_task(servers=fleet(9), command=count, width=3))
    assert states(run) == {"success": 9}
    assert max(int(r.output) for r in run.results.all()) == 3


def test_the_rest_waits_for_the_first_and_stops_with_them(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    servers = fleet(6)
    order = f"ls {tmp_path}/done* 2>/dev/null | wc -l; sleep 0.1; touch {tmp_path}/done.$$"
    run = carry_out(make_task("good", servers=servers, command=order, canary=2))
    assert states(run) == {"success": 6}
    seen = [int(r.output) for r in run.results.order_by("pk")]
    assert seen[:2] == [0, 0] and min(seen[2:]) >= 2
    run = carry_out(make_task("bad", servers=servers, command="exit 1", canary=2, retries=0))
    assert states(run) == {"failed": 2, "skipped": 4}
    assert run.reason == "2 failed. Stopped: it failed on the first servers."
    assert results_of(run)["gpu-06"].reason == "Stopped: it failed on the first servers."


def test_the_first_are_those_that_are_asked(make_task: MakeTask, fleet: Fleet) -> None:
    """A schedule leaves servers in maintenance alone: they say nothing about the command, and others go first."""
    servers = fleet(5)
    Server.objects.filter(name__in=["gpu-01", "gpu-02"]).update(maintenance=True)
    task = make_task(servers=servers, command="exit 1", canary=2)
    run = runs.snapshot(task, trigger=Trigger.SCHEDULE)
    runs.store(run, targets.aims_of(task), scheduled=True)
    hosting.carry_out_due(linger_seconds=0)
    run.refresh_from_db()
    assert run.reason == "2 failed. Stopped: it failed on the first servers."
    ended = {name: result.state for name, result in results_of(run).items()}
    assert [ended[f"gpu-0{n}"] for n in range(1, 6)] == ["skipped", "skipped", "failed", "failed", "skipped"]


@pytest.mark.parametrize("limit", [{"stop_after_failures": 2}, {"stop_after_percent": 20}])
def test_stops_after_failures(make_task: MakeTask, fleet: Fleet, limit: dict[str, Any]) -> None:
    run = carry_out(make_task(servers=fleet(10), command="exit 1", width=1, **limit))
    assert states(run) == {"failed": 2, "skipped": 8}
    assert run.reason == "2 failed. Stopped after 2 of 10 servers failed."


def test_starts_are_staggered(make_task: MakeTask, fleet: Fleet) -> None:
    run = carry_out(make_task(servers=fleet(3), command="true", stagger_seconds=0.4))
    begun = sorted(r.started_at for r in run.results.all() if r.started_at)
    gaps = [(later - earlier).total_seconds() for earlier, later in zip(begun, begun[1:], strict=False)]
    assert min(gaps) > 0.3


def test_a_failure_is_tried_again_and_a_success_is_not(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "tries").touch()
    third_time = f"cd {tmp_path}; n=$(wc -l < tries); echo x >> tries; exit $((n < 2))"
    run = carry_out(make_task(servers=fleet(1), command=third_time, retries=5, retry_delay_seconds=0))
    result = run.results.get()
    assert (run.state, result.state, result.attempt) == ("success", "success", 2)
    assert (tmp_path / "tries").read_text() == "x\n" * 3


def test_large_and_binary_output_is_kept_head_and_tail(make_task: MakeTask, fleet: Fleet, settings: Any) -> None:
    settings.RUN_OUTPUT_MAX_BYTES = 8192
    task = make_task(servers=fleet(2), command="echo begin; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end")
    run = carry_out(task)
    first, second = run.results.all()
    assert first.output.startswith("begin\nxxx") and first.output.endswith("xxx\nend\n")
    assert first.output_cut == 3_000_011 - 8192 and "bytes left out" in first.output
    assert len(first.output) < 8300 and first.raw is None and first.digest == second.digest
    binary = carry_out(make_task("binary", servers=[Server.objects.first()], command="printf 'a\\000\\377b'"))  # type: ignore[list-item]
    result = binary.results.get()
    assert bytes(result.raw or b"") == b"a\0\xffb" and result.output == "a��b"


def test_a_server_deleted_before_its_turn(make_task: MakeTask, fleet: Fleet) -> None:
    run = runs.execute(make_task(servers=fleet(2), command="true"), by=None)
    Server.objects.get(name="gpu-02").delete()
    hosting.carry_out_due(linger_seconds=0)
    assert results_of(run)["gpu-02"].reason == "This server was deleted before its turn."
    assert states(run) == {"success": 1, "failed": 1}


def test_another_account_on_the_server(make_task: MakeTask, fleet: Fleet, sshd: RealSshd) -> None:
    run = carry_out(make_task(servers=fleet(1), command="id -un", account="no-such-account"))
    assert run.results.get().state == "failed" and "no-such-account" in sshd.log


# Ends asked for


def host_beside() -> threading.Thread:
    """A host in a thread, as a worker process would be one."""

    def work() -> None:
        try:
            hosting.carry_out_due(linger_seconds=0.3)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def alive(marker: Path) -> bool:
    try:
        return Path(f"/proc/{int(marker.read_text())}").exists()
    except (FileNotFoundError, ValueError):
        return False


@pytest.mark.django_db(transaction=True)
def test_cancel_ends_the_remote_process(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    command = f"echo started; (sleep 300 & echo $! > {marker}.new; mv {marker}.new {marker}; wait)"
    run = runs.execute(make_task(servers=fleet(3), command=command, width=1), by=None)
    thread = host_beside()
    wait_until(lambda: alive(marker), what="the command runs")
    wait_until(lambda: RunResult.objects.filter(output="started\n").exists(), what="its output is seen while it runs")
    begun = time.monotonic()
    runs.cancel(run, by=None)
    wait_until(lambda: not alive(marker), what="the remote process is gone")
    thread.join(20)
    assert time.monotonic() - begun < 10
    run.refresh_from_db()
    assert run.state == "cancelled" and states(run) == {"cancelled": 3}
    assert not Alert.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_run_s_own_limit_ends_what_runs(make_task: MakeTask, fleet: Fleet) -> None:
    run = carry_out(make_task(servers=fleet(3), command="sleep 300", width=2, run_timeout_seconds=1))
    assert (run.state, run.reason) == ("timed_out", "The run's time of 1 s is over.")
    assert states(run) == {"timed_out": 2, "skipped": 1}


def test_a_queued_run_is_cancelled_at_once(make_task: MakeTask, fleet: Fleet) -> None:
    run = runs.execute(make_task(servers=fleet(2), command="true"), by=None)
    runs.cancel(run, by=None)
    run.refresh_from_db()
    assert run.state == "cancelled" and states(run) == {"cancelled": 2}
    hosting.carry_out_due(linger_seconds=0)
    assert states(run) == {"cancelled": 2}


@pytest.mark.django_db(transaction=True)
def test_contact_that_breaks_is_no_failure(make_task: MakeTask, fleet: Fleet) -> None:
    with RealSshd() as own:
        servers = fleet(1, port=own.port, private_key=own.private_key, host_key=own.host_key)
        run = runs.execute(make_task(servers=servers, command="echo started; sleep 30", retries=3), by=None)
        thread = host_beside()
        wait_until(lambda: RunResult.objects.filter(output="started\n").exists())
        own.kill_connections()
        thread.join(20)
    result = RunResult.objects.get()
    assert (result.state, result.exit_status, result.output) == ("lost", None, "started\n")
    assert "outcome is unknown" in result.reason and result.attempt == 0
    run.refresh_from_db()
    assert run.reason == "1 lost contact."


def test_a_server_that_says_nothing_keeps_nobody(
    make_task: MakeTask, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.shots.CONNECT_SECONDS", 1.0)
    servers = fleet(5)
    with FakeServer(says_nothing) as silent:
        Server.objects.filter(pk=servers[0].pk).update(port=silent.port)
        run = carry_out(make_task(servers=servers, command="true"))
    assert states(run) == {"success": 4, "failed": 1}
    silent_result, other = results_of(run)["gpu-01"], results_of(run)["gpu-02"]
    assert silent_result.finished_at - other.finished_at > timedelta(seconds=0.5)  # type: ignore[operator]


# Taking over


def half_done(task: Task) -> Run:
    """As a host that was killed leaves it: one done, one under way, two waiting; its lease has run out."""
    run = runs.execute(task, by=None)
    first, second, *_rest = run.results.order_by("pk")
    RunResult.objects.filter(pk=first.pk).update(state="success", finished_at=timezone.now())
    RunResult.objects.filter(pk=second.pk).update(state="running", started_at=timezone.now())
    Run.objects.filter(pk=run.pk).update(
        state="running", claim="dead", started_at=timezone.now(), leased_until=timezone.now() - timedelta(seconds=1)
    )
    return run


def test_a_dead_hosts_run_goes_on_without_what_was_under_way(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    task = make_task(servers=fleet(4), command=f"mktemp -p {tmp_path}", retries=3)
    run = half_done(task)
    hosting.carry_out_due(linger_seconds=0)
    run.refresh_from_db()
    assert [r.state for r in run.results.order_by("pk")] == ["success", "lost", "success", "success"]
    assert len(list(tmp_path.iterdir())) == 2  # neither the done nor the lost one ran again
    assert run.state == "failed" and "nobody knows" in results_of(run)["gpu-02"].reason


def test_a_host_that_is_seen_to_be_dead_is_not_waited_for(make_task: MakeTask, fleet: Fleet) -> None:
    """Its lease has not passed, but its process is gone, or another has its number."""
    run = half_done(make_task(servers=fleet(4), command="true"))
    later = timezone.now() + timedelta(seconds=30)
    machine, pid, started, tail = claims.own().split(".")
    ended = subprocess.Popen(["true"])  # not waited for: a zombie still has its number
    wait_until(lambda: Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    alive = [f"{machine}.{pid}.{started}.{tail}", f"elsewhere.{ended.pid:x}.{started}.{tail}", "a" * 32]
    dead = [f"{machine}.{ended.pid:x}.{started}.{tail}", f"{machine}.{pid}.1.{tail}"]
    assert all(len(claim) <= 32 for claim in alive + dead)
    for claim in alive:
        Run.objects.update(claim=claim, leased_until=later)
        Lease.objects.update_or_create(name="runs.host.x.0", defaults={"holder": claim, "expires_at": later})
        assert claims.give_back_of_the_dead() == 0 and not Run.objects.claimable().exists()
    for claim in dead:
        Run.objects.update(claim=claim, leased_until=later)
        Lease.objects.update_or_create(name="runs.host.x.0", defaults={"holder": claim, "expires_at": later})
        assert claims.give_back_of_the_dead() == 1 and claims.give_back_of_the_dead() == 0
        assert Lease.objects.get(name="runs.host.x.0").expires_at < later
    ended.wait()
    hosting.carry_out_due(linger_seconds=0)
    assert states(run) == {"success": 3, "lost": 1}


def test_a_live_hosts_run_is_left_alone(make_task: MakeTask, fleet: Fleet) -> None:
    run = half_done(make_task(servers=fleet(4), command="true"))
    Run.objects.update(leased_until=timezone.now() + timedelta(seconds=30))
    assert hosting.carry_out_due(linger_seconds=0) == 0
    assert states(run) == {"success": 1, "running": 1, "waiting": 2}


@pytest.mark.django_db(transaction=True)
def test_a_host_that_lost_its_claim_ends_what_it_has_and_writes_nothing(
    make_task: MakeTask, fleet: Fleet, tmp_path: Path
) -> None:
    marker = tmp_path / "pid"
    run = runs.execute(make_task(servers=fleet(1), command=f"echo $$ > {marker}; sleep 300"), by=None)
    thread = host_beside()
    wait_until(lambda: alive(marker))
    Run.objects.filter(pk=run.pk).update(claim="another", leased_until=timezone.now() + timedelta(seconds=60))
    wait_until(lambda: not alive(marker), what="the command is ended")
    thread.join(20)
    run.refresh_from_db()
    assert (run.state, run.claim, states(run)) == ("running", "another", {"running": 1})


@pytest.mark.django_db(transaction=True)
def test_two_hosts_do_each_server_once(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    servers = fleet(4)
    for n in range(8):
        runs.execute(make_task(f"t{n}", servers=servers, command=f"mktemp -p {tmp_path} t{n}.XXXXXX"), by=None)
    threads = [host_beside() for _ in range(3)]  # a third finds both places taken
    for thread in threads:
        thread.join(60)
    assert set(Run.objects.values_list("state", "results__reason")) == {(RunState.SUCCESS, "")}
    assert len(list(tmp_path.iterdir())) == 32
    assert Lease.objects.filter(name__startswith="runs.host.").count() <= hosting.HOSTS_PER_MACHINE


def test_runs_of_one_task_never_overlap(make_task: MakeTask, fleet: Fleet) -> None:
    task = make_task(servers=fleet(1), command="sleep 0.2", overlap="queue")
    for _n in range(3):
        runs.execute(task, by=None)
    hosting.carry_out_due(linger_seconds=0)
    spans = sorted((r.started_at, r.finished_at) for r in Run.objects.all())
    assert all(begin >= end for (_b, end), (begin, _e) in zip(spans, spans[1:], strict=False))  # type: ignore[operator]


# By hand


def test_retry_of_the_failed_servers_alone(make_task: MakeTask, fleet: Fleet, tmp_path: Path) -> None:
    servers = fleet(4)
    Server.objects.filter(pk=servers[3].pk).update(port=refused_port())
    task = make_task(servers=servers, command=f"mktemp -p {tmp_path}")
    run = carry_out(task)
    assert states(run) == {"success": 3, "failed": 1}
    Server.objects.filter(pk=servers[3].pk).update(port=servers[0].port)
    again = runs.retry_failed(run, by=None)
    hosting.carry_out_due(linger_seconds=0)
    again.refresh_from_db()
    assert (again.state, again.trigger, again.retry_of) == ("success", "retry", run)
    assert list(results_of(again)) == ["gpu-04"] and len(list(tmp_path.iterdir())) == 4


# The examples


def test_the_agent_s_upgrade_as_a_command(fleet: Fleet, tmp_path: Path) -> None:
    library.load_examples()
    saved = SavedCommand.objects.get(key="agent-upgrade")
    server, source = fleet(1)[0], tmp_path / "new"
    source.write_text(NEWER)

    def told(**values: str) -> tuple[str, str]:
        use = library.used(saved, {"SOURCE": str(source), "SHA256": digest, "PORT": str(agent.port), **values})
        run = runs.run_once(Task(**use), named=[server.pk], by=None)
        hosting.carry_out_due(linger_seconds=0)
        result = run.results.get()
        return result.state, result.output + result.error

    digest = hashlib.sha256(NEWER.encode()).hexdigest()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = make_identity("127.0.0.1")
    cert.write_text(made.certificate)
    key.write_text(made.key)
    with running_from(tmp_path) as agent:
        agent.options = ("--tls-cert", str(cert), "--tls-key", str(key))
        agent.terminate()
        agent.start()  # its port stands in its command line now
        assert told(PORT="1") == ("failed", "no agent runs here on port 1\n")
        assert told(SHA256="0" * 64) == ("failed", "what is at SOURCE has another digest\n")
        assert told(SOURCE=f"{source}.txt")[0] == "failed"
        assert agent.file.read_text() != NEWER
        for _again in range(2):
            assert told() == ("success", "agent 99.1\n")
        assert agent.file.read_text() == NEWER
