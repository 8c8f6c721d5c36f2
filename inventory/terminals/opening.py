"""Opening a session: what the database knows first, then the network, then the row that says it is open."""

import asyncio
import logging
import re
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakValueDictionary

from channels.db import database_sync_to_async
from django.conf import settings
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from infini.errors import NotFound
from infini.models import User
from infini.off_loop import off_loop
from infini.visibility import visible
from inventory.models import Server
from inventory.ssh.access import SshAccess
from inventory.ssh.connections import connected
from inventory.ssh.errors import SshError
from inventory.ssh.shells import ShellChannel
from inventory.terminals import recording, rows
from inventory.terminals.recording import Recorder
from inventory.terminals.session import Session
from inventory.terminals.surroundings import Surroundings, surroundings_of

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 30.0
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Of one server: more at once would only take turns at the interpreter, and a dead server holds no more threads.
OPENED_AT_ONCE = 8
LANGUAGE = {"LANG": "C.UTF-8"}  # in the POSIX locale shells take the bytes of other scripts for commands
# Not the event loop's own threads: those serve the database, and a dead server would keep them for half a minute.
_openers = ThreadPoolExecutor(64, thread_name_prefix="terminal")
_doors: "WeakValueDictionary[int, asyncio.Semaphore]" = WeakValueDictionary()  # by server


@dataclass(frozen=True)
class Wanted:
    """What a client asked for."""

    server_id: int
    cols: int
    rows: int
    auto_command: str = ""
    service_id: int | None = None


@dataclass(frozen=True)
class _Plan:
    server: Server
    access: SshAccess
    surroundings: Surroundings | None
    recorded: bool


async def open_session(user: User, wanted: Wanted) -> Session:
    """Open a shell and hold it; raises NotFound, or SshError with one sentence, which stands in the timeline too."""
    plan = await off_loop(_plan, user, wanted)
    session = Session(
        key=rows.new_key(),
        user_id=user.pk,
        user_name=user.get_username(),
        server_id=plan.server.pk,
        server_name=plan.server.name,
    )
    session.cols, session.rows = wanted.cols, wanted.rows
    if plan.recorded:
        session.recorder = _recorder(session)
    try:
        async with _doors.setdefault(plan.server.pk, asyncio.Semaphore(OPENED_AT_ONCE)):
            connect = database_sync_to_async(_connect, thread_sensitive=False, executor=_openers)
            session.shell = await connect(session, plan)
    except SshError as error:
        await off_loop(rows.refused, user=user, server=plan.server, message=error.message)
        raise
    try:
        await off_loop(_write_row, session, user, plan)
    except BaseException:
        session.shell.close()
        raise
    if wanted.auto_command:
        session.shell.write(wanted.auto_command.encode() + b"\r")
    return session


def _plan(user: User, wanted: Wanted) -> _Plan:
    seen = visible(Server.objects.filter(pk=wanted.server_id), user)
    server = seen.defer("figures", "agent_token").order_by().first()
    if server is None:
        raise NotFound(_("There is no such server."))
    surroundings = None
    if wanted.service_id is not None:
        surroundings = surroundings_of(wanted.service_id, server.pk)
        if surroundings is None:
            raise NotFound(_("This service is not on this server."))
    try:
        access = SshAccess.of(server)
    except SshError as error:
        rows.refused(user=user, server=server, message=error.message)
        raise
    return _Plan(server, access, surroundings, rows.recorded(server))


def _connect(session: Session, plan: _Plan) -> ShellChannel:
    """In a thread: waits for the network, and pins a host key where the site says so."""
    with connected(plan.access, CONNECT_TIMEOUT_SECONDS) as connection:
        return connection.open_shell(
            session.cols,
            session.rows,
            on_data=session.from_shell,
            on_end=session.shell_ended,
            environment=LANGUAGE,
            command=_command(plan.surroundings),
            loop=session.loop,
        )


def _recorder(session: Session) -> Recorder:
    return Recorder(
        recording.recordings_dir() / f"{time.strftime('%Y%m%d-%H%M%S')}-{session.key[:12]}.cast",
        cols=session.cols,
        rows=session.rows,
        title=f"{session.user_name} on {session.server_name}",
        most_bytes=settings.RECORDING_MAX_BYTES,
    )


def _write_row(session: Session, user: User, plan: _Plan) -> None:
    rows.open_row(
        key=session.key,
        user=user,
        server=plan.server,
        account=plan.access.username,
        service_name=plan.surroundings.service_name if plan.surroundings else "",
        file=session.recorder.path.name if session.recorder else "",
    )


def _command(surroundings: Surroundings | None) -> str:
    """A login shell: the account's own as the server starts it, or one in a service's directory and environment."""
    if surroundings is None:
        return ""
    variables = {**surroundings.environment, "INFINI_SERVICE": surroundings.service_name}
    exports = " ".join(f"{name}={shlex.quote(str(text))}" for name, text in variables.items() if _NAME.fullmatch(name))
    steps = [f"export {exports}"]
    if surroundings.directory:
        steps.append(f"cd -- {shlex.quote(surroundings.directory)}")
    return "; ".join([*steps, 'exec "${SHELL:-/bin/sh}" -l'])
