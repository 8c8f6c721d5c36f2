"""What a model server calls its model: asked of it, and remembered for a while."""

import asyncio
import json
import time

import aiohttp

from chat.refusals import Refusal, bad_gateway
from chat.upstream import session
from deployments.upstreams import Upstream

REMEMBERED_SECONDS = 60
LIST_TIMEOUT_SECONDS = 10
LIST_MAX_BYTES = 1024 * 1024

_remembered: dict[tuple[int, str], tuple[float, str]] = {}


async def first_model_of(upstream: Upstream) -> str:
    """The first id of the instance's ``/models``; empty when it has no such list. Raises Refusal as asking would."""
    key = (upstream.instance_id, upstream.base_url)
    until, name = _remembered.get(key, (0.0, ""))
    now = time.monotonic()
    if until > now:
        return name
    name = await _ask(upstream)
    for old in [k for k, (end, _) in _remembered.items() if end <= now]:
        del _remembered[old]
    _remembered[key] = (now + REMEMBERED_SECONDS, name)
    return name


async def _ask(upstream: Upstream) -> str:
    try:
        async with (
            asyncio.timeout(LIST_TIMEOUT_SECONDS),
            session().get(f"{upstream.base_url}/models", allow_redirects=False) as response,
        ):
            if response.status != 200:
                return ""
            body = await response.content.read(LIST_MAX_BYTES)
            while len(body) < LIST_MAX_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except TimeoutError:
        raise Refusal(504, "The model server does not say which models it has.", "upstream_timeout") from None
    except (aiohttp.ClientError, ValueError) as error:
        unreached = isinstance(error, aiohttp.ClientConnectionError)
        raise bad_gateway("The model server cannot be reached.", "upstream_unreachable", elsewhere=unreached) from None
    return _first_id(body)


def _first_id(body: bytes) -> str:
    try:
        name = json.loads(body)["data"][0]["id"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""
