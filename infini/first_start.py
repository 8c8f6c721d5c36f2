"""What must hold before the site's programs start: a usable data directory, free ports, a database, a first user."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection
from django.utils.module_loading import import_string

from infini import secrets
from infini.local_agent import LocalAgent, end_earlier_agent
from infini.models import User

ADMIN = "admin"
Say = Callable[[str], None]


class StartRefused(ImproperlyConfigured):
    """Why the site cannot start, in one line that says what to do; manage.py prints it and exits with 2."""


def up_lock_path() -> Path:
    return settings.DATA_DIR / "up.lock"


def password_path() -> Path:
    return settings.DATA_DIR / "admin-password"


def prepared_path() -> Path:
    """Tells the version whose first start was here."""
    return settings.DATA_DIR / "prepared-for"


def prepare_data_dir() -> None:
    """Make the data directory, ours alone when it is new, and see that it can be written."""
    path = settings.DATA_DIR
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if set(os.listdir(path)) <= {settings.SECRETS_DIR.name}:
            path.chmod(0o700)
        for folder in (settings.UPLOADS_DIR, settings.LOGS_DIR, settings.AGENT_STATE_DIR):
            folder.mkdir(exist_ok=True, mode=0o700)
        probe = path / f".writable.{os.getpid()}"
        probe.write_text("written to see whether it can be\n")
        probe.unlink()
    except OSError as error:
        raise StartRefused(
            f"The data directory {path} cannot be used ({error.strerror}). "
            "Set INFINI_DATA_DIR to a directory this user can write to."
        ) from None


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on a file, as long as this process lives at most; yields its descriptor.

    Without ``wait`` raises BlockingIOError when another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def only_one() -> Iterator[None]:
    """Be the one `up` of this data directory; the lock file tells others the PID."""
    try:
        with file_lock(up_lock_path(), wait=False) as descriptor:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
    except BlockingIOError:
        raise StartRefused(
            f"Infini already runs on {settings.DATA_DIR} (process {up_lock_path().read_text().strip()}). "
            "`make down` ends it; to run a second one, set INFINI_DATA_DIR and INFINI_PORT."
        ) from None


def running_pid() -> int | None:
    """The PID of the `up` that runs on this data directory: the lock must be held, not only the file be there."""
    if not up_lock_path().exists():
        return None
    try:
        with file_lock(up_lock_path(), wait=False):
            return None
    except BlockingIOError:
        return int(up_lock_path().read_text().strip() or 0) or None


def check_ports(say: Say) -> None:
    """Refuse ports that are taken; an agent of ours that an earlier start left makes way."""
    if settings.PORT == settings.AGENT_PORT:
        raise StartRefused(f"INFINI_PORT and INFINI_AGENT_PORT are both {settings.PORT}; give them different ports.")
    _check_port(settings.HOST, settings.PORT, "INFINI_PORT")
    if settings.GATEWAY_PORT:
        if settings.GATEWAY_PORT in (settings.PORT, settings.AGENT_PORT):
            raise StartRefused(f"INFINI_GATEWAY_PORT is {settings.GATEWAY_PORT}, which another program has.")
        _check_port(settings.HOST, settings.GATEWAY_PORT, "INFINI_GATEWAY_PORT")
    try:
        _check_port("127.0.0.1", settings.AGENT_PORT, "INFINI_AGENT_PORT")
    except StartRefused:
        earlier = end_earlier_agent(LocalAgent(settings.AGENT_PORT, settings.AGENT_STATE_DIR))
        if earlier is None:
            raise
        say(f"An agent left by an earlier start (process {earlier}) was ended; its instances go on running.")
        _wait_for_port("127.0.0.1", settings.AGENT_PORT, "INFINI_AGENT_PORT")


def _wait_for_port(host: str, port: int, variable: str, *, seconds: float = 5.0) -> None:
    """As ``_check_port``, with time for who is just leaving: an agent that answers no more may still hold its port."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            return _check_port(host, port, variable)
        except StartRefused:
            time.sleep(0.1)
    _check_port(host, port, variable)


def _check_port(host: str, port: int, variable: str) -> None:
    bare = host.strip("[]")
    try:
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((bare, port))
            probe.listen(1)
    except PermissionError:
        raise StartRefused(f"This user may not listen on port {port}; set {variable} to one above 1023.") from None
    except (socket.gaierror, UnicodeError):
        raise StartRefused(f"INFINI_HOST is {host!r}, which is no address of this machine.") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartRefused(
                f"Port {port} on {host} is in use by another program. Stop that, or set {variable} to a free port."
            ) from None
        raise StartRefused(f"Cannot listen on {host} port {port}: {error.strerror}. Set INFINI_HOST.") from None


def prepare_database() -> str | None:
    """Migrate, make the first user, run the steps of a start. Safe for several processes at once.

    Returns the password of ``admin`` when it was generated just now.
    """
    with file_lock(settings.DATA_DIR / "migrate.lock"):
        try:
            call_command("migrate", interactive=False, verbosity=0)
            password = _make_first_user()
        except DatabaseError as error:
            raise StartRefused(f"The database cannot be brought up to date: {error}") from None
        finally:
            connection.close()
        _run_steps()
        connection.close()
    return password


def _make_first_user() -> str | None:
    if User.objects.filter(username=ADMIN).exists():
        return None
    generated = not settings.ADMIN_PASSWORD
    # The file comes first: a start cut off in between goes on with the password that stands there.
    password = secrets.read_or_create(password_path(), secrets.make_password) if generated else settings.ADMIN_PASSWORD
    try:
        User.objects.create_superuser(ADMIN, password=password)
    except IntegrityError:
        return None  # made meanwhile by a start on another machine
    return password if generated else None


def _run_steps() -> None:
    """The steps of every start, and once per version those that bring reference data."""
    marker = prepared_path()
    fresh = not marker.exists() or marker.read_text().strip() != settings.VERSION
    for name in [*(settings.FIRST_START_STEPS if fresh else []), *settings.START_STEPS]:
        import_string(name)()
    if fresh:
        marker.write_text(settings.VERSION + "\n")
