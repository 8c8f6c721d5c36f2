"""A shell's output by absolute byte offset: what is not yet acknowledged, and some history before it."""

from collections import deque

BLOCK_BYTES = 16 * 1024


class OutputBuffer:
    """Bytes from offset ``start`` to ``end``. Appending a byte at a time costs no more than its bytes."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._blocks: deque[bytearray] = deque()

    def append(self, data: bytes) -> None:
        self.end += len(data)
        if self._blocks and len(self._blocks[-1]) + len(data) <= BLOCK_BYTES:
            self._blocks[-1] += data
        else:
            self._blocks.append(bytearray(data))

    def read(self, offset: int, most: int) -> bytes:
        """Up to ``most`` bytes from ``offset``, which lies between ``start`` and ``end``."""
        skip = offset - self.start
        parts: list[bytearray] = []
        wanted = most
        for block in self._blocks:
            if skip >= len(block):
                skip -= len(block)
                continue
            parts.append(block[skip : skip + wanted])
            wanted -= len(parts[-1])
            skip = 0
            if not wanted:
                break
        return b"".join(parts)

    def forget_before(self, offset: int) -> None:
        """Let go of whole blocks before ``offset``; what else stood in a block stays."""
        while self._blocks and self.start + len(self._blocks[0]) <= offset:
            self.start += len(self._blocks.popleft())
