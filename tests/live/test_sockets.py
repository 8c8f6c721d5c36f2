"""Sockets through the real web server: what a refusal looks like from outside."""

import asyncio
from typing import Any

import aiohttp
import pytest

from tests.live.site import RealSite

pytestmark = pytest.mark.live


async def _open(url: str, headers: dict[str, str]) -> tuple[int, list[Any], int | None]:
    """HTTP status, the frames, and the code it was closed with."""
    async with aiohttp.ClientSession() as client:
        try:
            async with client.ws_connect(
                url, headers=headers, timeout=aiohttp.ClientWSTimeout(ws_receive=10)
            ) as socket:
                frames = [message.json() async for message in socket]
                return 101, frames, socket.close_code
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status, [], None


def test_refusals_from_outside(site: RealSite) -> None:
    key = {"Authorization": f"Bearer {site.key()}"}
    for path, headers, status, code in (
        ("/ws/instances/987654/logs", {}, 403, None),
        ("/ws/instances/987654/logs", {"Origin": site.url}, 403, None),
        ("/ws/instances/987654/logs", {"Authorization": "Bearer inf_no"}, 403, None),
        ("/ws/no-such-socket", key, 403, None),
        ("/ws/instances/987654/logs", key, 101, 4404),
        ("/ws/instances/987654/logs/?offset=5", {**key, "Origin": "http://elsewhere.example"}, 101, 4404),
    ):
        got, frames, closed = asyncio.run(_open(site.url + path, headers))
        assert (got, closed) == (status, code), (path, headers)
        assert [frame["type"] for frame in frames] == (["error"] if status == 101 else [])
