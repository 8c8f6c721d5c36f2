"""The socket of a terminal; docs/terminal-protocol.md tells its frames.

A plain ASGI callable: what Channels does for each frame would cost more than all else on a key's way to its echo.
"""

import asyncio
import json
import logging
from typing import Any

import orjson
from django.urls import re_path
from django.utils.translation import get_language, override
from django.utils.translation import gettext as _

from infini.bodies import Receive, Scope, Send
from infini.errors import Forbidden, InfiniError, Invalid, NotFound
from infini.following_socket import LOOK_AGAIN_SECONDS, close_code
from infini.models import User
from infini.off_loop import off_loop
from infini.said import said
from infini.sockets import identify
from infini.visibility import visible
from inventory.models import Server
from inventory.ssh.errors import HostKeyChanged, HostKeyRefused
from inventory.terminals import registry, rows
from inventory.terminals.models import Ending, TerminalSession
from inventory.terminals.opening import Wanted, open_session
from inventory.terminals.outlet import Outlet
from inventory.terminals.session import End, Session, last_frame

logger = logging.getLogger(__name__)

MANAGE = "inventory.manage_terminal"
MOST_COLS = MOST_ROWS = 1000
HELD_INPUT_BYTES = 64 * 1024
NOT_OPENED = 4502


class _Over(Exception):
    """The socket is done with."""


