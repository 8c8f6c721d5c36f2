"""Asking a model server: one request, its first answer judged, everything it may do wrong turned into a Refusal."""

import json
from dataclasses import dataclass
from functools import lru_cache

from django.utils.translation import gettext_noop

from chat import wire
from chat.addresses import checked_address
from chat.refusals import Refusal, bad_gateway
from chat.sse import error_message
from chat.wire import Connection, Cut, Deadlines, Late, NotHttp, Unreached
from deployments.upstreams import Upstream

DRAIN_SECONDS = 0.05
ERROR_MAX_BYTES = 1024 * 1024
# Nothing has been begun there: another instance may be asked without doing the work twice.
_NOT_BEGUN_STATUSES = (502, 503)
_NOT_OFFERED_STATUSES = (404, 405, 501)


@dataclass(slots=True)
class Answer:
    """An upstream's answer with status 200 and the content type asked for; its body is still to be read."""

    upstream: Upstream
    address: wire.Address
    connection: Connection
    deadlines: Deadlines

    def close(self) -> None:
        """End it, at once: only a connection whose answer was read to its end is kept for another one."""
        wire.pool().give(self.address, self.connection)

    async def read(self) -> bytes:
        """The next bytes as they arrive, empty at the end; raises Refusal when they stay out or are cut off."""
        try:
            return await self.connection.read()
        except (Cut, Late, NotHttp) as error:
            raise _refusal_of(error, self.deadlines, headed=True) from None

    async def whole(self, most: int) -> bytes:
        """The whole body; raises Refusal when it is longer than ``most`` bytes, or as ``read`` does."""
        first = await self.read()
        if self.connection.complete and not self.connection.unread and len(first) <= most:
            return first
        parts, size = [first], len(first)
        while chunk := await self.read():
            parts.append(chunk)
            size += len(chunk)
            if size > most:
                break
        if size > most:
            raise bad_gateway(
                gettext_noop("The answer is longer than %(most)s bytes.") % {"most": most}, "answer_too_long"
            )
        return b"".join(parts)

    async def drained(self) -> None:
        """After the last event: wait a moment for the body's formal end, so that the connection can be used again."""
        if self.connection.complete:
            return
        self.connection.hurry(DRAIN_SECONDS)
        try:
            while await self.connection.read():
                pass
        except (Cut, Late, NotHttp):
            return


async def ask(upstream: Upstream, path: str, body: bytes, deadlines: Deadlines, *, stream: bool) -> Answer:
    """Send ``body`` to ``path`` below the upstream and give the answer once its headers are there and right.

    Raises Refusal otherwise. The caller closes the answer. Nobody's own headers are ever sent.
    """
    address = await checked_address(upstream)
    request = _head(upstream.base_url, path, upstream.bearer, stream) + b"%d\r\n\r\n" % len(body) + body
    connection = await _sent(address, request, deadlines)
    try:
        await _judge(connection, path, deadlines, "text/event-stream" if stream else "application/json")
    except BaseException:
        wire.pool().give(address, connection)
        raise
    return Answer(upstream, address, connection, deadlines)


async def _sent(address: wire.Address, request: bytes, deadlines: Deadlines) -> Connection:
    """A connection on which the answer's head has come. One that was closed while it lay idle is replaced, once."""
    pool = wire.pool()
    connection = pool.take(address)
    fresh = connection is None
    try:
        while True:
            if connection is None:
                connection = await pool.connect(address, deadlines.connect)
            try:
                connection.send(request, deadlines)
                await connection.head()
                return connection
            except Cut as cut:
                connection.close()
                if fresh or cut.begun:
                    raise
                connection, fresh = None, True
    except (Unreached, Cut, Late, NotHttp) as error:
        if connection:
            connection.close()
        raise _refusal_of(error, deadlines, headed=False) from None
    except BaseException:  # cancelled: the other side is to know at once
        if connection:
            connection.close()
        raise


@lru_cache(maxsize=1024)
def _head(base_url: str, path: str, bearer: str, stream: bool) -> bytes:
    """All of the request's head but the length."""
    _host, _port, _tls, prefix = wire.taken_apart(base_url)
    accept = "text/event-stream" if stream else "application/json"
    lines = [
        f"POST {prefix}/{path} HTTP/1.1",
        f"Host: {wire.host_header(base_url)}",
        "User-Agent: infini",
        "Content-Type: application/json",
        f"Accept: {accept}",
        "Accept-Encoding: identity",
        *([f"Authorization: Bearer {bearer}"] if bearer else []),
        "Content-Length: ",
    ]
    return "\r\n".join(lines).encode("latin-1")


