"""The gateway as a process of its own: the same callable as before Django, under uvicorn, and nothing else.

It has what daphne lacks: backpressure, bodies refused before they are spooled, an end in good order; and it is several
times faster. Its end: no new connections, ``END_GRACE_SECONDS`` for what is under way, then every stream gets an
error event and its upstream is closed, and the usage is stored.
"""

import gc
import socket
import sys
from functools import partial

import uvicorn
from django.conf import settings
from django.utils.translation import gettext_noop

from chat.book import book
from chat.credentials import language_of
from chat.directory import directory
from chat.gateway import gateway, takes
from chat.refusals import Refusal
from chat.replies import Reply, end_all
from infini.bodies import Receive, Scope, Send, send_json

END_GRACE_SECONDS = 1.5
# A reading of the database beside the loop holds the interpreter for so long at most before a stream has its turn.
_SWITCH_SECONDS = 0.001
# A burst of requests makes thousands of objects that go again by themselves: no reason to look for cycles in it.
_COLLECT_EVERY = 20_000


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The gateway's paths, ``/healthz``, and uvicorn's own start and end."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif takes(scope):
        await gateway(scope, receive, send)
    elif scope["type"] == "http" and scope["path"].rstrip("/") == "/healthz":
        await send_json(send, 200, {"status": "ok"})
    elif scope["type"] == "http":
        told = gettext_noop("This is the gateway: it answers below /v1 and the completions of services.")
        await Reply(send, partial(language_of, scope)).refuse(Refusal(404, told, "not_found"))


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    await directory().current()
    gc.collect()
    gc.freeze()  # what was loaded stays for good: no collection need look at it again
    gc.set_threshold(_COLLECT_EVERY)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await book.flush()
    await send({"type": "lifespan.shutdown.complete"})


class GatewayServer(uvicorn.Server):
    """Ends what is under way in good order; uvicorn by itself would wait for streams without end, or cut them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await end_all(END_GRACE_SECONDS)
        await super().shutdown(sockets)


def serve(*, host: str, port: int, fd: int | None = None) -> None:
    """Serve until a signal. ``fd`` is a listening socket to use instead of host and port."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    config = uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=settings.TRUST_PROXY,
        forwarded_allow_ips="*" if settings.TRUST_PROXY else None,
        backlog=4096,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
        host=host,
        port=port,
    )
    # uvicorn would take a descriptor for a Unix socket: no TCP_NODELAY then, and 40 ms more for each small answer.
    GatewayServer(config).run(sockets=[socket.socket(fileno=fd)] if fd is not None else None)
