"""That nobody who follows the timeline by its sequence misses an event.

On SQLite one transaction writes at a time: the sequence is the order of commit. On PostgreSQL a transaction takes its
numbers when it writes and may commit after one with higher numbers. There a trigger (migration 0007) has each writer of
events share a lock until its end, and whoever reads on takes it alone for the moment of reading: then all numbers up to
the highest are committed, or will never be. Writers do not wait for each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

LOCK = 4_915_217_003  # any number that nothing else of this database uses as an advisory lock


@contextmanager
def in_order() -> Iterator[None]:
    """Within it, events that are read lack none with a lower sequence than the highest of them."""
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        yield
