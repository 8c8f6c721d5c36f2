"""What a supervisor shows: each program's lines behind its name, on the terminal and in files."""

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LINE_MAX_BYTES = 64 * 1024
LOG_MAX_BYTES = 10 * 1024 * 1024
QUEUE_MAX_LINES = 10_000
TAIL_LINES = 12
_COLOURS = (36, 33, 35, 32, 34, 31)


class LogFile:
    """Appends to ``path``; at 10 MB it becomes ``path.1`` and a new one begins. A full disk loses lines only."""

    def __init__(self, path: Path, *, max_bytes: int = LOG_MAX_BYTES) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._file: BinaryIO | None = None

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115  (open for as long as the program runs)
            if self._file.tell() + len(line) > self._max_bytes and self._file.tell():
                self._rotate()
            self._file.write(line)

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def _rotate(self) -> None:
        self.close()
        os.replace(self._path, self._path.with_name(self._path.name + ".1"))
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115


class Console:
    """Writes to ``descriptor`` from one thread, so that a terminal that takes nothing stops neither programs nor us.

    Lines a blocked terminal has no room for are counted and told; the files have them all.
    """

    def __init__(self, logs_dir: Path, names: list[str], *, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._width = max((len(name) for name in names), default=0)
        coloured = os.isatty(descriptor) and not os.environ.get("NO_COLOR")
        self._prefixes = {name: self._prefix(name, i if coloured else None) for i, name in enumerate(names)}
        self._files = {name: LogFile(logs_dir / f"{name}.log") for name in names}
        self._tails: dict[str, deque[str]] = {name: deque(maxlen=TAIL_LINES) for name in names}
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_MAX_LINES)
        self._held: list[bytes] | None = None
        self._dropped = 0
        self._lock = threading.Lock()
        self._printer = threading.Thread(target=self._print_all, name="console", daemon=True)
        self._printer.start()

    def say(self, text: str = "", *, end: str = "\n") -> None:
        """Our own words, without a prefix."""
        with contextlib.suppress(queue.Full):
            self._queue.put((text + end).encode(errors="replace"), timeout=0.5)

    def follow(self, name: str, pipe: BinaryIO) -> threading.Thread:
        """Show and keep what comes out of ``pipe`` until its end, in a thread of its own."""
        thread = threading.Thread(target=self._read, args=(name, pipe), name=f"log-{name}", daemon=True)
        thread.start()
        return thread

    def tail(self, name: str) -> list[str]:
        """The last lines a program wrote."""
        return list(self._tails[name])

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the programs' lines back meanwhile, so that what is said bit by bit stays in one piece."""
        with self._lock:
            self._held = []
        try:
            yield
        finally:
            with self._lock:
                held, self._held = self._held or [], None
            for line in held:
                self._offer(line)

    def close(self, *, timeout: float = 0.5) -> None:
        """Print what is waiting, as far as the terminal takes it in time."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout)
        self._printer.join(timeout)
        for file in self._files.values():
            file.close()

    def _prefix(self, name: str, position: int | None) -> bytes:
        text = f"{name:<{self._width}} | "
        if position is not None:
            text = f"\x1b[{_COLOURS[position % len(_COLOURS)]}m{text}\x1b[0m"
        return text.encode()

    def _read(self, name: str, pipe: BinaryIO) -> None:
        with pipe:
            while line := pipe.readline(LINE_MAX_BYTES):
                self._take(name, line if line.endswith(b"\n") else line + b"\n")

    def _take(self, name: str, line: bytes) -> None:
        self._files[name].write(line)
        self._tails[name].append(line.decode(errors="replace").rstrip())
        shown = self._prefixes[name] + line
        with self._lock:
            if self._held is not None and len(self._held) < QUEUE_MAX_LINES:
                self._held.append(shown)
                return
        self._offer(shown)

    def _offer(self, shown: bytes) -> None:
        try:
            if self._dropped:
                note = f"... {self._dropped} lines were not shown here; the log files have them\n"
                self._queue.put_nowait(note.encode())
                self._dropped = 0
            self._queue.put_nowait(shown)
        except queue.Full:
            self._dropped += 1

    def _print_all(self) -> None:
        """Write all that is queued; once the reader of our output is gone, go on without it."""
        gone = False
        while (data := self._queue.get()) is not None:
            try:
                while data and not gone:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                gone = True
