"""A real sshd, a server row that leads to it, and clients of the real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from channels.testing import WebsocketCommunicator
from django.test import Client as HttpClient

from infini import keys
from infini.models import User
from inventory.models import Server, TerminalSession
from inventory.terminals import registry
from inventory.terminals.models import Ending
from inventory.terminals.session import End
from tests.real_sshd import RealSshd

PROMPT = b"here> "
PROFILE = "PS1='here> '; PS2=; unset PROMPT_COMMAND; bind 'set enable-bracketed-paste off' 2>/dev/null\n"


@pytest.fixture(scope="session")
def shells() -> Iterator[RealSshd]:
    """One sshd for all; its shells' prompt is known."""
    with RealSshd(max_sessions=200) as sshd:
        (sshd.folder / "home" / ".bash_profile").write_text(PROFILE)
        yield sshd


@pytest.fixture(autouse=True)
def recordings_dir(settings: Any, tmp_path: Path) -> Path:
    settings.RECORDINGS_DIR = tmp_path / "recordings"
    return settings.RECORDINGS_DIR


@pytest.fixture
def server(transactional_db: None, shells: RealSshd) -> Server:
    return server_at(shells)


def server_at(sshd: RealSshd, **other: Any) -> Server:
    given = {
        "name": "gpu-1",
        "host_ip": sshd.host,
        "port": sshd.port,
        "username": sshd.username,
        "private_key": sshd.private_key,
        "host_key": sshd.host_key,
    }
    return Server.objects.create(**given | other)


class Terminal:
    """A client of the socket, see docs/terminal-protocol.md. Acknowledges what it reads unless ``acks`` is off."""

    def __init__(self, application: Any, headers: list[tuple[bytes, bytes]], server_id: int) -> None:
        self._socket = WebsocketCommunicator(application, f"/ws/servers/{server_id}/terminal", headers)
        self.listeners: list[Callable[[bytes, bool], bool]] = []  # the short way that infini/web.py goes
        self._socket.scope["extensions"] = {"infini.listen": self.listeners.append}
        self.acks = True
        self.output = bytearray()
        self.frames: list[dict[str, Any]] = []
        self.session = ""
        self.offset = 0
        self.closed: int | None = None

    async def open(self, **connect: Any) -> Terminal:
        """Connect to a shell and wait until it is there."""
        await self.begin({"type": "connect", "cols": 80, "rows": 24, **connect})
        await self.frame("connected")
        return self

    async def watch(self, session: str) -> Terminal:
        await self.begin({"type": "observe", "session": session})
        await self.frame("observing")
        return self

    async def begin(self, frame: dict[str, Any]) -> None:
        accepted, _ = await self._socket.connect(timeout=10)
        assert accepted
        await self.say(frame)

    async def refused(self) -> bool:
        accepted, _ = await self._socket.connect(timeout=10)
        return not accepted

    async def say(self, frame: dict[str, Any] | str) -> None:
        await self._socket.send_to(text_data=frame if isinstance(frame, str) else json.dumps(frame))

    async def type(self, data: bytes | str) -> None:
        await self._socket.send_to(bytes_data=data.encode() if isinstance(data, str) else data)

    async def take(self, seconds: float = 10) -> bool:
        """One message; False when the socket is closed."""
        message = await self._socket.receive_output(timeout=seconds)
        if message["type"] == "websocket.close":
            self.closed = message["code"]
            return False
        if message.get("bytes") is not None:
            self.output += message["bytes"]
            self.offset += len(message["bytes"])
            if self.acks:
                await self.say({"type": "ack", "bytes": len(message["bytes"])})
            return True
        frame = json.loads(message["text"])
        self.frames.append(frame)
        if frame["type"] in ("connected", "observing"):
            self.session, self.offset = frame["session"], frame["offset"]
        return True

    async def frame(self, kind: str, seconds: float = 10) -> dict[str, Any]:
        """The last frame of this type; waits for one when there was none."""
        async with asyncio.timeout(seconds):
            while not any(frame["type"] == kind for frame in self.frames):
                assert await self.take(seconds), f"closed with {self.closed} after {self.frames}"
        return [frame for frame in self.frames if frame["type"] == kind][-1]

    async def until(self, mark: bytes, seconds: float = 15) -> bytes:
        """Read until ``mark`` was shown; returns and forgets everything up to it."""
        async with asyncio.timeout(seconds):
            while mark not in self.output:
                assert await self.take(seconds), (
                    f"closed with {self.closed}: {bytes(self.output[-500:])!r} {self.frames}"
                )
        end = self.output.index(mark) + len(mark)
        shown = bytes(self.output[:end])
        del self.output[:end]
        return shown

    async def end(self, seconds: float = 10) -> int | None:
        """Read until the socket is closed; returns the code."""
        while await self.take(seconds):
            pass
        return self.closed

    async def run(self, command: str) -> str:
        """What ``command`` prints. Its echo and the prompt are cut off."""
        await self.type(command + "\r")
        await self.until(b"\r\n")
        return (await self.until(PROMPT)).removesuffix(PROMPT).decode()

    async def cut(self) -> None:
        """The connection is gone, without a word."""
        await self._socket.disconnect(timeout=10)

    async def silence(self, seconds: float = 0.3) -> bool:
        return await self._socket.receive_nothing(timeout=seconds)


@pytest_asyncio.fixture
async def terminal(server: Server) -> AsyncIterator[Callable[..., Terminal]]:
    """``terminal(user)``: a client, not opened yet. In the end no session is left."""
    from infini.asgi import application

    made: list[Terminal] = []
    known: dict[int, str] = {}

    def make(user: User, to: int | None = None) -> Terminal:
        if user.pk not in known:
            known[user.pk] = keys.create_key(user=user, name="t", by=None)[1]
        headers = [(b"authorization", f"Bearer {known[user.pk]}".encode()), (b"host", b"testserver")]
        made.append(Terminal(application, headers, to or server.pk))
        return made[-1]

    from asgiref.sync import sync_to_async

    def make_in_loop(user: User, to: int | None = None) -> Any:
        return sync_to_async(make)(user, to)

    yield make_in_loop
    for session in registry.all_here():
        session.end(End(Ending.CLOSED))
    await registry.settled()
    for one in made:
        with suppress(asyncio.CancelledError, TimeoutError, Exception):  # the test has told already
            await one.cut()


@pytest.fixture
def operator(db: None, make_user: Callable[..., User]) -> User:
    return make_user("operator")


def row_of(session: str) -> TerminalSession:
    return TerminalSession.objects.select_related("recording").get(key=session)


@pytest.fixture
def web(operator: User) -> HttpClient:
    client = HttpClient()
    client.force_login(operator)
    return client