def _refusal_of(error: Exception, deadlines: Deadlines, *, headed: bool) -> Refusal:
    """Why there is no answer, or no more of it. Only what cannot have begun an answer may be tried elsewhere."""
    if isinstance(error, Unreached):
        if error.late:
            return Refusal(
                504, gettext_noop("The model server does not take connections."), "upstream_timeout", elsewhere=True
            )
        return bad_gateway(gettext_noop("The model server cannot be reached."), "upstream_unreachable", elsewhere=True)
    if isinstance(error, Cut):
        if headed or error.begun:
            return bad_gateway(gettext_noop("The model server broke off in the middle of its answer."), "upstream_cut")
        return bad_gateway(
            gettext_noop("The model server closed the connection without an answer."), "upstream_cut", elsewhere=True
        )
    if isinstance(error, Late):
        return _late(error, deadlines)
    return bad_gateway(gettext_noop("The model server does not answer in HTTP."))


def _late(late: Late, deadlines: Deadlines) -> Refusal:
    if late.total:
        seconds, what = deadlines.total, gettext_noop("had not ended its answer after")
    elif late.begun:
        seconds, what = deadlines.idle, gettext_noop("went silent in the middle of its answer for")
    else:
        seconds, what = deadlines.first_byte, gettext_noop("sent no answer within")
    return Refusal(
        504,
        gettext_noop("The model server %(what)s %(seconds)g s.") % {"what": what, "seconds": seconds},
        "upstream_timeout",
    )


async def _judge(connection: Connection, path: str, deadlines: Deadlines, wanted: str) -> None:
    """Raise Refusal unless this is status 200 with the content type ``wanted``."""
    status = connection.status
    if status >= 400:
        raise await _error_of(connection, path)
    if status != 200:
        raise bad_gateway(
            gettext_noop("The model server answered with status %(status)s, which is no answer to this.")
            % {"status": status}
        )
    kind = connection.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    if kind != wanted:
        raise bad_gateway(
            gettext_noop("The model server answered with %(what)s instead of %(wanted)s.")
            % {"what": kind or "no content type", "wanted": wanted}
        )


async def _error_of(connection: Connection, path: str) -> Refusal:
    """The upstream's own error as it came when it is in OpenAI's shape, its sentence in that shape when it has one,
    else one of ours that tells its status. That it refuses our key is no fault of the client's.
    """
    status = connection.status
    elsewhere = status in _NOT_BEGUN_STATUSES
    body = await _read_small(connection)
    if status == 401:
        return bad_gateway(
            gettext_noop("The model server refuses the key that the site has for it."), "upstream_refused"
        )
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    as_openai = isinstance(answer, dict) and isinstance(answer.get("error"), dict)
    message = _sentence_of(answer)
    if not message:
        if status in _NOT_OFFERED_STATUSES and path != "chat/completions":
            return Refusal(
                404, gettext_noop("The model server does not offer %(path)s.") % {"path": path}, "not_offered"
            )
        what = gettext_noop("The model server answered with an error of its own (HTTP %(status)s).") % {
            "status": status
        }
        return bad_gateway(what, "upstream_error", elsewhere=elsewhere)
    retry_after = connection.headers.get(b"retry-after", b"").decode("latin-1")
    kept = {"retry-after": retry_after} if retry_after else {}
    own = body if as_openai else Refusal(status, message, "upstream_error").as_bytes()
    return Refusal(status, message, "upstream_error", headers=kept, elsewhere=elsewhere, body=own)


def _sentence_of(answer: object) -> str:
    """Out of an error as engines write them: OpenAI's shape; ``error`` a text (TGI); ``message`` beside ``"object":
    "error"`` (vLLM before 0.10, SGLang, LMDeploy). Empty: none of them.
    """
    if not isinstance(answer, dict):
        return ""
    error = answer.get("error") or (answer.get("message") if answer.get("object") == "error" else None)
    if isinstance(error, dict):
        error = error.get("message")
    return error_message(error) if isinstance(error, str) else ""


async def _read_small(connection: Connection) -> bytes:
    """An error's body; empty when it is huge, cut or late: then its status has to tell."""
    parts: list[bytes] = []
    size = 0
    try:
        while chunk := await connection.read():
            parts.append(chunk)
            size += len(chunk)
            if size > ERROR_MAX_BYTES:
                return b""
    except (Cut, Late, NotHttp):
        return b""
    return b"".join(parts)


async def fetched(upstream: Upstream, path: str, deadlines: Deadlines, *, most: int) -> bytes:
    """A GET's body below the upstream, empty unless its status is 200; raises Refusal as ``asked`` does."""
    address = await checked_address(upstream)
    head = _head(upstream.base_url, path, upstream.bearer, False).replace(b"POST", b"GET", 1)
    connection = await _sent(address, head + b"0\r\n\r\n", deadlines)
    answer = Answer(upstream, address, connection, deadlines)
    try:
        parts: list[bytes] = []
        while connection.status == 200 and (chunk := await answer.read()):
            parts.append(chunk)
            if sum(map(len, parts)) > most:
                return b""
        return b"".join(parts)
    finally:
        answer.close()
