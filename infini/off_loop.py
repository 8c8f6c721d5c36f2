"""Database work of sockets, off the event loop: in a few threads that keep their connections.

To open SQLite's file and read what tables it has takes 1.5 ms, which is longer than most of what sockets ask; channels'
own way opens it for every question. Pages do not come here: Django gives each request a thread of its own.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import Error as AnyDatabaseError
from django.db import connection

P = ParamSpec("P")
T = TypeVar("T")
THREADS = 6  # writes take turns anyway, and reads are short

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rows")


async def off_loop(work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What ``work`` gives; it may use the database, and sees the caller's context variables."""
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, lambda: context.run(_done, lambda: work(*given, **named)))


def _done(work: Callable[[], T]) -> T:
    """A connection to a server is closed, for the server may end it in between; so is one that failed."""
    try:
        return work()
    except AnyDatabaseError:
        connection.close()
        raise
    finally:
        if connection.vendor != "sqlite":
            connection.close()
