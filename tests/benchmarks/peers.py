"""The field's tools for commands over SSH, measured beside ours, and OpenSSH servers on many loopback addresses.

``BENCH_PEERS`` names a folder with a ``fanout_runner.py``; ``BENCH_PEERS_PYTHON`` the Pythons that have the peers'
libraries, with colons between: each tool runs by the first that knows it. ansible runs where it lies beside one.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.real_agent import wait_until
from tests.real_sshd import SSHD, RealSshd

ASK = "echo $SSH_CONNECTION"  # whoever answers right was reached at the right address
EACH = 16  # addresses that one sshd takes


class ManySshd:
    """``count`` addresses from 127.0.0.1 on, one port, one account: an sshd for every 16 of them."""

    def __init__(self, count: int) -> None:
        self.hosts = [f"127.0.0.{n}" for n in range(1, count + 1)]
        first, *more = [self.hosts[at : at + EACH] for at in range(0, count, EACH)]
        listens = [f"ListenAddress {host}" for host in first[1:]]
        self.first = RealSshd(*listens, "MaxStartups 2000", "LogLevel ERROR")
        self._others: list[subprocess.Popen[bytes]] = []
        try:
            self._start(more)
        except BaseException:
            self.close()
            raise
        self.login = self.first.folder / "login"
        self.login.chmod(0o600)

    def __enter__(self) -> ManySshd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, more: list[list[str]]) -> None:
        lines = (self.first.folder / "sshd_config").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("ListenAddress", "PidFile"))]
        for number, hosts in enumerate(more, 1):
            config = self.first.folder / f"config-{number}"
            config.write_text("\n".join([*(f"ListenAddress {host}" for host in hosts), *kept, "PidFile none"]) + "\n")
            command = [str(SSHD), "-D", "-e", "-f", str(config)]
            self._others.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        for hosts in more:
            wait_until(lambda at=hosts[-1]: self._answers(at), 20, "all sshd answer")

    def _answers(self, host: str) -> bool:
        with suppress(OSError), socket.create_connection((host, self.first.port), timeout=1):
            return True
        return False

    def close(self) -> None:
        for one in self._others:
            one.kill()
            one.wait()
        self.first.close()


def xargs_ssh(server: ManySshd) -> float:
    """Seconds that OpenSSH's own client takes, 50 at a time and with the cheapest exchange: what is hardly beaten."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options.append("KexAlgorithms=ecdh-sha2-nistp256")
    words = [word for option in options for word in ("-o", option)]
    ssh = ["ssh", "-F", "none", *words, "-i", str(server.login), "-p", str(server.first.port)]
    began = time.perf_counter()
    command = ["xargs", "-P", "50", "-I%%", *ssh, f"{server.first.username}@%%", ASK]
    hosts = "\n".join(server.hosts)
    done = subprocess.run(command, input=hosts, capture_output=True, text=True, timeout=120, check=True)
    taken = time.perf_counter() - began
    assert len(done.stdout.splitlines()) == len(server.hosts)
    return taken


def pythons() -> list[Path]:
    named = os.environ.get("BENCH_PEERS_PYTHON", "") if os.environ.get("BENCH_PEERS") else ""
    return [Path(one).absolute() for one in named.split(":") if one]


def measure(tool: str, hosts: list[str], port: int, username: str, key: Path) -> dict[str, float] | None:
    """Seconds cold (logins and all) and warm, and how many answered right; None where the tool is not there."""
    if tool == "ansible raw":
        return _ansible(hosts, port, username, key)
    with tempfile.NamedTemporaryFile("w", suffix="-hosts") as file:
        file.write("\n".join(hosts) + "\n")
        file.flush()
        for python in pythons():
            runner = Path(os.environ["BENCH_PEERS"]).resolve() / "fanout_runner.py"
            command = [str(python), str(runner), tool, file.name, str(port), username, str(key), ASK]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode == 0:
                return dict(json.loads(done.stdout))
    return None


def _ansible(hosts: list[str], port: int, username: str, key: Path) -> dict[str, float] | None:
    """``raw`` with 50 forks; its masters stay, so that a second round is warm."""
    found = [python.with_name("ansible") for python in pythons() if python.with_name("ansible").exists()]
    if not found:
        return None
    folder = Path(tempfile.mkdtemp(prefix="a-"))  # short: the masters' sockets lie in it
    try:
        account = f"ansible_user={username}\nansible_port={port}\nansible_ssh_private_key_file={key}"
        (folder / "hosts").write_text("\n".join(hosts) + f"\n[all:vars]\n{account}\n")
        ways = "-o ControlMaster=auto -o ControlPersist=20s -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        told = {"HOME": str(folder), "SSH_CONTROL_PATH_DIR": str(folder / "c"), "SSH_ARGS": ways}
        told |= {"HOST_KEY_CHECKING": "False", "NOCOLOR": "1", "DEPRECATION_WARNINGS": "0"}
        env = {**os.environ, "LC_ALL": "C.UTF-8", **{f"ANSIBLE_{name}": text for name, text in told.items()}}
        command = [str(found[0]), "all", "-i", str(folder / "hosts"), "-m", "raw", "-a", ASK, "-f", "50"]
        taken, right = [], []
        for _round in ("cold", "warm"):
            began = time.perf_counter()
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=170, check=False)
            taken.append(time.perf_counter() - began)
            right.append(sum(f" {host} {port}" in done.stdout for host in hosts))
        for control in (folder / "c").glob("*"):
            subprocess.run(["ssh", "-o", f"ControlPath={control}", "-O", "exit", "x"], capture_output=True, check=False)
        return {"cold": taken[0], "warm": taken[1], "ok": min(right)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
