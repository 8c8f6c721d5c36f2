"""What the gateway knows by heart: keys, what they open, services and endpoints with their ready instances.

No request looks any of it up. A background task reads what changed every ``REFRESH_SECONDS`` while requests come, and
none is answered from knowledge older than ``OLDEST_SECONDS``: for so long at most a revoked key, a lost role or a
stopped instance still counts, in every process. What memory does not know is looked for once more before it is
refused, so that a key works from the moment it was made.
"""

import asyncio
import logging
import time
from dataclasses import dataclass

from django.db import Error as AnyDatabaseError
from django.utils.translation import gettext_noop

from chat.callers import Caller, KeyRing
from chat.per_loop import PerLoop
from chat.refusals import Refusal
from chat.targets import Target, TargetBook
from infini.off_loop import off_loop

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 0.5
OLDEST_SECONDS = 0.9
# Without requests for so long the task ends; the next request starts it again.
IDLE_SECONDS = 20.0
# How long requests go on from memory when the database does not answer: nobody can revoke anything either.
BLIND_SECONDS = 30.0
# Who is about to be refused waits for a new reading, and so may many for the same one: a flood of wrong keys is no
# flood of readings.
LOOK_AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Knowledge:
    """One reading of the database. Never changed once made, except that a newer one takes its place."""

    callers: dict[str, Caller]
    by_key: dict[str, Target]
    by_name: dict[str, tuple[Target, ...]]
    spent: dict[int, int]


class Directory:
    """One event loop's knowledge."""

    def __init__(self) -> None:
        self._keys, self._targets = KeyRing(), TargetBook()
        self._known: Knowledge | None = None
        self._read_at = float("-inf")  # when the reading now known began
        self._asked_at = 0.0
        self._tried_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._refresher: asyncio.Task[None] | None = None

    async def current(self) -> Knowledge:
        """What is known, read less than ``OLDEST_SECONDS`` ago; raises Refusal 503 when the database is long silent."""
        now = time.monotonic()
        self._asked_at = now
        if self._known is None or now - self._read_at > OLDEST_SECONDS:
            await self._read_again()
        if self._refresher is None or self._refresher.done():
            self._refresher = asyncio.get_running_loop().create_task(self._keep_fresh())
        known = self._known
        if known is None or time.monotonic() - self._read_at > BLIND_SECONDS:
            told = gettext_noop("The site's database does not answer.")
            raise Refusal(503, told, "database_unavailable", headers={"retry-after": "5"})
        return known

    async def newest(self) -> Knowledge:
        """The same, read after this call: for who would otherwise be refused for what is not known."""
        asked = time.monotonic()
        while self._read_at < asked:
            pause = self._tried_at + LOOK_AGAIN_SECONDS - time.monotonic()
            if pause > 0 and (self._reading is None or self._reading.done()):
                await asyncio.sleep(pause)
            before = self._tried_at
            await self._read_again()
            if self._tried_at > before and self._read_at < self._tried_at:
                break  # the database does not answer
        return await self.current()

    async def _keep_fresh(self) -> None:
        while time.monotonic() - self._asked_at < IDLE_SECONDS:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._read_again()

    async def _read_again(self) -> None:
        """Join the reading under way, or begin one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        began = self._tried_at = time.monotonic()
        try:
            known = await off_loop(self._from_database)
        except AnyDatabaseError as error:
            logger.warning("gateway.not_refreshed", extra={"error": type(error).__name__})
            return
        self._known, self._read_at = known, began

    def _from_database(self) -> Knowledge:
        callers, spent = self._keys.read()
        by_key, by_name = self._targets.read(places=self._keys.somebody_limited)
        return Knowledge(callers, by_key, by_name, spent)


directory = PerLoop(Directory)
