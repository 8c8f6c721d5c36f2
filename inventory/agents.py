"""Asking agents over HTTP: one asynchronous client for the monitor, the steps and everybody else.

docs/agent-protocol.md is the contract. Addresses are taken from the database first, so that no query runs
while the network is waited for.
"""

import asyncio
import asyncio.sslproto
import hashlib
import json
import os
import queue
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any, Self

import aiohttp
from django.conf import settings
from django.utils.translation import gettext_noop

from infini.errors import Unavailable
from inventory.models import Server

ANSWER_MAX_BYTES = 8 * 1024 * 1024
TLS_READ_BYTES = 32 * 1024


class AgentError(Unavailable):
    """An agent did not do what it was asked; ``code`` tells the cases apart, the message is for people."""

    code = "agent_error"


class AgentUnreachable(AgentError):
    """No connection, or no answer in time: what was asked may or may not have happened."""

    code, http_status = "agent_unreachable", 504


class AgentRefusesToken(AgentError):
    code, http_status = "agent_refuses_token", 502


class AgentSpeaksNonsense(AgentError):
    code, http_status = "agent_nonsense", 502


class AgentRejects(AgentError):
    """The agent understood and said no; ``status`` and ``code`` are its own, and ``details`` about single fields."""

    http_status = 502

    def __init__(self, message: str, *, code: str, status: int, details: object = None) -> None:
        super().__init__(message, code=code)
        self.status = status
        listed = details.values() if isinstance(details, dict) else []
        self.details = " ".join(str(text) for texts in listed if isinstance(texts, list) for text in texts)


@dataclass(frozen=True)
class AgentAddress:
    """Where one server's agent listens, and what opens it."""

    server_id: int
    server_name: str
    host: str
    port: int
    token: str = field(repr=False)
    certificate: str = field(repr=False, default="")

    @classmethod
    def of(cls, server: Server) -> Self:
        return cls(
            server.pk, server.name, server.host_ip, server.agent_port, server.agent_token, server.agent_certificate
        )

    def url(self, path: str) -> str:
        scheme = "https" if self.certificate else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{path}"


@dataclass(frozen=True)
class Ask:
    """One request to one agent; ``about`` is whatever the caller wants back with the answer."""

    address: AgentAddress
    method: str
    path: str
    body: dict[str, Any] | None = None
    about: Any = None
    timeout_seconds: float | None = None


class AgentClient:
    """Keeps connections to agents alive between requests; used as an asynchronous context manager."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def ask(self, ask: Ask) -> dict[str, Any]:
        """The agent's JSON object; raises an AgentError otherwise, within the time limit."""
        limit = ask.timeout_seconds or settings.AGENT_TIMEOUT_SECONDS
        name = ask.address.server_name
        try:
            return await asyncio.wait_for(self._exchange(ask), limit)
        except TimeoutError:
            raise AgentUnreachable(
                gettext_noop("The agent on %(name)s did not answer within %(limit)g s.")
                % {"name": name, "limit": limit}
            ) from None
        except aiohttp.ServerFingerprintMismatch:
            raise AgentRefusesToken(
                gettext_noop("The agent on %(name)s shows another certificate than the pinned one.") % {"name": name},
                code="agent_certificate_changed",
            ) from None
        except aiohttp.ClientConnectorError as error:
            # The event loop puts its own words and an address into strerror; the number has the plain ones.
            number = error.os_error.errno
            reason = os.strerror(number) if number and number > 0 else gettext_noop("its name cannot be resolved")
            where = f"{ask.address.host}:{ask.address.port}"
            raise AgentUnreachable(
                gettext_noop("The agent on %(name)s cannot be reached at %(where)s: %(reason)s.")
                % {"name": name, "where": where, "reason": reason}
            ) from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
            raise AgentUnreachable(
                gettext_noop("The agent on %(name)s closed the connection without an answer.") % {"name": name}
            ) from None
        except (aiohttp.ClientError, ValueError):
            raise _nonsense(name) from None

    async def _exchange(self, ask: Ask) -> dict[str, Any]:
        address = ask.address
        async with self._session.request(
            ask.method,
            address.url(ask.path),
            json=ask.body,
            headers={"Authorization": f"Bearer {address.token}"},
            allow_redirects=False,
            ssl=_pinned(address.certificate) if address.certificate else True,
        ) as response:
            raw = await response.content.read(ANSWER_MAX_BYTES + 1)
            while not response.content.at_eof() and len(raw) <= ANSWER_MAX_BYTES:
                raw += await response.content.read(ANSWER_MAX_BYTES + 1 - len(raw))
        return _judge(address.server_name, response.status, raw)


