"""Terminals to be measured, one shape for all: OpenSSH's own client, ours through the running site, and peers.

With ``BENCH_PEERS`` naming the folder of the peers' benchmark, whose ``terminal_bench.py`` knows how to speak to each
and whose ``terminals.json`` (in ``BENCH_RUN``) says where they listen, they are measured in the same run.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import psutil

PROMPT = b"bench> "
PROFILE = "PS1='bench> '; bind 'set enable-bracketed-paste off' 2>/dev/null\n"


class Terminal(Protocol):
    async def open(self) -> None: ...
    async def send(self, text: str) -> None: ...
    async def recv(self) -> bytes: ...
    async def close(self) -> None: ...


@dataclass
class Target:
    """What is measured. ``pid`` is its server's process, whose children count too; 0 for OpenSSH's client."""

    name: str
    make: Any
    pid: int = 0
    base: dict[str, float] = field(default_factory=dict)


class Ssh:
    """The reference: the OpenSSH client itself, with its cheaper key exchange; local pipes, remote terminal."""

    def __init__(self, config: Path, host: str) -> None:
        self._command = ["ssh", "-tt", "-F", str(config), host]

    async def open(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, limit=2**18, stdin=-1, stdout=-1, stderr=asyncio.subprocess.STDOUT
        )

    async def send(self, text: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(text.encode())

    async def recv(self) -> bytes:
        assert self._process.stdout
        return await self._process.stdout.read(2**16)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


class Ours:
    """The site's socket, as the page uses it: acknowledged in batches."""

    def __init__(self, client: aiohttp.ClientSession, url: str, key: str) -> None:
        self._client, self._url, self._key = client, url, key
        self._unacked = 0

    async def open(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        self._socket = await self._client.ws_connect(self._url, headers=headers, compress=0, max_msg_size=0)
        await self._socket.send_str('{"type": "connect", "cols": 80, "rows": 24}')

    async def send(self, text: str) -> None:
        await self._socket.send_bytes(text.encode())

    async def recv(self) -> bytes:
        while True:
            message = await self._socket.receive()
            if message.type == aiohttp.WSMsgType.BINARY:
                data: bytes = message.data
                self._unacked += len(data)
                if self._unacked >= 32 * 1024:
                    await self._socket.send_str(json.dumps({"type": "ack", "bytes": self._unacked}))
                    self._unacked = 0
                return data
            if message.type != aiohttp.WSMsgType.TEXT:
                raise EOFError(f"the socket is closed: {message}")
            frame = json.loads(message.data)
            if frame["type"] == "error":
                raise EOFError(frame["message"])

    async def close(self) -> None:
        await self._socket.send_str('{"type": "disconnect"}')
        await self._socket.close()


def peers() -> tuple[dict[str, Any], list[Target]]:
    """Where the peers' sshd is, and the peers; both empty without BENCH_PEERS."""
    folder = os.environ.get("BENCH_PEERS")
    if not folder:
        return {}, []
    sys.path.insert(0, str(Path(folder).resolve()))
    bench = importlib.import_module("terminal_bench")
    run = Path(os.environ.get("BENCH_RUN") or Path(tempfile.gettempdir()) / "bench-run")
    found = json.loads((run / "terminals.json").read_text())["targets"]
    made = [
        Target(one["name"], lambda index=0, one=one: bench.KINDS[one["kind"]](one, index), one["pid"])
        for one in found
        if one["kind"] != "ssh"
    ]
    return found[0], made


async def hang_up_peers() -> None:
    """Their adapters share one client session, which belongs to the event loop of a test."""
    bench = sys.modules.get("terminal_bench")
    if bench and bench.Ws.session:
        await bench.Ws.session.close()
        bench.Ws.session = None


def memory(pid: int) -> dict[str, float]:
    """RSS and PSS in bytes, threads and processes of a server with its children."""
    total = {"rss": 0.0, "pss": 0.0, "threads": 0.0, "processes": 0.0}
    if not pid:
        return total
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            held = process.memory_full_info()
            total["rss"] += held.rss
            total["pss"] += held.pss
            total["threads"] += process.num_threads()
            total["processes"] += 1
        except psutil.NoSuchProcess:
            continue
    return total


async def until(terminal: Terminal, mark: bytes, seconds: float = 60) -> None:
    """Read until ``mark`` was shown."""
    async with asyncio.timeout(seconds):
        tail = b""
        while mark not in tail:
            piece = await terminal.recv()
            if not piece:
                raise EOFError("the terminal is closed")
            tail = tail[-len(mark) :] + piece


async def opened(target: Target, index: int = 0) -> Terminal:
    terminal: Terminal = target.make(index)
    await terminal.open()
    await until(terminal, PROMPT)
    return terminal
