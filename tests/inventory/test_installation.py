"""Agents installed, upgraded and removed over a real sshd, to the first report of a real agent over TLS."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone
from django_q.models import OrmQ

from infini.errors import Conflict, Invalid
from infini.models import Event, User
from inventory.installation import installing, plans, release, runner, upgrading
from inventory.installation.asking import ask_for, ask_for_one, cancel, retry
from inventory.installation.plans import PLANS, Step
from inventory.installation.queueing import queue_due_installations
from inventory.installation.states import Kind, State
from inventory.installation.work import Work
from inventory.local import ensure_local_server
from inventory.models import Installation, Server
from tests.inventory.installing import Machine, asked, carry_out, free_port, machine, run_forever, states, step_of
from tests.real_agent import RealAgent, is_running, wait_until
from tests.real_sshd import make_key

__all__ = ["machine"]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="logs in as root, as which agents are installed"),
    pytest.mark.django_db(transaction=True),
]
OLDER = "0.0.1"


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the site bring an older agent, until it is called: then the real one again."""
    own = release.own_release()
    old = replace(own, version=OLDER, source=own.source.replace(f'"{own.version}"', f'"{OLDER}"', 1), sha256="")
    old = replace(old, sha256=hashlib.sha256(old.source.encode()).hexdigest())

    def use(one: release.Release) -> None:
        for module in (installing, upgrading, release):
            monkeypatch.setattr(module, "own_release", lambda: one)

    use(old)
    return lambda: use(own)


