"""A page's side of ``/ws/chat``: keeps every frame, acknowledges chunks, waits for what a test needs."""

import asyncio
from types import TracebackType
from typing import Any

import aiohttp

from tests.chat.site import Site


class ChatClient:
    """One open socket as the person with ``role``."""

    def __init__(self, site: Site, role: str = "viewer", *, acknowledges: bool = True) -> None:
        self.site, self.role, self.acknowledges = site, role, acknowledges
        self.frames: list[dict[str, Any]] = []
        self.close_code: int | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> "ChatClient":
        self._http = aiohttp.ClientSession(headers=self.site.bearer(self.role))
        self._socket = await self._http.ws_connect(f"{self.site.url}/ws/chat")
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._task.cancel()
        await self._socket.close()
        await self._http.close()

    async def _read(self) -> None:
        async for message in self._socket:
            frame = message.json()
            self.frames.append(frame)
            if frame["type"] == "chunk" and self.acknowledges:
                await self.say(type="ack", n=frame["n"])
            self._news.set()
        self.close_code = self._socket.close_code
        self._news.set()

    async def say(self, **frame: Any) -> None:
        await self._socket.send_json(frame)

    async def got(self, kind: str, seconds: float = 10, **wanted: Any) -> dict[str, Any]:
        """The first frame of this type with these values, now or soon."""
        try:
            async with asyncio.timeout(seconds):
                return await self._found(kind, wanted)
        except TimeoutError:
            raise AssertionError(f"no {kind} {wanted} among {self.frames}") from None

    async def _found(self, kind: str, wanted: dict[str, Any]) -> dict[str, Any]:
        while True:
            for frame in self.frames:
                if frame["type"] == kind and all(frame.get(name) == value for name, value in wanted.items()):
                    return frame
            assert self.close_code is None, f"closed with {self.close_code} after {self.frames}"
            self._news.clear()
            await self._news.wait()

    async def ask(self, service_id: int, content: str = "Hi", **more: Any) -> dict[str, Any]:
        """Begin a conversation; the ``start`` frame."""
        await self.say(type="send", service=service_id, content=content, ref=content, **more)
        return await self.got("start", ref=content)

    def text(self, answer: int, track: str = "content") -> str:
        """What came of an answer; its chunks are in order and without gaps."""
        chunks = [f for f in self.frames if f["type"] == "chunk" and f["answer"] == answer and f["track"] == track]
        for before, after in zip(chunks, chunks[1:], strict=False):
            assert after["offset"] == before["next"], "a gap or a repetition"
        return "".join(chunk["text"] for chunk in chunks)
