"""The installer as a program of its own, run by hand on this machine below a directory of the test's own."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.real_agent import AGENT_FILE, PYTHON, is_running, wait_until
from tests.real_sshd import require

INSTALLER = AGENT_FILE.with_name("install_agent.py")
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="installs as root does")


@pytest.fixture
def installer() -> ModuleType:
    """The program's functions."""
    spec = importlib.util.spec_from_file_location("install_agent", INSTALLER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["install_agent"] = module
    spec.loader.exec_module(module)
    return module


# What a machine boots with, private to one process: its own /run, crontabs and cron.d, and no jobs of this machine.
CRON_OF_ITS_OWN = """
mount -t tmpfs none /run
mount --bind "$1/spool" /var/spool/cron
mount --bind "$1/cron.d" /etc/cron.d
mount --bind /dev/null /etc/crontab
shift
exec "$@"
"""


class Machine:
    """A root directory to install below, and what is asked of the installer there."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port = root, port
        self.environment = dict(os.environ)
        self.before: list[str] = []

    def ask(self, verb: str, **request: Any) -> dict[str, Any]:
        """As the site does it: one JSON object in, one answer out."""
        body = {"do": verb, "root": str(self.root), "host": "127.0.0.1", "port": self.port, **request}
        done = subprocess.run(
            [*self.before, PYTHON, "-I", str(INSTALLER)],
            input=json.dumps(body),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        mark, _, answer = done.stdout.strip().splitlines()[-1].partition(" ")
        assert mark == "INFINI-ANSWER", done
        return dict(json.loads(answer))

    def by_hand(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        place = ["--root", str(self.root), "--port", str(self.port), "--agent", str(AGENT_FILE)]
        return subprocess.run(
            [*self.before, PYTHON, str(INSTALLER), *place, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def files(self) -> dict[str, int]:
        """Every path below the root, with its mode."""
        return {str(path.relative_to(self.root)): path.lstat().st_mode for path in sorted(self.root.rglob("*"))}

    def agent_pids(self) -> list[int]:
        return self.pids_with(str(self.root / "opt/infini-agent/infini_agent.py"), "--state-dir")

    def pids_with(self, *words: str) -> list[int]:
        """The processes that have these words in their command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_running(int(entry.name)):
                with contextlib.suppress(OSError):
                    if {word.encode() for word in words} <= set((entry / "cmdline").read_bytes().split(b"\0")):
                        found.append(int(entry.name))
        return found

    def has_cron_of_its_own(self, kind: str) -> None:
        """From here on the installer sees a cron whose crontabs are not this machine's, with or without a cron.d."""
        for name in ("spool", "spool/crontabs", "cron.d"):
            (self.root / name).mkdir()
        (self.root / "etc/cron.d").rmdir()
        if kind == "cron.d":
            (self.root / "etc/cron.d").symlink_to(self.root / "cron.d")
        namespace = ["unshare", "--mount", "--propagation", "private"]
        self.before = [*namespace, "/bin/sh", "-ec", CRON_OF_ITS_OWN, "sh", str(self.root)]

    def crash(self, *keys: str) -> None:
        """End all that runs, as a power cut does, and leave files that are of another boot."""
        for pid in self.pids_with("/bin/sh", str(self.root / "opt/infini-agent/supervise.sh")):
            os.kill(pid, 9)
        for pid in self.agent_pids():
            os.kill(pid, 9)
        for key in keys:
            folder = self.root / "var/lib/infini-agent/instances" / key
            record = json.loads((folder / "process.json").read_text())
            for pid in (record["shim"][0], record["process"][0]):
                os.kill(pid, 9)
                wait_until(lambda pid=pid: not is_running(pid))
            boot = record["process"][2]
            for name in ("instance.json", "process.json"):
                (folder / name).write_text((folder / name).read_text().replace(boot, "the-boot-before"))
        wait_until(lambda: not self.agent_pids())


@pytest.fixture
def machine(tmp_path: Path, free_port: int) -> Iterator[Machine]:
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    machine = Machine(tmp_path, free_port)
    yield machine
    machine.by_hand("--remove")
    assert machine.agent_pids() == []


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@ROOT_ONLY
def test_by_hand_from_nothing_to_an_agent_and_back(machine: Machine) -> None:
    done = machine.by_hand("--host", "127.0.0.1")
    assert done.returncode == 0, done.stderr
    folder = machine.root / "opt/infini-agent"
    token = (folder / "token").read_text().strip()
    assert token in done.stdout and "BEGIN CERTIFICATE" in done.stdout and "PRIVATE KEY" not in done.stdout
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in ("token", "agent.key", "infini_agent.py")}
    assert modes == {"token": 0o600, "agent.key": 0o600, "infini_agent.py": 0o755}
    cron = (machine.root / "etc/cron.d/infini-agent").read_text()
    assert f"@reboot root /bin/sh {folder}/supervise.sh" in cron and cron.endswith("\n")
    [pid] = machine.agent_pids()

    # Again: nothing is written, nothing is started.
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != "agent.log"}
    assert machine.by_hand("--host", "127.0.0.1").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert machine.agent_pids() == [pid]

    # The loop starts an agent that died.
    os.kill(pid, 9)
    wait_until(lambda: machine.agent_pids() not in ([], [pid]), 15)

    assert machine.by_hand("--remove").returncode == 0
    assert machine.agent_pids() == []
    left = [path for path in machine.files() if "infini" in path]
    assert left == []


