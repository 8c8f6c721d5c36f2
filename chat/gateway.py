"""The gateway: a plain ASGI application routed before Django, or run alone by ``manage.py gateway``.

docs/gateway.md tells the order of its checks, its timeouts, limits and errors. Other code of the site that wants an
answer from a service uses ``chat.asking.ask_service``, which goes the same way without HTTP.
"""

import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop

from chat.admission import Admission, admit_caller, choose_target, find_target, refuse_closed
from chat.asks import ClientGone, Receive, parse_ask, read_body
from chat.callers import Caller
from chat.credentials import language_of
from chat.directory import directory
from chat.exchange import BROKEN, balance, hold_exchange, places
from chat.paths import Route, route_of
from chat.refusals import Refusal
from chat.replies import Reply, Send, while_connected
from chat.targets import Target

logger = logging.getLogger(__name__)

_CREATED = 1_767_225_600  # clients want a number; when a model was made is nobody's business here


def takes(scope: dict[str, Any]) -> bool:
    """Whether this connection is the gateway's."""
    return scope["type"] == "http" and route_of(scope["path"]) is not None


async def gateway(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request that ``takes`` is true of; every error is in OpenAI's shape."""
    reply = Reply(send, partial(language_of, scope))
    try:
        route = route_of(scope["path"])
        assert route is not None  # asked for by ``takes``
        await _answer(scope, receive, reply, route)
    except ClientGone:
        logger.debug("gateway.client_gone", extra={"path": scope["path"]})
    except Refusal as refusal:
        await reply.refuse(refusal)
    except Exception:  # noqa: BLE001  (the edge of our code: the client gets the one shape, the log the rest)
        logger.exception("gateway.broken", extra={"path": scope["path"]})
        await reply.refuse(Refusal(500, BROKEN, "internal"))


async def _answer(scope: dict[str, Any], receive: Receive, reply: Reply, route: Route) -> None:
    caller = await admit_caller(scope, route)
    if route.kind is None:
        await reply.whole(200, await _models(caller, route), {"cache-control": "no-cache"})
        return
    target = await find_target(caller, service_id=route.service_id) if route.service_id else None
    raw = await read_body(receive, most=settings.REQUEST_MAX_BYTES, announced=_announced_bytes(scope))
    ask = await parse_ask(raw, route.kind)
    if target is None:
        target = await choose_target(caller, ask.model, least_busy=_least_busy)
    admission = Admission(caller, await refuse_closed(target), ask)
    await while_connected(receive, reply, hold_exchange(admission, reply, keep=bool(route.service_id)))


def _least_busy(targets: Sequence[Target]) -> Target:
    """One with a free place, and of those the one with the fewest requests per instance in flight."""

    def load(target: Target) -> tuple[bool, float]:
        return places.full(target), balance.in_flight(target.upstreams) / max(1, len(target.upstreams))

    return min(targets, key=load)


async def _models(caller: Caller, route: Route) -> bytes:
    """The models that can be asked now and that the caller's key is for: all of them, or the one named."""
    known = await directory().newest()
    names = {
        target.public_name: None
        for targets in known.by_name.values()
        for target in targets
        if target.upstreams and target.open_to(caller.environments) and caller.allows(target.name, target.served_model)
    }
    rows = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "infini"} for name in sorted(names)]
    if not route.model:
        return json.dumps({"object": "list", "data": rows}).encode()
    wanted = [row for row in rows if row["id"] == route.model]
    if not wanted:
        told = gettext_noop("There is no model %(model)r ready.") % {"model": route.model[:200]}
        raise Refusal(404, told, "model_not_found", param="model")
    return json.dumps(wanted[0]).encode()


def _announced_bytes(scope: dict[str, Any]) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