class TerminalSocket:
    """One socket of one person at one server: before ``connect`` at no session, then at one until either ends."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.user: User = scope["user"]
        self.user_name = self.user.get_username()
        self.manages = False
        self.server_id = int(scope["url_route"]["kwargs"]["pk"])
        self._scope, self._receive = scope, receive
        self._outlet = Outlet(send)
        self._session: Session | None = None
        self._observing = False
        self._opening: asyncio.Task[None] | None = None
        self._size = (80, 24)
        self._held: list[bytes] = []  # typed before the shell was there
        self._leaving = False
        self._language = get_language()  # a session tells from tasks of its own

    async def run(self) -> None:
        """From the handshake to the last frame."""
        await self._receive()
        self._outlet.send({"type": "websocket.accept"})
        if listen := self._scope.get("extensions", {}).get("infini.listen"):  # our own web server; others do without
            listen(self._heard)
        looker = asyncio.create_task(self._look_again())
        try:
            await self._admit(self.user)  # who was found a moment ago
            while True:
                await self._take(await self._receive())
        except _Over:
            pass
        except InfiniError as error:
            self.refuse(error)
        except Exception:  # noqa: BLE001  (the edge of our code)
            logger.exception("terminal.socket_broken")
            self.leave({"type": "error", "message": _("Something went wrong on our side.")}, 1011)
        finally:
            self._gone()
            looker.cancel()
            await self._outlet.emptied()

    # What a session calls: nothing here waits

    def deliver(self, data: bytes) -> None:
        if not self._leaving:
            self._outlet.send({"type": "websocket.send", "bytes": data})

    def tell(self, frame: dict[str, Any]) -> None:
        if self._leaving:
            return
        if "message" in frame:
            with override(self._language):
                frame = frame | {"message": said(frame["message"])}
        self._outlet.send({"type": "websocket.send", "text": json.dumps(frame, ensure_ascii=False)})

    def leave(self, frame: dict[str, Any], code: int) -> None:
        """Say the last word and close; what the client still sends is not read any more."""
        if self._leaving:
            return
        self.tell(frame)
        self._outlet.send({"type": "websocket.close", "code": code})
        self._gone()

    def refuse(self, error: InfiniError) -> None:
        frame: dict[str, Any] = {"type": "error", "code": error.code, "message": error.message}
        if isinstance(error, HostKeyRefused):
            frame |= {"fingerprint": error.fingerprint, "key": error.offered}
        if isinstance(error, HostKeyChanged):
            frame["pinned_fingerprint"] = error.pinned_fingerprint
        self.leave(frame, close_code(error, NOT_OPENED))

    # Who asks

    async def _admit(self, user: User | None = None) -> None:
        self.manages = await off_loop(_admitted, user or self._scope, self.server_id)

    async def _look_again(self) -> None:
        """A login that ended, a key that was revoked, a server that is gone: told as at the beginning."""
        while not self._leaving:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            try:
                await self._admit()
            except InfiniError as error:
                self.refuse(error)
            except Exception:  # noqa: BLE001  (a database that is busy for once is no reason to cut anybody off)
                logger.exception("terminal.look_failed")

    # What the client sends

    async def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "websocket.disconnect":
            raise _Over
        if self._leaving:
            return
        data = message.get("bytes")
        if data is not None:
            self._type(data)
        else:
            await self._control(_frame(message.get("text") or ""))

    def _heard(self, data: bytes, is_binary: bool) -> bool:
        """The short way of keys and acknowledgements, which the web server itself goes when no other frame waits;
        False where it ends."""
        session = self._session
        if session is None:
            return False
        return self._typed(session, data) if is_binary else self._acknowledged(session, data)

    def _typed(self, session: Session, data: bytes) -> bool:
        if self._observing:
            return False
        if not session.input(data):
            with override(self._language):
                self.refuse(self._too_much())
        return True

    def _acknowledged(self, session: Session, data: bytes) -> bool:
        try:
            frame = _frame(data)
            if frame["type"] == "ack":
                session.acknowledge(self, _acked_bytes(frame))
                return True
        except Invalid:  # said on the long way
            pass
        return False

    def _type(self, data: bytes) -> None:
        if self._observing:
            return  # who watches does not type
        if self._session:
            taken = self._session.input(data)
        elif self._opening:
            taken = sum(map(len, self._held)) + len(data) <= HELD_INPUT_BYTES
            self._held.append(data)
        else:
            raise Invalid(_("Connect to a shell first; there is none to type into."))
        if not taken:
            raise self._too_much()

    @staticmethod
    def _too_much() -> Invalid:
        return Invalid(_("More was typed than the shell takes in; send large pastes in pieces."))

    async def _control(self, frame: dict[str, Any]) -> None:
        kind, session = frame["type"], self._session
        if kind == "connect":
            await self._connect(frame)
        elif kind == "observe":
            await self._observe(frame)
        elif kind == "ack":
            if session:
                session.acknowledge(self, _acked_bytes(frame))
        elif kind == "resize":
            self._size = _size(frame)
            if session and not self._observing:
                session.resize(*self._size)
        elif kind == "share":
            if session and not self._observing:
                session.share(frame.get("on") is True)
        elif kind == "disconnect":
            self._disconnect()
        else:
            raise Invalid(_("Unknown frame; docs/terminal-protocol.md lists them."))

    def _disconnect(self) -> None:
        session = self._session
        if session and not self._observing:
            session.end(End(Ending.CLOSED, by_name=self.user_name))
        elif session:
            self.leave({"type": "exit", "status": None, "signal": None, "reason": "left"}, 1000)
        else:
            self.leave(last_frame(End(Ending.CLOSED, by_name=self.user_name)), 1000)

    async def _connect(self, frame: dict[str, Any]) -> None:
        if self._session or self._opening:
            raise Invalid(_("This socket has its terminal already; open another one for another terminal."))
        self._size = _size({"cols": 80, "rows": 24} | frame)
        if frame.get("session") is not None:
            await self._resume(_text(frame, "session", 64), _optional_number(frame, "offset"))
            return
        wanted = Wanted(
            self.server_id,
            *self._size,
            auto_command=_text(frame, "auto_command", 4096),
            service_id=_optional_number(frame, "service"),
        )
        self._opening = asyncio.create_task(self._open(wanted))

    async def _open(self, wanted: Wanted) -> None:
        """In a task of its own: meanwhile the client may resize, type ahead, or go."""
        try:
            session = await open_session(self.user, wanted)
        except InfiniError as error:
            self.refuse(error)
            return
        except Exception:  # noqa: BLE001  (the edge of our code)
            logger.exception("terminal.open_failed")
            self.leave({"type": "error", "message": _("Something went wrong on our side.")}, 1011)
            return
        registry.add(session)
        if self._leaving:
            session.end(End(Ending.CLOSED, by_name=self.user_name))
            return
        self._join(session, reused=False, offset=session.buffer.start)
        for data in self._held:
            session.input(data)
        self._held.clear()

    async def _resume(self, key: str, offset: int | None) -> None:
        session = registry.find(key)
        if session is None or session.user_id != self.user.pk or session.server_id != self.server_id:
            raise await off_loop(_why_gone, key, self.user.pk)
        self._join(session, reused=True, offset=session.start_of(offset))

    def _join(self, session: Session, *, reused: bool, offset: int) -> None:
        self._session = session
        recorded = session.recorder is not None
        connected = {"session": session.key, "reused": reused, "offset": offset, "recorded": recorded}
        self.tell({"type": "connected", **connected, "shared": session.shared})
        session.attach(self, offset)
        session.resize(*self._size)

    async def _observe(self, frame: dict[str, Any]) -> None:
        key = _text(frame, "session", 64)
        session = registry.find(key)
        if session is None or session.server_id != self.server_id:
            raise await off_loop(_why_gone, key, None)
        if not self.manages and not session.shared:
            raise Forbidden(_("Its owner does not share this terminal."))
        self._session, self._observing = session, True
        place = {"session": session.key, "reused": True, "offset": session.buffer.start}
        self.tell({"type": "observing", **place, "cols": session.cols, "rows": session.rows, "user": session.user_name})
        session.observe(self)

    def _gone(self) -> None:
        """The socket is closed, by whomever: the shell goes on for its grace time."""
        self._leaving = True
        session, self._session = self._session, None
        if session:
            session.detach(self)


def _admitted(who: User | Scope, server_id: int) -> bool:
    """Whether this person manages terminals; raises Forbidden or NotFound."""
    user = who if isinstance(who, User) else identify(who)
    if user is None or not user.has_perm(registry.PERMISSION):
        raise Forbidden(
            _("Your role does not allow opening terminals; the missing permission is %(permission)s.")
            % {"permission": registry.PERMISSION}
        )
    if not visible(Server.objects.filter(pk=server_id), user).exists():
        raise NotFound(_("There is no such server."))
    return user.has_perm(MANAGE)


def _why_gone(key: str, user_id: int | None) -> NotFound:
    """What became of a session this process does not hold; of others' nothing is told."""
    rows.end_forgotten()
    found = TerminalSession.objects.filter(key=key)
    row = found.filter(user=user_id).first() if user_id else found.first()
    if row is None:
        return NotFound(_("There is no such terminal."), code="session_unknown")
    if row.ended_at is None:
        return NotFound(_("Another web process holds this terminal."), code="session_elsewhere")
    told = {Ending.RESTARTED: _("The site was restarted, and this terminal ended with it.")}
    return NotFound(
        told.get(Ending(row.ending), _("This terminal is over: %(what)s.") % {"what": row.get_ending_display()}),
        code="session_over",
    )


