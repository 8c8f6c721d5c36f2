"""The book of usage: entries gather in memory and are stored together, about once a second, beside all requests.

A killed process loses the last second; one that ends in good order stores all, and counts what is still under way as
left by its clients. While the database refuses, entries are kept and tried again, the newest ``ENTRIES_MOST`` of them.
"""

import asyncio
import atexit
import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from django.conf import settings
from django.db import Error as AnyDatabaseError

from chat import usage
from chat.usage import Entry
from infini.off_loop import off_loop

if TYPE_CHECKING:
    from chat.metering import Meter

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 0.7
BATCH = 2000
ENTRIES_MOST = 50_000
PRUNE_SECONDS = 3600.0


class Book:
    """This process's entries that are not stored yet, and the requests under way."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._open: set[Meter] = set()
        self._unstored: Counter[int] = Counter()  # tokens by key id
        self._dropped = 0
        self._pruned_at = float("-inf")
        self._flushers: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        self._storing = threading.Lock()
        atexit.register(self.close)

    def opened(self, meter: "Meter") -> None:
        self._open.add(meter)

    def ended(self, meter: "Meter", entry: Entry) -> None:
        """Take an entry; it is stored within a second."""
        self._open.discard(meter)
        if len(self._entries) >= ENTRIES_MOST:
            self._dropped += 1
            return
        self._entries.append(entry)
        if entry.key_id:
            self._unstored[entry.key_id] += entry.prompt_tokens + entry.completion_tokens
        loop = asyncio.get_running_loop() if _in_a_loop() else None
        if loop and (loop not in self._flushers or self._flushers[loop].done()):
            self._flushers[loop] = loop.create_task(self._keep_storing())

    def unstored_tokens(self, key_id: int) -> int:
        """What a key took and the database does not know of yet."""
        return self._unstored[key_id]

    async def flush(self) -> None:
        """Store what there is now."""
        self._unstored.subtract(await off_loop(self.store))
        for key_id in [key_id for key_id, tokens in self._unstored.items() if tokens <= 0]:
            del self._unstored[key_id]

    async def _keep_storing(self) -> None:
        """As long as there are entries; the next entry starts it again."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()
            if not self._entries:
                return

    def store(self) -> Counter[int]:
        """Store entries in batches, each in one transaction with its sums; what the database refuses stays.

        Returns the tokens stored, by key id.
        """
        stored: Counter[int] = Counter()
        with self._storing:
            try:
                while batch := self._entries[:BATCH]:
                    usage.store(batch)
                    del self._entries[: len(batch)]
                    for entry in batch:
                        stored[entry.key_id] += entry.prompt_tokens + entry.completion_tokens
                self._prune()
            except AnyDatabaseError as error:
                logger.warning("usage.not_stored", extra={"error": type(error).__name__, "entries": len(self._entries)})
            if self._dropped:
                logger.error("usage.dropped", extra={"entries": self._dropped})
                self._dropped = 0
        return stored

    def _prune(self) -> None:
        """Every hour; several processes may do it at once."""
        if time.monotonic() - self._pruned_at > PRUNE_SECONDS:
            self._pruned_at = time.monotonic()
            usage.prune(settings.USAGE_DAYS)

    def close(self) -> None:
        """At the end of the process: what is still under way ends here, for whoever asked is cut off with us."""
        for meter in list(self._open):
            meter.end()
        if self._entries:
            self.store()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


book = Book()
