"""A PostgreSQL server of a test's own: in a temporary folder, on a free port, under an account without rights."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg

from tests.ports import free_port
from tests.real_agent import wait_until

# Where Debian's packages and others put the server's programs, which are not on everybody's PATH.
_FOLDERS = (*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/usr/pgsql/bin"))


def program(name: str) -> str | None:
    """The path of one of the server's programs; None when the server is not installed."""
    return shutil.which(name) or next((str(folder / name) for folder in _FOLDERS if (folder / name).exists()), None)


class RealPostgres:
    """Runs from ``start`` to ``stop``; ``url`` is what DATABASE_URL takes. Nothing is synced to disk."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="infini-pg-"))
        self.password = secrets.token_urlsafe(12)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._account = self._unprivileged()
        self._log = self.folder.with_suffix(".log")

    @property
    def url(self) -> str:
        return f"postgresql://infini:{self.password}@127.0.0.1:{self.port}/infini"

    def start(self) -> RealPostgres:
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(self.password)
        if self._account:
            shutil.chown(self.folder, self._account["user"], self._account["group"])
            shutil.chown(secret, self._account["user"], self._account["group"])
        make = [str(program("initdb")), "-D", str(data), "-U", "infini", "--pwfile", str(secret), "--no-sync"]
        self._run(*make, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
        self.port = free_port()
        settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "100"}
        argv = [str(program("postgres")), "-D", str(data), "-h", "127.0.0.1", "-p", str(self.port), "-k"]
        options = [word for item in settings.items() for word in ("-c", "=".join(item))]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*argv, str(self.folder), *options], stdout=log, stderr=subprocess.STDOUT, cwd="/", **self._account
            )
        wait_until(self._answers, 30, "PostgreSQL answers")
        with self.connect("postgres") as connection:
            connection.execute("CREATE DATABASE infini")
        return self

    def connect(self, name: str = "infini") -> psycopg.Connection:
        return psycopg.connect(self.url.rpartition("/")[0] + f"/{name}", autocommit=True, connect_timeout=5)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)  # ends sessions too
            self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._log.unlink(missing_ok=True)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self._log.read_text()
        with contextlib.suppress(psycopg.OperationalError), self.connect("postgres"):
            return True
        return False

    def _run(self, *argv: str) -> None:
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True, **self._account)
        assert done.returncode == 0, done.stdout + done.stderr

    def _unprivileged(self) -> dict[str, Any]:
        """PostgreSQL refuses to run as root: then as whoever owns nothing."""
        if os.geteuid() != 0:
            return {}
        account = pwd.getpwnam("nobody")
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
