"""Which ready instance takes the next request: the one with the fewest in flight from this process."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from deployments.upstreams import Upstream


class InFlight:
    """Requests now at each instance. Ties go to the one whose last request began longest ago."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._turn: dict[int, int] = {}
        self._turns = 0

    def choose(self, upstreams: Sequence[Upstream]) -> Upstream:
        return min(upstreams, key=lambda u: (self._open[u.instance_id], self._turn.get(u.instance_id, 0)))

    @contextmanager
    def held(self, upstream: Upstream) -> Iterator[None]:
        """Counts one request for as long as the block runs."""
        key = upstream.instance_id
        self._turns += 1
        self._turn[key] = self._turns
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
