"""Accounts that are not root: with sudo and its password, without any of it; each a throw-away one of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inventory.installation.states import Kind, State
from tests.inventory.installing import Machine, asked, carry_out, machine_at, run_forever, states, step_of
from tests.real_agent import is_running
from tests.real_sshd import require

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes accounts"),
    pytest.mark.django_db(transaction=True),
]


@pytest.fixture
def people(transactional_db: None, settings: Any) -> Iterator[Machine]:
    """A machine whose account logs in by password, with a place that is open to it, so not below pytest's own."""
    root = Path("/tmp") / f"infini-install-{os.getpid()}"
    try:
        with machine_at(root, settings, password_user=True) as machine:
            root.chmod(0o777)
            yield machine
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def sudoer(name: str) -> Iterator[None]:
    """For a moment the account may use sudo, with its own password."""
    require(shutil.which("sudo"), "sudo")
    path = Path("/etc/sudoers.d") / name.replace(".", "-")
    path.write_text(f"{name} ALL=(ALL) PASSWD: ALL\n")
    path.chmod(0o440)
    try:
        yield
    finally:
        path.unlink()


def test_sudo_with_the_stored_password(people: Machine) -> None:
    login = {"password": people.sshd.password, "private_key": ""}
    seen: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with sudoer(people.sshd.username):
            server = people.server(**login)
            done = carry_out(server, Kind.INSTALL)
            again = carry_out(server, Kind.INSTALL)
    finally:
        over.set()
        watcher.join()
    assert done.state == State.DONE, done.steps
    assert "as root by sudo with the stored password" in step_of(done, "look")["text"]
    assert people.folder.stat().st_uid == 0 and (people.folder / "token").stat().st_uid == 0
    assert asked(server, "GET", "/report")
    assert states(again)["start"] == states(again)["token"] == "unchanged"
    assert not [words for words in seen if people.sshd.password.encode() in words]
    assert people.sshd.password not in str(done.steps)


def test_without_root_it_lives_in_the_home_and_the_crontab_of_the_account(people: Machine) -> None:
    require(shutil.which("crontab"), "cron")
    name = people.sshd.username
    home = people.root / "home" / name
    (people.root / "home").mkdir()
    home.mkdir()
    shutil.chown(home, name, name)
    subprocess.run(["crontab", "-u", name, "-"], input=b"# my own\n", check=True)
    try:
        server = people.server(password=people.sshd.password, private_key="")
        done = carry_out(server, Kind.INSTALL)
        assert done.state == State.DONE, done.steps
        assert f"as {name}, without root: in its home directory" in step_of(done, "look")["text"]
        folder = home / ".infini-agent"
        assert (folder / "token").stat().st_mode & 0o777 == 0o600 and (folder / "token").owner() == name
        lines = crontab_of(name)
        assert lines[0] == "# my own" and f"{folder}/supervise.sh" in lines[1] and len(lines) == 2
        pid = run_forever(server)
        assert states(carry_out(server, Kind.INSTALL))["supervise"] == "unchanged"
        assert crontab_of(name) == lines

        done = carry_out(server, Kind.REMOVE)
        assert done.state == State.DONE, done.steps
        assert crontab_of(name) == ["# my own"] and is_running(pid)
        assert sorted(path.name for path in folder.iterdir()) == ["state"]
    finally:
        subprocess.run(["crontab", "-r", "-u", name], check=False, capture_output=True)


def test_an_account_that_may_write_nowhere_is_told(people: Machine) -> None:
    people.root.chmod(0o755)
    done = carry_out(people.server(password=people.sshd.password, private_key=""), Kind.INSTALL)
    assert (done.state, done.reason) == (
        State.FAILED,
        f"{people.root} cannot be written to by {people.sshd.username}.",
    )
    assert [path.name for path in people.root.iterdir()] == ["etc"]


def test_a_wrong_password_is_told_and_nothing_is_tried_by_sudo(people: Machine) -> None:
    done = carry_out(people.server(password="not-the-password", private_key=""), Kind.INSTALL)
    assert done.state == State.FAILED and "not-the-password" not in str(done.steps) + done.reason
    assert states(done)["look"] == "failed" and people.agent_pids() == []


def crontab_of(name: str) -> list[str]:
    return subprocess.run(["crontab", "-l", "-u", name], capture_output=True, text=True).stdout.splitlines()
