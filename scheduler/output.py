"""What a command printed, kept within a limit: the head, the tail, how much lies between, and a digest of all of it."""

import codecs
import hashlib
import threading
from dataclasses import dataclass

from django.utils.translation import gettext as _

_CONTINUATION = 0b10  # the two high bits of a byte inside a UTF-8 character


@dataclass(frozen=True)
class Printed:
    """One stream as a row keeps it. ``raw`` is set when it is no text: what was kept, as it came."""

    text: str
    cut_bytes: int
    raw: bytes | None


class KeptOutput:
    """One stream of one command. ``add`` is called by the thread that reads, the rest by any."""

    def __init__(self, most_bytes: int) -> None:
        self._half = most_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0
        self._hash = hashlib.sha256()
        self._lock = threading.Lock()

    def add(self, piece: bytes) -> None:
        with self._lock:
            self._total += len(piece)
            self._hash.update(piece)
            room = self._half - len(self._head)
            if room > 0:
                self._head += piece[:room]
                piece = piece[room:]
            self._tail += piece[-self._half :]
            if len(self._tail) > 2 * self._half:  # trimmed now and then, not with every piece
                del self._tail[: -self._half]

    @property
    def total_bytes(self) -> int:
        return self._total

    def digest(self) -> str:
        """Of everything, also of what was not kept; empty when nothing was printed."""
        with self._lock:
            return self._hash.hexdigest() if self._total else ""

    def printed(self) -> Printed:
        with self._lock:
            head, tail = bytes(self._head), bytes(self._tail[-self._half :])
            cut = self._total - len(head) - len(tail)
        if not cut:
            return _printed(head + tail, _decoded(head + tail), 0)
        text = f"{_decoded(head, cut_after=True)}\n{cut_line(cut)}\n{_decoded(tail, cut_before=True)}"
        return _printed(head + tail, text, cut)


def cut_line(cut_bytes: int) -> str:
    return _("[… %(n)s bytes left out …]") % {"n": f"{cut_bytes:,}"}


def _printed(kept: bytes, text: str, cut: int) -> Printed:
    return Printed(text.replace("\0", "�"), cut, kept if _is_binary(kept, text) else None)


def _is_binary(kept: bytes, text: str) -> bool:
    return b"\0" in kept or text.count("�") * 20 > len(text)


def _decoded(data: bytes, *, cut_after: bool = False, cut_before: bool = False) -> str:
    """As UTF-8; a character the cut runs through is left out, other bytes that are none are replaced."""
    if cut_before:
        begin = next((i for i, byte in enumerate(data[:4]) if byte >> 6 != _CONTINUATION), 0)
        data = data[begin:]
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not cut_after)
