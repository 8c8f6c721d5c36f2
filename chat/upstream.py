"""Asking a model server: one request, its first answer judged, everything it may do wrong turned into a Refusal."""

import asyncio
import atexit
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from chat.refusals import Refusal, bad_gateway
from chat.sse import error_message
from deployments.upstreams import Upstream

# Model servers such as uvicorn's end an idle connection after 5 s; ours must end before, or a request meets a dead one.
KEEPALIVE_SECONDS = 3
ERROR_MAX_BYTES = 1024 * 1024
# Nothing has been begun there: another instance may be asked without doing the work twice.
_NOT_BEGUN_STATUSES = (502, 503)

_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


def session() -> aiohttp.ClientSession:
    """The running loop's client. It keeps no cookies, follows no proxy settings and waits for no free connection."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        connect = settings.UPSTREAM_CONNECT_TIMEOUT_SECONDS
        found = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "infini", "Accept-Encoding": "identity"},
        )
        _sessions[loop] = found
        atexit.register(_close, found)
    return found


def _close(client: aiohttp.ClientSession) -> None:
    """At the end of the process, its loop gone: without a word, or aiohttp complains of every open connection."""
    if client.connector:
        client.connector.close()
    client.detach()


@dataclass
class Answer:
    """An upstream's answer with status 200 and the content type asked for; its body is still to be read."""

    upstream: Upstream
    response: aiohttp.ClientResponse
    first_byte_by: float
    _begun: bool = False

    async def read(self) -> bytes:
        """The next bytes as they arrive, empty at the end; raises Refusal when they stay out or are cut off."""
        limit = None if self._begun else self.first_byte_by
        if limit is None:
            limit = asyncio.get_running_loop().time() + settings.UPSTREAM_IDLE_TIMEOUT_SECONDS
        try:
            async with asyncio.timeout_at(limit):
                chunk = await self.response.content.readany()
        except TimeoutError:
            raise _silent(self._begun) from None
        except (aiohttp.ClientError, OSError):
            raise bad_gateway("The model server broke off in the middle of its answer.", "upstream_cut") from None
        self._begun = True
        return chunk


@asynccontextmanager
async def asked(upstream: Upstream, body: bytes, *, stream: bool) -> AsyncIterator[Answer]:
    """Send ``body`` and give the answer once its headers are there and right; raises Refusal otherwise.

    The connection is closed with the block, at once, unless the answer was read to its end. The caller's own
    headers are never sent.
    """
    first_byte_by = asyncio.get_running_loop().time() + settings.UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream" if stream else "application/json"}
    try:
        async with asyncio.timeout_at(first_byte_by):
            response = await session().post(
                f"{upstream.base_url}/chat/completions", data=body, headers=headers, allow_redirects=False
            )
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise _unreached(error) from None
    try:
        await _judge(response, "text/event-stream" if stream else "application/json")
        yield Answer(upstream, response, first_byte_by)
    finally:
        response.close()


def _unreached(error: Exception) -> Refusal:
    """Why there are no headers. Only what cannot have begun an answer may be tried elsewhere."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Refusal(504, "The model server does not take connections.", "upstream_timeout", elsewhere=True)
    if isinstance(error, aiohttp.ClientConnectorError):
        return bad_gateway("The model server cannot be reached.", "upstream_unreachable", elsewhere=True)
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return bad_gateway("The model server closed the connection without an answer.", "upstream_cut", elsewhere=True)
    if isinstance(error, TimeoutError):
        return _silent(begun=False)
    return bad_gateway("The model server does not answer in HTTP.")


def _silent(begun: bool) -> Refusal:
    if begun:
        seconds, what = settings.UPSTREAM_IDLE_TIMEOUT_SECONDS, "went silent in the middle of its answer for"
    else:
        seconds, what = settings.UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS, "sent no answer within"
    return Refusal(504, f"The model server {what} {seconds:g} s.", "upstream_timeout")


async def _judge(response: aiohttp.ClientResponse, wanted: str) -> None:
    """Raise Refusal unless this is status 200 with the content type ``wanted``."""
    if response.status >= 400:
        raise await _error_of(response)
    if response.status != 200:
        raise bad_gateway(f"The model server answered with status {response.status}, which is no answer to this.")
    if response.content_type != wanted:
        raise bad_gateway(f"The model server answered with {response.content_type} instead of {wanted}.")


async def _error_of(response: aiohttp.ClientResponse) -> Refusal:
    """The upstream's own error when it is in OpenAI's shape, else one of ours that tells its status."""
    elsewhere = response.status in _NOT_BEGUN_STATUSES
    body = await _read_small(response)
    try:
        error = json.loads(body)["error"]
        told = isinstance(error, dict) and isinstance(error.get("message"), str)
    except (ValueError, KeyError, TypeError, RecursionError):
        told = False
    if not told:
        what = f"The model server answered with an error of its own (HTTP {response.status})."
        return bad_gateway(what, "upstream_error", elsewhere=elsewhere)
    kept = {name.lower(): response.headers[name] for name in ("Retry-After",) if name in response.headers}
    message = error_message(error)
    return Refusal(response.status, message, "upstream_error", headers=kept, elsewhere=elsewhere, body=body)


async def _read_small(response: aiohttp.ClientResponse) -> bytes:
    """An error's body; empty when it is huge, cut or late: then its status has to tell."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.UPSTREAM_IDLE_TIMEOUT_SECONDS):
            while chunk := await response.content.readany():
                parts.append(chunk)
                size += len(chunk)
                if size > ERROR_MAX_BYTES:
                    return b""
    except (TimeoutError, aiohttp.ClientError):
        return b""
    return b"".join(parts)
