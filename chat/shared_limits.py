"""Limits of keys across processes, in Redis: one script per request, so that no two take the same last place.

When Redis does not answer in ``TIMEOUT_SECONDS``, each process goes on with limits of its own and says so in its log.
What a killed process had open is forgotten after ``LEASE_SECONDS``.
"""

import asyncio
import logging
import time
import uuid
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.callers import Caller

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 0.5
LEASE_SECONDS = 60.0
_RENEW_SECONDS = 15.0
_SAY_AGAIN_SECONDS = 30.0
_BLIND_SECONDS = 2.0  # after a failure Redis is not asked for so long: it would hold up every request

# Answers {which limit refuses or "", seconds to wait}. Times come from Redis alone: clocks of several machines differ.
_ADMIT = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local minute = math.floor(now / 60)
local part = 1 - (now % 60) / 60
local most_requests, most_tokens, most_open = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local function amount(kind)
  local a = tonumber(redis.call('HGET', KEYS[1], kind .. minute) or '0')
  local b = tonumber(redis.call('HGET', KEYS[1], kind .. (minute - 1)) or '0')
  return a + b * part, a, b
end
local function wait(limit, total, a, b)
  if b > 0 and total - limit < b * part then return (total - limit) / b * 60 + 1 end
  local more = 0
  if a > 0 then more = math.max(0, 1 - limit / a) * 60 end
  return 60 - now % 60 + more + 1
end
if most_open > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= most_open then return {'concurrency', '1'} end
end
if most_requests > 0 then
  local total, a, b = amount('r')
  if total + 1 > most_requests then return {'requests', tostring(wait(most_requests, total, a, b))} end
end
if most_tokens > 0 then
  local total, a, b = amount('t')
  if total >= most_tokens then return {'tokens', tostring(wait(most_tokens, total, a, b))} end
end
redis.call('HINCRBY', KEYS[1], 'r' .. minute, 1)
redis.call('HDEL', KEYS[1], 'r' .. (minute - 2), 't' .. (minute - 2))
redis.call('EXPIRE', KEYS[1], 180)
if most_open > 0 then
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[5]), ARGV[1])
  redis.call('EXPIRE', KEYS[2], math.ceil(tonumber(ARGV[5])) + 1)
end
return {'', '0'}
"""
_END = """
local minute = math.floor(tonumber(redis.call('TIME')[1]) / 60)
redis.call('ZREM', KEYS[2], ARGV[1])
if tonumber(ARGV[2]) > 0 then
  redis.call('HINCRBY', KEYS[1], 't' .. minute, ARGV[2])
  redis.call('EXPIRE', KEYS[1], 180)
end
return 1
"""
_RENEW = """
local now = tonumber(redis.call('TIME')[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + tonumber(ARGV[1]), ARGV[i]) end
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1])) + 1)
return 1
"""


@dataclass(frozen=True, slots=True)
class Admitted:
    """What Redis says: ``refused`` names the limit that is reached, else ``request_id`` was counted in."""

    request_id: str
    refused: str
    wait: float


class SharedLimits:
    """The limits of one Redis, asked from this process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()
        self._open: dict[str, int] = {}  # request id -> key id
        self._renewer: asyncio.Task[None] | None = None
        self._blind_until = 0.0
        self._said_at = float("-inf")

    async def admit(self, caller: Caller) -> Admitted | None:
        """Count a request in, or say why not; None when Redis does not answer."""
        request_id = uuid.uuid4().hex
        limits = (caller.requests_per_minute, caller.tokens_per_minute, caller.concurrency)
        told = await self._run(_ADMIT, _keys(caller.key_id), request_id, *limits, LEASE_SECONDS)
        if told is None:
            return None
        refused, wait = told[0].decode(), float(told[1])
        if not refused and caller.concurrency:
            self._open[request_id] = caller.key_id
            if self._renewer is None or self._renewer.done():
                self._renewer = asyncio.get_running_loop().create_task(self._keep_renewing())
        return Admitted(request_id, refused, wait)

    async def end(self, caller: Caller, request_id: str, tokens: int) -> None:
        self._open.pop(request_id, None)
        await self._run(_END, _keys(caller.key_id), request_id, tokens)

    async def _keep_renewing(self) -> None:
        """Streams may last longer than a lease: as long as this process lives, its requests stay counted."""
        while self._open:
            await asyncio.sleep(_RENEW_SECONDS)
            by_key: dict[int, list[str]] = {}
            for request_id, key_id in self._open.items():
                by_key.setdefault(key_id, []).append(request_id)
            for key_id, ids in by_key.items():
                await self._run(_RENEW, _keys(key_id)[1:], LEASE_SECONDS, *ids)

    async def _run(self, script: str, keys: list[str], *arguments: Any) -> Any:
        if time.monotonic() < self._blind_until:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._client().eval(script, len(keys), *keys, *arguments)
        except (RedisError, TimeoutError, OSError) as error:
            now = time.monotonic()
            self._blind_until = now + _BLIND_SECONDS
            if now - self._said_at > _SAY_AGAIN_SECONDS:
                self._said_at = now
                logger.warning("gateway.redis_silent", extra={"error": type(error).__name__})
            return None

    def _client(self) -> Redis:
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            found = self._clients[loop] = Redis.from_url(self._url, socket_connect_timeout=TIMEOUT_SECONDS)
        return found


def _keys(key_id: int) -> list[str]:
    """In one slot, should Redis be a cluster."""
    return [f"infini:{{key-{key_id}}}:minutes", f"infini:{{key-{key_id}}}:open"]
