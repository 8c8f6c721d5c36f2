"""Recordings of terminals: asciicast v3, appended as it comes, so that a crash costs at most the last half second.

Only what the shell shows is recorded, never what is typed: a password that is not shown is not kept. All writing is
done by one thread of the process, in order; a slow disk delays no terminal, until a megabyte waits for it.
"""

import codecs
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from django.conf import settings

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.5
FLUSH_BYTES = 128 * 1024
_writer = ThreadPoolExecutor(1, thread_name_prefix="recorder")


def recordings_dir() -> Path:
    """Readable by the site alone: what shells show may be secret."""
    made: Path = settings.RECORDINGS_DIR
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    return made


class Recorder:
    """Writes one session's file. All methods are called by the event loop's thread and wait for nothing.

    ``backlog_bytes`` is what was shown and is not written yet. A character whose bytes come in two pieces is written
    whole; bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, path: Path, *, cols: int, rows: int, title: str, most_bytes: int) -> None:
        self.path = path
        self.written_bytes = 0
        self.backlog_bytes = 0
        self.capped = False
        self.failed = False
        self._most_bytes = most_bytes
        self._began = self._last = time.monotonic()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._waiting: list[tuple[float, str, Any]] = []
        self._waiting_bytes = 0
        term = {"cols": cols, "rows": rows, "type": "xterm-256color"}
        self._head = {"version": 3, "term": term, "timestamp": int(time.time()), "title": title}
        self._file: int | None = None

    @property
    def seconds(self) -> float:
        """From the beginning to the last event."""
        return self._last - self._began

    def output(self, data: bytes) -> None:
        self._waiting.append((time.monotonic(), "o", data))
        self._waiting_bytes += len(data)
        self.backlog_bytes += len(data)
        if self._waiting_bytes >= FLUSH_BYTES:
            self.flush()

    def resized(self, cols: int, rows: int) -> None:
        self._waiting.append((time.monotonic(), "r", f"{cols}x{rows}"))

    def flush(self) -> None:
        """Hand over what waits; called every half second, and at once when much does."""
        if not self._waiting:
            return
        events, self._waiting, size, self._waiting_bytes = self._waiting, [], self._waiting_bytes, 0
        _writer.submit(self._write, events).add_done_callback(lambda _done: self._written(size))

    def finish(self, exit_status: int | None, then: Callable[[], None]) -> None:
        """Write the end, close, and call ``then`` in the writer's thread. ``exit_status`` None: it was not seen."""
        if exit_status is not None:
            self._waiting.append((time.monotonic(), "x", str(exit_status)))
        self.flush()
        _writer.submit(self._close).add_done_callback(lambda _done: then())

    def _written(self, size: int) -> None:
        self.backlog_bytes -= size

    # In the writer's thread

    def _write(self, events: list[tuple[float, str, Any]]) -> None:
        if self.failed:
            return
        try:
            self._append(events)
        except OSError:
            self.failed = True  # a full disk ends the recording, never the shell
            logger.exception("recording.failed", extra={"file": self.path.name})

    def _append(self, events: list[tuple[float, str, Any]]) -> None:
        lines = [] if self._file is not None else [_line(self._head)]
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
        room = self._most_bytes - self.written_bytes
        for at, code, what in _joined(events):
            text = self._decode(what) if code == "o" else what
            if code == "o" and (self.capped or len(what) > room):
                if not self.capped:
                    lines.append(_line([0, "m", "The recording's size limit is reached."]))
                self.capped = True
            elif text:
                lines.append(_line([round(at - self._last, 6), code, text]))
                self._last = at
                room -= len(lines[-1])
        view = memoryview(b"".join(lines))
        while view:
            done = os.write(self._file, view)
            self.written_bytes += done
            view = view[done:]

    def _close(self) -> None:
        if self._file is None and not self.failed:
            self._write([])
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _line(what: Any) -> bytes:
    return orjson.dumps(what, option=orjson.OPT_APPEND_NEWLINE)


def _joined(events: list[tuple[float, str, Any]]) -> Iterator[tuple[float, str, Any]]:
    """Output within a hundredth of a second is one event: nobody sees the difference, and files stay small."""
    held: tuple[float, str, list[bytes]] | None = None
    for at, code, what in events:
        if held and code == "o" and at - held[0] < 0.01:
            held[2].append(what)
            continue
        if held:
            yield held[0], "o", b"".join(held[2])
            held = None
        if code == "o":
            held = at, code, [what]
        else:
            yield at, code, what
    if held:
        yield held[0], "o", b"".join(held[2])


def length_of(path: Path) -> float:
    """Seconds of a file as it stands; a last line that a crash cut off does not count. Raises OSError."""
    seconds = 0.0
    with path.open("rb") as lines:
        next(lines, None)
        for line in lines:
            if line.endswith(b"\n"):
                seconds += float(line[1 : line.index(b",")])
    return seconds


def whole_lines(path: Path, piece_bytes: int = 64 * 1024) -> Iterator[bytes]:
    """The file in pieces, without a last line that a crash cut off or that is being written. Raises OSError."""
    with path.open("rb") as file:
        rest = b""
        while piece := file.read(piece_bytes):
            whole, newline, after = piece.rpartition(b"\n")
            if newline:
                yield rest + whole + newline
                rest = after
            else:
                rest += piece


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)