@ROOT_ONLY
def test_looking_changes_nothing(machine: Machine) -> None:
    before = machine.files()
    seen = machine.ask("look")
    assert machine.files() == before
    assert (seen["supervision"], seen["wrong"], seen["version"]) == ("cron.d", "it does not run", "")
    assert seen["not_writable"] == "" and seen["port_taken_by"] == ""


@ROOT_ONLY
def test_with_systemd_the_unit_is_written_enabled_and_started(machine: Machine, installer: ModuleType) -> None:
    """systemctl is a script here that notes what it is asked and starts the unit's command; the rest is real."""
    (machine.root / "run/systemd/system").mkdir(parents=True)
    tools = machine.root / "tools"
    tools.mkdir()
    unit = machine.root / "etc/systemd/system/infini-agent.service"
    (tools / "systemctl").write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tools}/asked\n'
        'case "$1" in\n'
        '--version) echo "systemd 255 (255.4)" ;;\n'
        f"is-enabled) [ -f {unit} ] && echo enabled ;;\n"
        f"restart) kill $(cat {tools}/pid) 2>/dev/null\n"
        f"  sh -c \"$(sed -n 's/^ExecStart=//p' {unit}) >/dev/null 2>&1 & echo \\$! > {tools}/pid\" ;;\n"
        f"disable) kill $(cat {tools}/pid) ;;\n"
        "esac\n"
    )
    (tools / "systemctl").chmod(0o755)
    machine.environment["PATH"] = f"{tools}:{os.environ['PATH']}"
    done = machine.by_hand("--host", "127.0.0.1")
    assert done.returncode == 0, done.stderr
    text = unit.read_text()
    for line in ("KillMode=process", "Delegate=yes", "DelegateSubgroup=agent", "Restart=always"):
        assert line in text.splitlines()
    asked = (tools / "asked").read_text()
    assert asked.index("daemon-reload") < asked.index("enable infini-agent") < asked.index("restart infini-agent")
    assert not (machine.root / "etc/cron.d/infini-agent").exists()
    assert machine.by_hand("--remove").returncode == 0
    assert not unit.exists() and "disable --now infini-agent" in (tools / "asked").read_text()


