"""Which instance is asked, which is left out, and how it comes back."""

import contextlib
from collections.abc import Callable, Iterator

import aiohttp
import pytest

from chat import balance as module
from chat.balance import FAILURES_TO_OPEN, Balance
from chat.refusals import Refusal
from deployments.upstreams import Upstream
from tests.chat.conftest import Case
from tests.chat.site import Gateway, Site
from tests.chat.upstream_script import ScriptedUpstream

UPSTREAMS = [Upstream(f"i{n}", f"http://127.0.0.1:{n}/v1", "s") for n in (1, 2, 3)]


@contextlib.contextmanager
def held(balance: Balance, upstream: Upstream) -> Iterator[None]:
    """A request at an instance for as long as the block runs."""
    standing = balance.begin(upstream)
    try:
        yield
    except BaseException as error:
        standing.end(error)
        raise
    standing.end()


def fail(balance: Balance, upstream: Upstream) -> None:
    with contextlib.suppress(Refusal), held(balance, upstream):
        raise Refusal(502, "no", "upstream_unreachable", elsewhere=True)


def test_the_fewest_in_flight_then_in_turn() -> None:
    balance = Balance()
    with contextlib.ExitStack() as stack:
        for expected in ("i1", "i2", "i3", "i1"):
            chosen = balance.choose(UPSTREAMS)
            assert chosen.key == expected
            stack.enter_context(held(balance, chosen))
    assert balance.in_flight(UPSTREAMS) == 0


def test_a_breaker_opens_tries_once_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    balance, (bad, good, _) = Balance(), UPSTREAMS
    for _ in range(FAILURES_TO_OPEN):
        fail(balance, bad)
    assert balance.choose([bad, good]) == good and balance.choose([bad]) == bad, "alone it is asked all the same"
    now += 2.1
    with held(balance, good):
        pass
    assert balance.choose([bad, good]) == bad, "its turn to be tried"
    with held(balance, bad):
        assert balance.choose([bad, good]) == good, "with one request only"
    assert not balance.standing(bad).left_out(now) and balance.standing(bad).failures == 0
    for _ in range(FAILURES_TO_OPEN + 1):
        fail(balance, bad)
    now += 2.1
    assert balance.choose([bad, good]) == good, "each failure doubles the time"


def test_an_engine_that_answers_with_an_error_lives() -> None:
    balance, bad = Balance(), UPSTREAMS[0]
    for _ in range(10):
        with contextlib.suppress(Refusal), held(balance, bad):
            raise Refusal(400, "too long", "upstream_error", body=b"{}")
    assert balance.standing(bad).failures == 0


def test_a_prefix_stays_where_it_was_unless_that_is_busy() -> None:
    balance = Balance()
    homes = {balance.choose(UPSTREAMS, b"prefix %d" % n).key for n in range(50)}
    assert homes == {"i1", "i2", "i3"}
    home = balance.choose(UPSTREAMS, b"one")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            assert balance.choose(UPSTREAMS, b"one") == home
            stack.enter_context(held(balance, home))
        assert balance.choose(UPSTREAMS, b"one") != home
    fewer = [upstream for upstream in UPSTREAMS if upstream != home]
    moved = [n for n in range(50) if balance.choose(UPSTREAMS, b"p%d" % n) in fewer]
    assert all(balance.choose(UPSTREAMS, b"p%d" % n) == balance.choose(fewer, b"p%d" % n) for n in moved)


@pytest.mark.live
async def test_a_dead_instance_costs_nobody_an_answer(
    site: Site, gateway: Gateway, case: Callable[..., Case], upstream: ScriptedUpstream, dead_port: int
) -> None:
    half, key = case("good", ports=[dead_port, upstream.port, dead_port]), site.person("viewer")["key"]
    body = {"model": half.model, "messages": [{"role": "user", "content": "Hi"}]}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http:
        for _ in range(20):
            async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                assert response.status in (200, 502)
        for _ in range(10):
            async with http.post(f"{gateway.url}/v1/chat/completions", json=body) as response:
                assert response.status == 200, "both dead ones are left out by now"
