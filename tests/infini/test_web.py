"""The web server's short way for small frames carries exactly what the long one would."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).resolve().parents[2]
MASK = b"\x01\x80\xff\x3c"
TEXT, BINARY, PING, PONG = 1, 2, 9, 10


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        argv = [sys.executable, "-m", "infini.web", "-v", "0", "--fd", str(listener.fileno())]
        process = subprocess.Popen(
            [*argv, "tests.infini.echoing:application"], cwd=ROOT, pass_fds=[listener.fileno()], env=os.environ
        )
        yield listener.getsockname()[1]
    process.terminate()
    assert process.wait(10) == 0  # a signal ends it in good order, on this event loop too


class Client:
    """Frames byte by byte, so that a test says how they are cut."""

    def __init__(self, port: int, path: str = "/") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline().strip():
            pass

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def receive(self) -> tuple[int, bytes]:
        first, size = self.stream.read(2)
        assert first & 0x80, "a whole message"
        if size == 126:
            [size] = struct.unpack("!H", self.stream.read(2))
        elif size == 127:
            [size] = struct.unpack("!Q", self.stream.read(8))
        return first & 0x0F, self.stream.read(size)


@pytest.fixture
def connect(port: int) -> Iterator[Callable[..., Client]]:
    made: list[Client] = []

    def make(path: str = "/") -> Client:
        made.append(Client(port, path))
        return made[-1]

    yield make
    for client in made:
        client.stream.close()
        client.socket.close()


def frame(data: bytes, kind: int = BINARY, *, last: bool = True) -> bytes:
    size = len(data)
    head = struct.pack("!B", kind | (0x80 if last else 0))
    if size < 126:
        head += struct.pack("!B", 0x80 | size)
    elif size < 65536:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + MASK + bytes(byte ^ MASK[place % 4] for place, byte in enumerate(data))


def test_every_size_and_byte_comes_back(connect: Callable[..., Client]) -> None:
    client = connect()
    everything = bytes(range(256)) * 300
    for size in [*range(1, 131), 65535, 65536, 70000]:
        client.send(frame(everything[size : size + size]))
        assert client.receive() == (BINARY, everything[size : size + size])


def test_frames_however_they_are_cut(connect: Callable[..., Client]) -> None:
    client = connect()
    client.send(frame(b"one"), frame(b"two"), frame(b"drei", TEXT))
    assert [client.receive() for _ in range(3)] == [(BINARY, b"one"), (BINARY, b"two"), (TEXT, b"drei")]
    for byte in frame(b"slow"):
        client.send(bytes([byte]))
    assert client.receive() == (BINARY, b"slow")
    client.send(frame(b"in ", last=False))
    client.send(frame(b"pi", 0, last=False))
    client.send(frame(b"?", PING))
    client.send(frame(b"eces", 0))
    assert [client.receive() for _ in range(2)] == [(PONG, b"?"), (BINARY, b"in pieces")]
    client.send(frame(b"half")[:4])
    client.send(frame(b"half")[4:] + frame(b"next"))
    assert [client.receive() for _ in range(2)] == [(BINARY, b"half"), (BINARY, b"next")]


def test_a_text_that_is_none_is_refused(connect: Callable[..., Client]) -> None:
    client = connect()
    client.send(frame(b"\xff\xfe", TEXT))
    with pytest.raises((ConnectionResetError, ValueError)):  # cut off
        client.receive()


def test_an_unmasked_frame_is_refused(connect: Callable[..., Client]) -> None:
    client = connect()
    client.send(b"\x82\x07unmaske")
    with pytest.raises((ConnectionResetError, ValueError)):  # cut off, or closed, which leaves nothing to unpack
        client.receive()


def test_a_listener_overtakes_nothing(connect: Callable[..., Client]) -> None:
    client = connect("/listen")
    client.send(frame(b"a"))
    client.send(frame(b"b"), frame(b"c"))
    client.send(frame(b"~d"))
    assert client.receive() == (BINARY, b"~d")
    client.send(frame(b"heard", TEXT))
    assert client.receive() == (BINARY, b"a|b|c")
    client.send(frame(b"g"))
    client.send(frame("!text, 文".encode(), TEXT))
    client.send(frame(b"heard", TEXT))
    assert client.receive() == (BINARY, "g|!text, 文".encode())
    client.send(frame(b"~e"), frame(b"f"))  # the first waits to be received, so the second waits behind it
    assert [client.receive() for _ in range(2)] == [(BINARY, b"~e"), (BINARY, b"f")]


def test_a_request_s_garbage_is_gone_before_the_next(port: int) -> None:
    asked = [requests.get(f"http://127.0.0.1:{port}/", timeout=10).text for _ in range(3)]
    assert asked == ["0", "0", "0"]


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not run there")
def test_it_runs_on_uvloop(connect: Callable[..., Client]) -> None:
    client = connect()
    client.send(frame(b"loop", TEXT))
    assert client.receive() == (BINARY, b"uvloop")