def test_the_unit_passes_systemd_analyze(installer: ModuleType, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing = "systemd-analyze is not installed: the unit was not checked"
        pytest.fail(missing) if os.environ.get("INFINI_CI") == "1" else pytest.skip(missing)
    told = subprocess.run([analyze, "--version"], capture_output=True, text=True).stdout
    version = int(told.split()[1])
    command = [sys.executable, str(tmp_path / "with space and 100%" / "infini_agent.py"), "--host", "10.0.0.7"]
    unit = tmp_path / "infini-agent.service"
    unit.write_text(installer.unit_text(command, version))
    done = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    # What the check cannot know: without these each restart of the agent would end the instances.
    assert {"KillMode=process", "Delegate=yes"} <= set(unit.read_text().splitlines())


@ROOT_ONLY
def test_an_instance_outlives_a_removal_and_is_found_again(machine: Machine, installer: ModuleType) -> None:
    assert machine.by_hand("--host", "127.0.0.1").returncode == 0
    pid = ask_agent(machine, "POST", "/service/one/deploy", {"command": "exec sleep 600", "port": None})["pid"]
    try:
        assert machine.ask("look")["instances"] == ["one"]
        done = machine.by_hand("--remove")
        assert done.returncode == 0 and "these instances go on: one" in done.stdout
        assert is_running(pid) and (machine.root / "var/lib/infini-agent/instances/one").is_dir()
        assert not (machine.root / "opt/infini-agent").exists()
        assert machine.by_hand("--host", "127.0.0.1").returncode == 0
        found = ask_agent(machine, "GET", "/service/one/status")
        assert (found["pid"], found["phase"]) == (pid, "running")
        assert machine.ask("stop_instances") == {"stopped": ["one"]}
        assert not is_running(pid) and machine.ask("look")["instances"] == []
    finally:
        if is_running(pid):
            os.kill(pid, 9)


@ROOT_ONLY
def test_what_is_in_the_way_is_named(machine: Machine, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", machine.port)):
        assert f"process {os.getpid()} (" in machine.ask("look")["port_taken_by"]
        done = machine.by_hand("--host", "127.0.0.1")
    assert done.returncode == 1 and f"Port {machine.port} is taken by process {os.getpid()}" in done.stderr
    (machine.root / "opt").write_text("a file")
    assert "is no directory" in machine.ask("look")["not_writable"]
    assert machine.ask("source", source="VERSION")["refused"]
    (machine.root / "opt").unlink()


@ROOT_ONLY
def test_secrets_others_can_read_are_seen_and_closed(machine: Machine) -> None:
    assert machine.by_hand("--host", "127.0.0.1").returncode == 0
    key = machine.root / "opt/infini-agent/agent.key"
    key.chmod(0o644)
    assert machine.ask("look")["token_open"] is True
    machine.ask("close_secrets")
    assert key.stat().st_mode & 0o777 == 0o600 and machine.ask("look")["token_open"] is False


@ROOT_ONLY
def test_a_key_that_does_not_fit_counts_as_no_certificate(machine: Machine) -> None:
    assert machine.by_hand("--host", "127.0.0.1").returncode == 0
    assert "BEGIN CERTIFICATE" in machine.ask("look")["certificate"]
    (machine.root / "opt/infini-agent/agent.key").write_text("cut off")
    assert machine.ask("look")["certificate"] == ""


def test_one_crontab_line_whatever_else_is_there(installer: ModuleType, tmp_path: Path) -> None:
    place = installer.Place({"root": str(tmp_path)})
    line = installer.cron_line(place)
    mine = ["# my own", "0 3 * * * backup", line]
    assert installer.with_cron_line(["# my own", "0 3 * * * backup"], place, line) == mine
    assert installer.with_cron_line(mine, place, line) == mine
    assert installer.with_cron_line(mine, place) == mine[:2]


@ROOT_ONLY
@pytest.mark.parametrize("kind", ["cron.d", "crontab"])
def test_cron_starts_the_agent_at_boot_and_that_its_instances(machine: Machine, kind: str) -> None:
    """The real cron reads what the installer wrote. The kernel's boot id cannot change here: that of the files does."""
    require(shutil.which("cron") and shutil.which("crontab"), "cron")
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this account may make no mount namespace")
    machine.has_cron_of_its_own(kind)
    assert machine.by_hand("--host", "127.0.0.1").returncode == 0
    assert machine.ask("look")["supervision"] == kind
    for key, policy in (("wanted", "always"), ("once", "never")):
        ask_agent(machine, "POST", f"/service/{key}/deploy", {"command": "exec sleep 600", "restart": policy})
    machine.crash("wanted", "once")

    with subprocess.Popen([*machine.before, "cron", "-f"], start_new_session=True) as cron:
        try:
            wait_until(machine.agent_pids, 20, "cron has started the agent")
            found = {}

            def comes_back() -> bool:
                with contextlib.suppress(OSError):
                    found.update(ask_agent(machine, "GET", "/service/wanted/status"))
                return found.get("phase") == "running"

            wait_until(comes_back, 20, "the instance is back")
            assert found["restarts"] == 1 and "rebooted" in found["restart_history"][0]["reason"]
            assert ask_agent(machine, "GET", "/service/once/status")["phase"] == "failed"
            machine.ask("stop_instances")
            assert machine.by_hand("--remove").returncode == 0 and machine.agent_pids() == []
        finally:
            cron.kill()
    written = [path for name in ("spool", "cron.d") for path in (machine.root / name).rglob("*") if path.is_file()]
    assert not [path for path in written if "infini" in path.read_text()]


def ask_agent(machine: Machine, method: str, path: str, body: Any = None) -> dict[str, Any]:
    token = (machine.root / "opt/infini-agent/token").read_text().strip()
    context = ssl.create_default_context(cafile=str(machine.root / "opt/infini-agent/agent.pem"))
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", machine.port, timeout=20, context=context)
    data = json.dumps({k: v for k, v in body.items() if v is not None}) if body else None
    with contextlib.closing(connection):
        connection.request(method, path, body=data, headers={"Authorization": f"Bearer {token}"})
        return dict(json.loads(connection.getresponse().read()))
