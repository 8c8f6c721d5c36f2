"""What a model server calls its model: asked of it, and remembered for a while."""

import json
import time

from django.utils.translation import gettext_noop

from chat.refusals import Refusal
from chat.upstream import fetched
from chat.wire import Deadlines
from deployments.upstreams import Upstream

REMEMBERED_SECONDS = 60
LIST_MAX_BYTES = 1024 * 1024
_DEADLINES = Deadlines(connect=5.0, first_byte=10.0, idle=5.0, total=10.0)

_remembered: dict[tuple[str, str], tuple[float, str]] = {}


async def first_model_of(upstream: Upstream) -> str:
    """The first id of the instance's ``/models``; empty when it has no such list. Raises Refusal as asking would."""
    key = (upstream.key, upstream.base_url)
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
        return _first_id(await fetched(upstream, "models", _DEADLINES, most=LIST_MAX_BYTES))
    except Refusal as refusal:
        if refusal.status == 504 and not refusal.elsewhere:
            told = gettext_noop("The model server does not say which models it has.")
            raise Refusal(504, told, "upstream_timeout") from None
        raise


def _first_id(body: bytes) -> str:
    try:
        name = json.loads(body)["data"][0]["id"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""
