"""Real OpenSSH servers of the tests' own: each with its own config, host keys and accounts, on a free loopback port.

    with RealSshd(max_sessions=2) as sshd:
        server = Server(name="gpu-1", host_ip=sshd.host, port=sshd.port, username=sshd.username,
                        private_key=sshd.private_key, host_key=sshd.host_key)

The account is the one that runs the tests and logs in by key; with ``password_user`` (needs root) a throw-away one
that logs in by password too. ``FakeServer`` stands in for what is no SSH server: it hangs, babbles or hangs up.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.real_agent import wait_until

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
KEYGEN = shutil.which("ssh-keygen")
SFTP_SERVER = next(
    (p for p in ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server") if os.path.exists(p)),
    "internal-sftp",
)


def require(condition: object, what: str) -> None:
    """Skip by name what this machine cannot do; in the project's own runs that is a failure."""
    if not condition:
        if os.environ.get("INFINI_CI"):
            pytest.fail(f"missing: {what}")
        pytest.skip(f"needs {what}")


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """Make a key pair with ssh-keygen and return the private one; ``path``.pub holds the public one."""
    path.unlink(missing_ok=True)
    assert KEYGEN
    bits = ["-b", "2048"] if kind == "rsa" else []
    command = [KEYGEN, "-q", "-t", kind, *bits, "-N", passphrase, "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path.read_text()


def public_key(path: Path) -> str:
    """The public half of a key made by ``make_key``, as "type base64"."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


class RealSshd:
    """One sshd with everything of its own. ``options`` are further lines of its configuration.

    ``private_key`` logs ``username`` in. ``password_user``: a new account with a password (root only), removed
    at the end; ``ask_password_as="keyboard-interactive"`` lets it log in by questions alone.
    """

    def __init__(
        self,
        *options: str,
        host: str = "127.0.0.1",
        max_sessions: int | None = None,
        host_key_kinds: tuple[str, ...] = ("ed25519",),
        password_user: bool = False,
        ask_password_as: str = "password",
        sftp_server: str = SFTP_SERVER,
    ) -> None:
        require(SSHD and KEYGEN, "the OpenSSH server (package openssh-server)")
        require(not password_user or os.geteuid() == 0, "root, to make an account with a password")
        self.host = host
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="infini-sshd-"))
        self.folder.chmod(0o755)
        (self.folder / "home").mkdir()
        self.max_sessions = max_sessions
        self.options = list(options)
        self.username = getpass.getuser()
        self.password = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._made_user = False
        self._sftp_server = sftp_server
        try:
            self._make_accounts(password_user)
            self.host_key_kinds = host_key_kinds
            for kind in host_key_kinds:
                make_key(self.folder / f"host_{kind}", kind)
            self.private_key = make_key(self.folder / "login")
            shutil.copy(self.folder / "login.pub", self.folder / "authorized_keys")
            self._asks = ask_password_as
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RealSshd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def host_key(self) -> str:
        """The first host key, as an OpenSSH line."""
        return public_key(self.folder / f"host_{self.host_key_kinds[0]}")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def authorize(self, key_file: Path) -> None:
        """Let a key made by ``make_key`` log in as well."""
        with open(self.folder / "authorized_keys", "a") as file:
            file.write(Path(f"{key_file}.pub").read_text())

    def renew_host_key(self) -> None:
        """Start again on the same port with another host key, as after a new installation."""
        self.stop()
        for kind in self.host_key_kinds:
            make_key(self.folder / f"host_{kind}", kind)
        self.start()

    def start(self) -> None:
        """Start on the port it had, or a free one."""
        wanted = self.port
        for _attempt in range(5):
            self.port = wanted or free_port(self.host)
            self._write_config()
            log = open(self.folder / "log", "ab")  # noqa: SIM115
            with log:
                self.process = subprocess.Popen(
                    [str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                )
            if wait_until(self._answers_or_ended, what=f"sshd: {self.log[-500:]}") == "answers":
                self._end_with_us(self.process.pid)
                return
        raise AssertionError(f"sshd did not start: {self.log[-2000:]}")

    def _end_with_us(self, pid: int) -> None:
        """A test run that is killed leaves no server behind: this one reads what nobody writes until we are gone."""
        command = ["sh", "-c", f"read _; pkill -KILL -g {pid}"]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def connections(self) -> list[int]:
        """The processes of sshd that serve somebody now."""
        return [pid for pid in _descendants(self.pid) if b"sshd" in _command(pid)]

    def processes(self) -> list[int]:
        """Everything that runs below this sshd."""
        return _descendants(self.pid)

    def kill_connections(self) -> None:
        """Cut every connection as a crash of the server would; what ran over it goes on."""
        for pid in self.connections():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the server and what it serves."""
        if self._watch:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None
        if self.process is None:
            return
        everything = [*_descendants(self.process.pid), self.process.pid]
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def close(self) -> None:
        self.stop()
        if self._made_user:
            subprocess.run(["pkill", "-KILL", "-u", self.username], check=False, capture_output=True)
            # --force: what was killed may not have gone yet
            subprocess.run(["userdel", "--remove", "--force", self.username], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_accounts(self, password_user: bool) -> None:
        # sshd leaves its rights in this directory; packages make it when the service starts.
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        if not password_user:
            return
        self.username = f"infini-{secrets.token_hex(4)}"
        self.password = f"pw-{secrets.token_hex(8)}"
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", self.username], check=True)
        self._made_user = True
        line = f"{self.username}:{self.password}\n"
        subprocess.run(["chpasswd"], input=line.encode(), check=True, capture_output=True)

    def _write_config(self) -> None:
        asks_questions = self._asks == "keyboard-interactive"
        lines = [
            *self.options,  # of a setting given twice sshd takes the first
            # Commands run in login shells: an empty home keeps what the developer's profile does out of the tests.
            "" if self._made_user else f"SetEnv HOME={self.folder / 'home'}",
            f"ListenAddress {self.host}",
            f"Port {self.port}",
            *(f"HostKey {self.folder / f'host_{kind}'}" for kind in self.host_key_kinds),
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"PidFile {self.folder / 'pid'}",
            f"PasswordAuthentication {'no' if asks_questions or not self.password else 'yes'}",
            f"KbdInteractiveAuthentication {'yes' if asks_questions else 'no'}",
            f"UsePAM {'yes' if asks_questions else 'no'}",
            "PermitRootLogin yes",
            "StrictModes no",
            "AcceptEnv LANG LC_*",
            "PrintMotd no",
            "UseDNS no",
            "LogLevel VERBOSE",
            "MaxStartups 200",
            "PerSourcePenalties no" if _knows_penalties() else "",
            f"Subsystem sftp {self._sftp_server}",
            f"MaxSessions {self.max_sessions}" if self.max_sessions is not None else "",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")

    def _answers_or_ended(self) -> str:
        assert self.process is not None
        if self.process.poll() is not None:
            return "ended"
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1) as sock:
            return "answers" if sock.recv(4) == b"SSH-" else ""
        return ""


class FakeServer:
    """Something on a port that is no SSH server: ``serve`` gets each connection, in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket, threading.Event], None]) -> None:
        self._serve = serve
        self._ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._socket.getsockname()[:2]
        self.accepted = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _address = self._socket.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._handle, args=(sock,), daemon=True).start()

    def _handle(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._serve(sock, self._ended)


def says_nothing(_sock: socket.socket, ended: threading.Event) -> None:
    """Accepts and stays silent."""
    ended.wait()


def hangs_up(_sock: socket.socket, _ended: threading.Event) -> None:
    """Accepts and closes at once."""


def babbles(sock: socket.socket, ended: threading.Event) -> None:
    """Greets without end, and never says that it speaks SSH."""
    while not ended.is_set():
        sock.sendall(b"welcome " * 100)


def trickles(sock: socket.socket, ended: threading.Event) -> None:
    """Greets without end, so slowly that no single wait is long."""
    while not ended.wait(0.05):
        sock.sendall(b"x")


def says(text: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Sends ``text`` and waits."""

    def serve(sock: socket.socket, ended: threading.Event) -> None:
        sock.sendall(text)
        ended.wait()

    return serve


def refused_port() -> int:
    """A port nobody listens on."""
    return free_port()


def _knows_penalties() -> bool:
    """OpenSSH 9.8 and newer slow down who fails to log in."""
    told = subprocess.run([str(SSHD), "-V"], capture_output=True, check=False).stderr.decode()
    number = told.partition("OpenSSH_")[2].partition("p")[0].partition(",")[0]
    with contextlib.suppress(ValueError):
        major, _, minor = number.partition(".")
        return (int(major), int(minor)) >= (9, 8)
    return False


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def sshd() -> Iterator[RealSshd]:
    """A plain one, for those who import this fixture."""
    with RealSshd() as server:
        yield server
