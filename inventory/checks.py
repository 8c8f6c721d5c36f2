"""Is a server reachable: an ICMP echo where this process may send one, a TCP connection where not or unanswered.

The network is asked for all servers at once and outside any transaction; what was seen is written afterwards,
each server by a condition, so that a newer check is never overwritten by an older one.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_noop
from icmplib import ICMPLibError, async_ping

from infini import events
from infini.models import Event
from inventory.models import Server

MAX_AT_ONCE = 100
# How long one way may stay silent before the next is tried beside it.
_HEAD_START_SECONDS = 1.0
# Not the event loop's own threads: those are waited for at its end, and a dead name server takes half a minute.
_resolvers = ThreadPoolExecutor(32, thread_name_prefix="resolve")

Way = Callable[[], Coroutine[None, None, None]]

_REFUSALS = {
    errno.ECONNREFUSED: gettext_noop("%(what)s %(port)s refused the connection."),
    errno.EHOSTUNREACH: gettext_noop("%(what)s %(port)s cannot be reached: no route to the host."),
    errno.ENETUNREACH: gettext_noop("%(what)s %(port)s cannot be reached: no route to its network."),
}


@dataclass(frozen=True)
class CheckResult:
    """What is now known of one server; ``method`` is the way that answered, or the last that was tried."""

    id: int
    status: str
    method: str
    error: str
    last_check: datetime | None


@dataclass(frozen=True)
class _Seen:
    server_id: int
    reachable: bool
    method: str
    error: str
    at: datetime


class _Silent(Exception):
    """One way did not work; the message is a sentence, empty when the way is closed to us."""


def check_servers(servers: Iterable[Server], by: events.Actor) -> list[CheckResult]:
    """Ask all of ``servers`` now and store what was seen; the results are in their order.

    Blocks for some seconds, so it must not run inside a transaction. A server deleted meanwhile has no result.
    """
    rows = list(servers)
    seen = asyncio.run(_look_at_all(rows)) if rows else []
    _store(seen, by)
    known = Server.objects.with_status().only("check_method", "check_error", "last_check")
    found = known.in_bulk([row.pk for row in rows])
    return [_result(found[row.pk]) for row in rows if row.pk in found]


def _result(server: Server) -> CheckResult:
    status = server.status  # type: ignore[attr-defined]
    return CheckResult(server.pk, status, server.check_method, server.check_error, server.last_check)


def _store(seen: list[_Seen], by: events.Actor) -> None:
    """Write each unless a newer check was stored; an event for each server that came or went."""
    with transaction.atomic(durable=True):
        before = Server.objects.select_for_update().only("pk", "name", "reachable").in_bulk([s.server_id for s in seen])
        happened = []
        for one in seen:
            older = Q(last_check=None) | Q(last_check__lt=one.at)
            values = {"reachable": one.reachable, "check_method": one.method, "check_error": one.error[:300]}
            moved = Server.objects.filter(older, pk=one.server_id).update(**values, last_check=one.at)
            server = before.get(one.server_id)
            if moved and server and server.reachable != one.reachable:
                kind = "server.reachable" if one.reachable else "server.unreachable"
                data = {"method": one.method, "error": one.error}
                happened.append(Event(**events.describe(kind, server, by=by, data=data)))
        Event.objects.bulk_create(happened)


async def _look_at_all(servers: list[Server]) -> list[_Seen]:
    gate = asyncio.Semaphore(MAX_AT_ONCE)

    async def look(server: Server) -> _Seen:
        async with gate:
            return await _look_at(server)

    return await asyncio.gather(*(look(server) for server in servers))


async def _look_at(server: Server) -> _Seen:
    ways: dict[str, Way] = {}
    addresses: list[str] = []
    if settings.CHECK_PING:
        ways["icmp"] = lambda: _ping(addresses[0])
    ways["tcp"] = lambda: _connect(addresses, server.port, gettext_noop("SSH port"))
    if server.agent_token:
        ways["agent"] = lambda: _connect(addresses, server.agent_port, gettext_noop("Agent port"))
    try:
        addresses += await _resolve(server.host_ip)
        method = await _first_answer(ways)
    except _Silent as silent:
        return _Seen(server.pk, False, list(ways)[-1], str(silent), timezone.now())
    return _Seen(server.pk, True, method, "", timezone.now())


async def _first_answer(ways: dict[str, Way]) -> str:
    """The name of the way that answers first; each starts when those before it failed or stay silent a while.

    Raises _Silent with everyone's sentences when none does.
    """
    running: dict[asyncio.Task[None], str] = {}
    sentences: list[str] = []
    left = list(ways)
    try:
        while left or running:
            if left:
                name = left.pop(0)
                running[asyncio.create_task(ways[name]())] = name
            wait_seconds = _HEAD_START_SECONDS if left else None
            done, _ = await asyncio.wait(running, timeout=wait_seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                name = running.pop(task)
                if not isinstance(task.exception(), _Silent):
                    task.result()
                    return name
                sentences.append(str(task.exception()))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    raise _Silent(" ".join(filter(None, sentences)))


async def _resolve(host: str) -> list[str]:
    loop = asyncio.get_running_loop()
    lookup = loop.run_in_executor(_resolvers, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    try:
        found = await asyncio.wait_for(lookup, settings.CHECK_TIMEOUT_SECONDS)
    except (OSError, ValueError, TimeoutError):
        raise _Silent(gettext_noop("The name %(host)s cannot be resolved.") % {"host": host[:100]}) from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _ping(address: str) -> None:
    limit = settings.CHECK_TIMEOUT_SECONDS
    try:
        host = await async_ping(address, count=1, timeout=limit, privileged=False)
    except (ICMPLibError, OSError):
        raise _Silent("") from None  # this process may not send echoes
    if not host.is_alive:
        raise _Silent(gettext_noop("No reply to ping within %(limit)g s.") % {"limit": limit})


async def _connect(addresses: list[str], port: int, what: str) -> None:
    limit = settings.CHECK_TIMEOUT_SECONDS
    try:
        async with asyncio.timeout(limit):
            await _connect_to_any(addresses, port)
    except TimeoutError:
        raise _Silent(
            gettext_noop("%(what)s %(port)s did not answer within %(limit)g s.")
            % {"what": what, "port": port, "limit": limit}
        ) from None
    except OSError as error:
        said = _REFUSALS.get(error.errno or 0, gettext_noop("%(what)s %(port)s cannot be reached: %(why)s."))
        raise _Silent(said % {"what": what, "port": port, "why": error.strerror or error}) from None


async def _connect_to_any(addresses: list[str], port: int) -> None:
    refusal: OSError | None = None
    for address in addresses:
        try:
            _reader, writer = await asyncio.open_connection(address, port)
        except OSError as error:
            refusal = refusal or error
            continue
        writer.close()
        return
    raise refusal or OSError(errno.EHOSTUNREACH, "No address")
