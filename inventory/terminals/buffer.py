"""A shell's output by absolute byte offset: what is not yet acknowledged, and some history before it."""

from collections import deque

BLOCK_BYTES = 16 * 1024


class OutputBuffer:
    """Bytes from offset ``start`` to ``end``. Appending a byte at a time costs no more than its bytes."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._blocks: deque[bytes | bytearray] = deque()

    def append(self, data: bytes) -> None:
        self.end += len(data)
        last = self._blocks[-1] if self._blocks else b""
        if isinstance(last, bytearray) and len(last) + len(data) <= BLOCK_BYTES:
            last += data
        else:
            self._blocks.append(data if len(data) >= BLOCK_BYTES else bytearray(data))

    def read(self, offset: int, most: int) -> bytes:
        """Up to ``most`` bytes from ``offset``, which lies between ``start`` and ``end``."""
        skip, wanted = offset - self.start, most
        parts: list[bytes | bytearray | memoryview] = []
        for block in self._blocks:
            if skip >= len(block):
                skip -= len(block)
                continue
            is_whole = isinstance(block, bytes) and not skip and len(block) <= wanted  # which needs no copy
            parts.append(block if is_whole else memoryview(block)[skip : skip + wanted])
            wanted -= len(parts[-1])
            skip = 0
            if not wanted:
                break
        return b"".join(parts)

    def forget_before(self, offset: int) -> None:
        """Let go of whole blocks before ``offset``; what else stood in a block stays."""
        while self._blocks and self.start + len(self._blocks[0]) <= offset:
            self.start += len(self._blocks.popleft())