def _frame(text: str | bytes) -> dict[str, Any]:
    try:
        frame = orjson.loads(text)
    except orjson.JSONDecodeError:
        frame = None
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise Invalid(_('A text frame is JSON, {"type": ...}; what is typed goes in binary frames.'))
    return frame


def _number(frame: dict[str, Any], name: str, least: int, most: int) -> int:
    value = frame.get(name)
    if type(value) is not int or not least <= value <= most:
        raise Invalid(
            _("%(name)s must be a whole number from %(least)s to %(most)s.")
            % {"name": name, "least": least, "most": most}
        )
    return value


def _acked_bytes(frame: dict[str, Any]) -> int:
    return _number(frame, "bytes", 0, 2**53)


def _optional_number(frame: dict[str, Any], name: str) -> int | None:
    return None if frame.get(name) is None else _number(frame, name, 0, 2**53)


def _size(frame: dict[str, Any]) -> tuple[int, int]:
    return _number(frame, "cols", 1, MOST_COLS), _number(frame, "rows", 1, MOST_ROWS)


def _text(frame: dict[str, Any], name: str, most: int) -> str:
    value = frame.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most or "\0" in value:
        raise Invalid(_("%(name)s must be a text of at most %(most)s characters.") % {"name": name, "most": most})
    return value


async def _terminal(scope: Scope, receive: Receive, send: Send) -> None:
    await TerminalSocket(scope, receive, send).run()


terminal: Any = _terminal
socket_routes = [re_path(r"^ws/servers/(?P<pk>[0-9]{1,18})/terminal/?$", terminal)]