def _judge(name: str, status: int, raw: bytes) -> dict[str, Any]:
    if status == 401:
        raise AgentRefusesToken(
            gettext_noop("The agent on %(name)s refuses our token; enter the one it was started with.") % {"name": name}
        )
    if len(raw) > ANSWER_MAX_BYTES:
        raise _nonsense(name)
    try:
        document = json.loads(raw or b"{}")
    except ValueError:
        raise _nonsense(name) from None
    if not isinstance(document, dict):
        raise _nonsense(name)
    if 200 <= status < 300:
        return document
    error = document.get("error")
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        raise _nonsense(name)
    code, details = str(error.get("code", "agent_rejects")), error.get("fields")
    raise AgentRejects(_told(details) or error["message"], code=code, status=status, details=details)


def _told(details: object) -> str:
    """What is wrong with each field, ``cwd: Give …``: the agent's message names the fields alone."""
    fields = details.items() if isinstance(details, dict) else ()
    return " ".join(f"{name}: {' '.join(map(str, said))}" for name, said in fields if isinstance(said, list) and said)


def _nonsense(name: str) -> AgentSpeaksNonsense:
    return AgentSpeaksNonsense(
        gettext_noop("What answers on %(name)s does not speak the agent's protocol; check address and port.")
        % {"name": name}
    )


@lru_cache(maxsize=4096)
def _pinned(certificate: str) -> aiohttp.Fingerprint:
    """The same object for the same certificate: aiohttp goes by it to find a connection that is kept alive."""
    der = ssl.PEM_cert_to_DER_cert(certificate)
    return aiohttp.Fingerprint(hashlib.sha256(der).digest())


def keep_connections_small() -> None:
    """For a process that keeps hundreds of TLS connections: each holds TLS_READ_BYTES for reading from now on.

    asyncio's 256 KiB come to 140 MB with 550 agents. There is no public setting for it; should a newer Python no longer
    have the attribute, more memory is used and nothing else changes.
    """
    asyncio.sslproto.SSLProtocol.max_size = TLS_READ_BYTES


Answer = dict[str, Any] | AgentError


def ask_each(
    asks: Iterable[Ask], *, while_waiting: Callable[[], None] | None = None, every_seconds: float = 5.0
) -> Iterator[tuple[Ask, Answer]]:
    """Ask all at once and hand out each answer, or error, as it comes, in the caller's thread.

    The network is waited for in a thread of its own, so that the caller may use the database in between.
    ``while_waiting`` is called at least ``every_seconds`` while answers are outstanding.
    """
    todo = list(asks)
    answers: queue.SimpleQueue[tuple[Ask, Answer]] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: asyncio.run(_ask_all(todo, answers.put)), daemon=True, name="agents")
    if todo:
        thread.start()
    for _ in todo:
        while True:
            try:
                answer = answers.get(timeout=every_seconds)
                break
            except queue.Empty:
                if while_waiting:
                    while_waiting()
        yield answer
    if todo:
        thread.join()


async def _ask_all(asks: list[Ask], put: Callable[[tuple[Ask, Answer]], None]) -> None:
    async with AgentClient() as client:

        async def one(ask: Ask) -> None:
            try:
                put((ask, await client.ask(ask)))
            except AgentError as error:
                put((ask, error))
            except Exception as error:  # noqa: BLE001  (the caller counts answers: each ask must give one)
                why = gettext_noop("Asking the agent on %(server_name)s failed: %(error)r")
                put((ask, AgentError(why % {"server_name": ask.address.server_name, "error": error})))

        await asyncio.gather(*(one(ask) for ask in asks))
