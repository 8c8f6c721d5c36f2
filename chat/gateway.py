"""The completions proxy: a plain ASGI application routed before Django.

docs/gateway.md tells the order of its checks, its timeouts and its errors.
"""

import logging
import re
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings

from chat.admission import Admission, admit, recall
from chat.asks import ClientGone, Receive, parse_ask, read_body
from chat.exchange import BROKEN, hold_exchange
from chat.refusals import Refusal
from chat.replies import Reply, Send, while_connected

logger = logging.getLogger(__name__)

_SERVICE_PATH = re.compile(r"/api/services/([0-9]{1,18})/chat/completions/?")


def takes(scope: dict[str, Any]) -> bool:
    """Whether this connection is the gateway's."""
    return scope["type"] == "http" and _SERVICE_PATH.fullmatch(scope["path"]) is not None


async def gateway(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request that ``takes`` is true of; every error is in OpenAI's shape."""
    reply = Reply(send)
    try:
        await _answer(scope, receive, reply)
    except ClientGone:
        logger.info("gateway.client_gone", extra={"path": scope["path"]})
    except Refusal as refusal:
        await reply.refuse(refusal)
    except Exception:  # noqa: BLE001  (the edge of our code: the client gets the one shape, the log the rest)
        logger.exception("gateway.broken", extra={"path": scope["path"]})
        await reply.refuse(Refusal(500, BROKEN, "internal"))


async def _answer(scope: dict[str, Any], receive: Receive, reply: Reply) -> None:
    admission = await _admit(scope)
    raw = await read_body(receive, most=settings.REQUEST_MAX_BYTES, announced=_announced_bytes(scope))
    ask = await parse_ask(raw)
    if admission.closed:
        raise Refusal(503, admission.closed, "service_not_ready")
    await while_connected(receive, hold_exchange(admission, ask, reply))


async def _admit(scope: dict[str, Any]) -> Admission:
    match = _SERVICE_PATH.fullmatch(scope["path"])
    assert match is not None  # asked for by ``takes``
    service_id = int(match[1])
    return recall(scope, service_id) or await database_sync_to_async(admit, thread_sensitive=False)(scope, service_id)


def _announced_bytes(scope: dict[str, Any]) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
