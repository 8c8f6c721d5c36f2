"""Database work off the event loop: over connections that are kept where that is safe, and none that failed."""

import contextlib
import contextvars
import threading

import pytest
from django.db import Error as AnyDatabaseError
from django.db import connection

from infini.errors import Forbidden
from infini.off_loop import THREADS, off_loop

pytestmark = pytest.mark.django_db(transaction=True)
Seen = dict[int, object]


def look(seen: Seen, *, ends: Exception | None = None, statement: str = "SELECT 1") -> None:
    """Use the database, and note which connection this thread had before."""
    before = connection.connection
    connection.ensure_connection()
    seen[threading.get_ident()] = before
    with connection.cursor() as cursor:
        cursor.execute(statement)
    if ends:
        raise ends


async def everywhere(**how: object) -> Seen:
    """What each of the threads had; asked often enough that every one of them was used before."""
    seen: Seen = {}
    for _ in range(THREADS * 3):
        with contextlib.suppress(Forbidden, AnyDatabaseError):
            await off_loop(look, seen, **how)  # type: ignore[arg-type]
    return seen


async def test_a_file_stays_open_and_a_connection_to_a_server_does_not() -> None:
    for how in ({}, {"ends": Forbidden("No.")}):
        await everywhere()
        kept = [had is not None for had in (await everywhere(**how)).values()]
        assert kept and set(kept) == {connection.vendor == "sqlite"}, how


async def test_a_connection_that_failed_is_closed() -> None:
    await everywhere(statement="SELECT * FROM there_is_no_such_table")
    assert set((await everywhere(statement="SELECT * FROM there_is_no_such_table")).values()) == {None}


async def test_context_and_answers_are_the_callers() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    name.set("here")
    assert await off_loop(lambda first, *, second: (name.get(), first, second), 1, second=2) == ("here", 1, 2)
