"""Which ready instance takes the next request: the one with the fewest in flight from this process.

An instance that failed several requests in a row is left out for a while (its breaker is open), then tried with one
request; success takes it back at once. When all are left out the request goes to one of them all the same: a
guess of ours never makes a service refuse what an instance might answer.
"""

import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence

from chat.refusals import Refusal
from deployments.upstreams import Upstream

FAILURES_TO_OPEN = 3
OPEN_SECONDS = 2.0
OPEN_MOST_SECONDS = 60.0
# A sticky conversation leaves its instance when that has so many more requests in flight than the idlest.
STICKY_SLACK = 4
_REMEMBERED_MOST = 20_000


class Standing:
    """How one instance does: requests in flight, and its breaker."""

    __slots__ = ("failures", "in_flight", "open_seconds", "open_until", "trying", "turn")

    def __init__(self) -> None:
        self.in_flight = 0
        self.turn = 0
        self.failures = 0
        self.open_seconds = 0.0
        self.open_until = 0.0
        self.trying = False

    def left_out(self, now: float) -> bool:
        return self.failures >= FAILURES_TO_OPEN and (self.trying or now < self.open_until)

    def end(self, error: BaseException | None = None) -> None:
        """Count one request out; how it ended moves the breaker."""
        self.in_flight -= 1
        if error is not None and not isinstance(error, Refusal):
            self.trying = False  # the client left, or a fault of ours: that says nothing about the instance
        elif error and (error.elsewhere or error.code in ("upstream_timeout", "upstream_cut")):
            self.failed(time.monotonic())
        else:
            self.succeeded()  # it answers, though perhaps not as wished

    def failed(self, now: float) -> None:
        self.trying = False
        self.failures += 1
        if self.failures >= FAILURES_TO_OPEN:
            self.open_seconds = min(self.open_seconds * 2 or OPEN_SECONDS, OPEN_MOST_SECONDS)
            self.open_until = now + self.open_seconds

    def succeeded(self) -> None:
        self.trying = False
        self.failures = 0
        self.open_seconds = 0.0


class Balance:
    """The standing of every instance this process has asked lately."""

    def __init__(self) -> None:
        self._standings: OrderedDict[tuple[str, str], Standing] = OrderedDict()
        self._turns = 0

    def standing(self, upstream: Upstream) -> Standing:
        key = (upstream.key, upstream.base_url)
        found = self._standings.get(key)
        if found is None:
            found = self._standings[key] = Standing()
            if len(self._standings) > _REMEMBERED_MOST:
                self._forget_oldest()
        return found

    def in_flight(self, upstreams: Sequence[Upstream]) -> int:
        return sum(self.standing(upstream).in_flight for upstream in upstreams)

    def choose(self, upstreams: Sequence[Upstream], prefix: bytes = b"") -> Upstream:
        """The fewest in flight; ties go to the one whose last request began longest ago.

        With ``prefix`` the same one for the same prefix, as long as it has not much more to do than the idlest.
        """
        if len(upstreams) == 1:
            return upstreams[0]
        now = time.monotonic()
        open_to = [u for u in upstreams if not self.standing(u).left_out(now)] or list(upstreams)
        idlest = min(open_to, key=self._order)
        if not prefix:
            return idlest
        favourite = max(open_to, key=lambda upstream: zlib.crc32(upstream.key.encode(), zlib.crc32(prefix)))
        slack = self.standing(favourite).in_flight - self.standing(idlest).in_flight
        return favourite if slack < STICKY_SLACK else idlest

    def begin(self, upstream: Upstream) -> Standing:
        """Count one request in; ``end`` of what is returned must be called, once."""
        standing = self.standing(upstream)
        self._turns += 1
        standing.turn = self._turns
        standing.in_flight += 1
        standing.trying = standing.failures >= FAILURES_TO_OPEN
        return standing

    def _order(self, upstream: Upstream) -> tuple[int, int]:
        standing = self.standing(upstream)
        return standing.in_flight, standing.turn

    def _forget_oldest(self) -> None:
        for key, standing in list(self._standings.items())[: _REMEMBERED_MOST // 10]:
            if not standing.in_flight:
                del self._standings[key]