def test_from_a_bare_machine_to_the_first_report_and_again(machine: Machine, administrator: User) -> None:
    server = machine.server()
    done = carry_out(server, Kind.INSTALL, by=administrator)
    assert (done.state, done.reason) == (State.DONE, ""), done.steps
    assert set(states(done).values()) == {"done"}
    assert "as root" in step_of(done, "look")["text"]
    assert server.agent_version == release.own_release().version and server.agent_seen_at
    assert (machine.folder / "token").read_text().strip() == server.agent_token
    assert (machine.folder / "token").stat().st_mode & 0o777 == 0o600
    assert (machine.folder / "agent.key").stat().st_mode & 0o777 == 0o600
    assert (machine.folder / "agent.pem").read_text() == server.agent_certificate
    assert "@reboot root" in (machine.root / "etc/cron.d/infini-agent").read_text()
    assert asked(server, "GET", "/report")["agent"]["pid"] in machine.agent_pids()
    kinds = list(Event.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == [
        *("server.agent_install_asked", "server.agent_install_begun", "server.changed", "server.agent_install_done")
    ]

    # Again: nothing is written or started, the token stays, and the row of the server is as it was.
    files, pids, version = machine.files(), machine.agent_pids(), server.version
    again = carry_out(server, Kind.INSTALL)
    assert again.state == State.DONE
    assert states(again) == {
        **dict.fromkeys(("file", "token", "certificate", "supervise", "start"), "unchanged"),
        **dict.fromkeys(("look", "report"), "done"),
    }
    assert (machine.files(), machine.agent_pids(), server.version) == (files, pids, version)

    # What was spoiled is brought into order, and an instance notices nothing of it.
    pid = run_forever(server)
    (machine.folder / "token").write_text("somebody-elses-token\n")
    (machine.folder / "agent.key").write_text("")
    (machine.root / "etc/cron.d/infini-agent").unlink()
    token = server.agent_token
    mended = carry_out(server, Kind.INSTALL)
    assert mended.state == State.DONE, mended.steps
    assert states(mended) == {**dict.fromkeys(states(mended), "done"), "file": "unchanged"}
    assert server.agent_token != token and (machine.folder / "token").read_text().strip() == server.agent_token
    assert is_running(pid) and asked(server, "GET", "/service/one/status")["pid"] == pid
    assert len(machine.agent_pids()) == 1


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(machine: Machine) -> None:
    server = machine.server()
    before = {path: path.lstat().st_mtime_ns for path in machine.root.rglob("*")}
    row = Server.objects.values().get(pk=server.pk)
    done = carry_out(server, Kind.INSTALL, dry_run=True)
    assert done.state == State.DONE
    assert states(done) == {"look": "done", **dict.fromkeys([s.name for s in PLANS[Kind.INSTALL]][1:], "planned")}
    assert f"Write version {release.own_release().version} to {machine.folder}" in step_of(done, "file")["text"]
    assert {path: path.lstat().st_mtime_ns for path in machine.root.rglob("*")} == before
    assert Server.objects.values().get(pk=server.pk) == row and not Event.objects.exists()
    assert machine.agent_pids() == []

    carry_out(server, Kind.INSTALL)
    files = machine.files()
    assert set(states(carry_out(server, Kind.INSTALL, dry_run=True)).values()) == {"done", "unchanged", "planned"}
    removal = carry_out(server, Kind.REMOVE, dry_run=True)
    assert states(removal) == {
        **{"look": "done", "instances": "unchanged", "end": "planned", "erase": "planned", "forget": "planned"}
    }
    assert machine.files() == files and server.agent_token and machine.agent_pids()


def test_an_upgrade_goes_over_the_agent_and_keeps_every_instance(machine: Machine, older: Any) -> None:
    server = machine.server()
    carry_out(server, Kind.INSTALL)
    assert server.agent_version == OLDER
    pid, agent = run_forever(server), machine.agent_pids()
    older()
    assert release.outdated_versions() == [OLDER]
    done = carry_out(server, Kind.UPGRADE)
    assert done.state == State.DONE, done.steps
    assert states(done) == {"ask": "done", "send": "done", "restart": "unchanged", "report": "done"}
    assert "1 of 1 run on as the same process" in step_of(done, "report")["text"]
    assert server.agent_version == release.own_release().version and release.outdated_versions() == []
    assert machine.agent_pids() == agent and is_running(pid)
    assert asked(server, "GET", "/service/one/status")["pid"] == pid
    # What was upgraded is right for an installation too, and a second upgrade finds nothing to do.
    assert states(carry_out(server, Kind.INSTALL))["start"] == "unchanged"
    assert states(carry_out(server, Kind.UPGRADE))["send"] == "unchanged"


def test_an_upgrade_of_an_agent_that_is_silent_goes_over_ssh(machine: Machine, older: Any) -> None:
    server = machine.server()
    carry_out(server, Kind.INSTALL)
    pid = run_forever(server)
    older()
    for one in (int((machine.folder / "supervise.pid").read_text()), *machine.agent_pids()):
        os.kill(one, 9)
    wait_until(lambda: not machine.agent_pids())
    done = carry_out(server, Kind.UPGRADE)
    assert done.state == State.DONE, done.steps
    assert states(done) == dict.fromkeys(states(done), "done")
    assert "over SSH" in step_of(done, "send")["text"]
    assert server.agent_version == release.own_release().version
    assert is_running(pid) and asked(server, "GET", "/service/one/status")["pid"] == pid


def test_an_upgrade_that_the_agent_refuses_says_why(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    server = machine.server()
    carry_out(server, Kind.INSTALL)
    broken = "this is no Python\n"
    digest = hashlib.sha256(broken.encode()).hexdigest()
    bad = replace(release.own_release(), version="99.0", source=broken, sha256=digest)
    monkeypatch.setattr(upgrading, "own_release", lambda: bad)
    done = carry_out(server, Kind.UPGRADE)
    assert done.state == State.FAILED and "does not compile" in json.dumps(done.steps) + done.reason
    assert asked(server, "GET", "/report")["agent"]["version"] == release.own_release().version


def test_a_removal_leaves_instances_running_and_the_site_knows_nothing_of_the_agent(machine: Machine) -> None:
    server = machine.server()
    carry_out(server, Kind.INSTALL)
    pid = run_forever(server)
    done = carry_out(server, Kind.REMOVE)
    assert done.state == State.DONE, done.steps
    assert (
        "Left running" in step_of(done, "instances")["text"]
        and "1 instance (one)" in step_of(done, "instances")["text"]
    )
    assert (server.agent_token, server.agent_certificate, server.agent_version) == ("", "", "")
    assert is_running(pid) and machine.agent_pids() == []
    assert not machine.folder.exists() and (machine.state / "instances/one").is_dir()
    assert not (machine.root / "etc/cron.d/infini-agent").exists()
    # Again: all is done already. And a new installation finds the instance as it runs.
    assert set(states(carry_out(server, Kind.REMOVE)).values()) <= {"done", "unchanged"}
    carry_out(server, Kind.INSTALL)
    assert asked(server, "GET", "/service/one/status")["pid"] == pid

    done = carry_out(server, Kind.REMOVE, stop_instances=True)
    assert done.state == State.DONE, done.steps
    assert step_of(done, "instances")["text"] == "Stopped 1 instance (one)."
    assert not is_running(pid) and not machine.state.exists()
    assert [path for path in machine.files() if "infini" in path] == []


def spoil_python(server: Server, machine: Machine, settings: Any) -> None:
    settings.SERVER_PYTHON = "/nowhere/python3"


def spoil_login(server: Server, machine: Machine, settings: Any) -> None:
    server.private_key = make_key(machine.root / "other")


def spoil_host_key(server: Server, machine: Machine, settings: Any) -> None:
    make_key(machine.root / "other")
    server.host_key = " ".join((machine.root / "other.pub").read_text().split()[:2])


def spoil_account(server: Server, machine: Machine, settings: Any) -> None:
    server.username = ""


def spoil_disk(server: Server, machine: Machine, settings: Any) -> None:
    (machine.root / "opt").write_text("in the way")


def spoil_nothing_listens(server: Server, machine: Machine, settings: Any) -> None:
    server.port = free_port()


FAILURES = {
    "no python": (spoil_python, "There is no Python 3.8 or newer on gpu-1: looked for /nowhere/python3."),
    "login": (spoil_login, "gpu-1"),
    "host key": (spoil_host_key, "SHA256:"),
    "no account": (spoil_account, "gpu-1 has no SSH access; enter its SSH account."),
    "disk": (spoil_disk, "is no directory."),
    "ssh port": (spoil_nothing_listens, "gpu-1"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_says_why_and_a_retry_goes_through(machine: Machine, settings: Any, what: str) -> None:
    spoil, told = FAILURES[what]
    server = machine.server()
    right = Server.objects.get(pk=server.pk)
    spoil(server, machine, settings)
    server.save()
    done = carry_out(server, Kind.INSTALL)
    assert (done.state, states(done)["look"]) == (State.FAILED, "failed")
    assert told in done.reason and done.reason == step_of(done, "look")["text"]
    assert set(list(states(done).values())[1:]) == {"skipped"}
    assert "PRIVATE KEY" not in json.dumps(done.steps)
    assert server.agent_token == "" and not machine.folder.exists()
    if what != "disk":
        return
    right.save()
    (machine.root / "opt").unlink()
    assert retry([done], by=None) == 1 and retry([done], by=None) == 0
    runner.work_off()
    done.refresh_from_db()
    assert (done.state, done.attempts) == (State.DONE, 1), done.steps


def test_a_port_that_is_taken_names_who_has_it(machine: Machine) -> None:
    server = machine.server()
    with socket.create_server(("127.0.0.1", server.agent_port)):
        done = carry_out(server, Kind.INSTALL)
    assert f"Port {server.agent_port} on gpu-1 is taken by process {os.getpid()} (" in done.reason
    assert not machine.folder.exists()


def test_a_worker_killed_half_way_is_followed_by_another(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one dies with token and certificate written and the agent not started."""
    server = machine.server()
    monkeypatch.setattr(runner, "LEASE", timedelta(seconds=1.5))
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.3)
    begun = ask_for_one(server, Kind.INSTALL, by=None)
    child = os.fork()
    if child == 0:
        try:
            _work_until_start(begun.pk)
        finally:
            os._exit(1)
    try:
        wait_until(lambda: states(Installation.objects.get(pk=begun.pk))["start"] == "running", 30)
        assert runner.work_off() == 0  # its lease holds
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    token = Server.objects.get(pk=server.pk).agent_token
    assert token and machine.agent_pids() == []
    wait_until(lambda: runner.work_off(), 20)
    begun.refresh_from_db()
    server.refresh_from_db()
    assert (begun.state, begun.attempts) == (State.DONE, 2), begun.steps
    assert states(begun)["token"] == states(begun)["certificate"] == states(begun)["file"] == "unchanged"
    assert server.agent_token == token and len(machine.agent_pids()) == 1


def _work_until_start(pk: int) -> None:
    connections.close_all()
    for step in PLANS[Kind.INSTALL]:
        if step.name == "start":
            index = PLANS[Kind.INSTALL].index(step)
            PLANS[Kind.INSTALL][index] = Step("start", "", lambda work: time.sleep(600))  # type: ignore[arg-type,return-value]
    runner.work_off()


def test_cancelling_ends_what_runs_on_the_server(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = f"{600 + os.getpid() % 97}.125"

    def hang(work: Work) -> Any:
        return work.remote._run(f"sleep {marker}", seconds=60) and installing.look(work)

    def sleeping() -> list[str]:
        found = (path.read_bytes().split(b"\0") for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
        return [str(words) for words in found if words[:2] == [b"sleep", marker.encode()]]

    monkeypatch.setitem(plans.PLANS, Kind.INSTALL, [Step("look", "", hang), *PLANS[Kind.INSTALL][1:]])
    monkeypatch.setattr(runner, "RENEW_SECONDS", 0.2)
    server = machine.server()
    waiting = machine.server("gpu-2")
    first = ask_for_one(server, Kind.INSTALL, by=None)
    second = ask_for_one(waiting, Kind.INSTALL, by=None)
    assert cancel([second], by=None) == 1
    worker = threading.Thread(target=runner.work_off)
    worker.start()
    wait_until(sleeping, 20, "the command runs")
    assert cancel([first], by=None) == 1
    worker.join(30)
    for row in (first, second):
        row.refresh_from_db()
        assert row.state == State.CANCELLED
    assert list(states(first).values()) == ["cancelled", *["skipped"] * (len(first.steps) - 1)] and not sleeping()
    assert cancel([first], by=None) == 0


def test_no_secret_reaches_a_command_line_a_log_or_a_page(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary-0123456789abcdef0123456789abcdef"
    monkeypatch.setattr(installing.secrets, "make_token", lambda: canary)
    caplog.set_level(logging.DEBUG)
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = carry_out(machine.server(), Kind.INSTALL)
    finally:
        over.set()
        watcher.join()
    assert done.state == State.DONE
    assert any(b"install_agent.py" in words for words in seen), "the watcher saw the installer at work"
    assert not [words for words in seen if canary.encode() in words or b"PRIVATE KEY" in words]
    written = json.dumps(list(Event.objects.values_list("data", flat=True))) + json.dumps(done.steps) + caplog.text
    assert canary not in written and "PRIVATE KEY" not in written
    assert canary not in (machine.folder / "agent.log").read_text()


def test_many_at_once_and_one_that_fails_keeps_no_other(machine: Machine, tmp_path: Path) -> None:
    """Three names of one machine: two are installed into one place in turn, the third does not answer."""
    good = machine.server("good")
    dead = machine.server("dead", port=free_port())
    asked_for = ask_for([good, dead, ensure_local_server()], Kind.INSTALL, by=None)
    assert len(asked_for.installations) == 2
    [reason] = asked_for.refused.values()
    assert "belongs to this site" in reason
    with pytest.raises(Conflict, match="good is busy with: install #"):
        ask_for_one(good, Kind.REMOVE, by=None)
    assert runner.work_off() == 2
    found = dict(Installation.objects.values_list("server_name", "state"))
    assert found == {"good": State.DONE, "dead": State.FAILED}
    with pytest.raises(Invalid):
        ask_for_one(ensure_local_server(), Kind.REMOVE, by=None)


def test_what_was_lost_with_its_worker_is_queued_again(machine: Machine) -> None:
    begun = ask_for_one(machine.server(), Kind.INSTALL, by=None)
    OrmQ.objects.all().delete()
    assert queue_due_installations() == 0  # somebody may be about to take it
    long_ago = timezone.now() - timedelta(minutes=1)
    Installation.objects.filter(pk=begun.pk).update(queued_at=long_ago)
    assert queue_due_installations() == 1
    [message] = OrmQ.objects.all()
    assert message.key == "runs"


def test_an_agent_brought_by_somebody_else_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    with RealAgent() as agent:
        server = machine.server(agent_port=agent.port, agent_token=agent.token)
        done = carry_out(server, Kind.REMOVE)
        assert done.state == State.FAILED and "was not installed by the site" in done.reason
        done = carry_out(server, Kind.INSTALL)
        assert done.state == State.FAILED and f"is taken by process {agent.pid} (" in done.reason
        assert server.agent_token == agent.token and asked(server, "GET", "/report")


def test_a_row_whose_workers_always_die_ends_at_last(machine: Machine) -> None:
    begun = ask_for_one(machine.server(), Kind.INSTALL, by=None)
    past = timezone.now() - timedelta(seconds=1)
    Installation.objects.filter(pk=begun.pk).update(state=State.RUNNING, leased_until=past, attempts=5)
    runner.work_off()
    begun.refresh_from_db()
    assert (begun.state, begun.reason) == (State.FAILED, "It was begun 5 times and its worker ended each time.")


def test_what_ended_long_ago_is_forgotten(machine: Machine) -> None:
    server = machine.server()
    ended = {"server": server, "server_name": server.name, "state": State.DONE}
    old = Installation.objects.create(**ended, created_at=timezone.now() - runner.KEPT * 2)
    kept = Installation.objects.create(**ended)
    runner.work_off()
    assert list(Installation.objects.values_list("pk", flat=True)) == [kept.pk] and old.pk != kept.pk


def test_one_machine_entered_twice_keeps_its_agent(machine: Machine) -> None:
    first, second = machine.server("first"), machine.server("second")
    carry_out(first, Kind.INSTALL)
    files = machine.files()
    done = carry_out(second, Kind.INSTALL)
    assert done.state == State.FAILED and "The agent there is that of first" in done.reason
    assert machine.files() == files and asked(first, "GET", "/report") and second.agent_token == ""


def test_an_upgrade_that_does_not_start_is_taken_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that keeps the agent running and the agent's own guard do not get into each other's way."""
    server = machine.server()
    carry_out(server, Kind.INSTALL)
    pid, own = run_forever(server), release.own_release()
    source = own.source.replace(f'"{own.version}"', '"99.0"', 1)
    source = source.replace("    handed.tell_started()\n", "    os._exit(5)\n")
    bad = replace(own, version="99.0", source=source, sha256=hashlib.sha256(source.encode()).hexdigest())
    monkeypatch.setattr(upgrading, "own_release", lambda: bad)
    monkeypatch.setattr(upgrading, "TAKES_PLACE_SECONDS", 6.0)
    done = carry_out(server, Kind.UPGRADE)
    assert done.state == State.FAILED and "took it back" in done.reason, done.steps
    assert "upgrade.failed" in step_of(done, "report")["output"]
    assert asked(server, "GET", "/report")["agent"]["version"] == own.version and is_running(pid)
    monkeypatch.setattr(upgrading, "own_release", lambda: own)
    assert carry_out(server, Kind.INSTALL).state == State.DONE
    assert len(machine.agent_pids()) == 1 and is_running(pid)
