"""Figures of the host that need two looks: rates."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.real_agent import AGENT_FILE, RealAgent, wait_until

_spec = importlib.util.spec_from_file_location("infini_agent", AGENT_FILE)
assert _spec and _spec.loader
agent_file = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(agent_file)
NETWORK = ("network_in_bytes_per_second", "network_out_bytes_per_second")


@pytest.fixture
def agent() -> Iterator[RealAgent]:
    with RealAgent() as running:
        yield running


def rates(agent: RealAgent) -> list:
    host = agent.request("GET", "/report")[1]["host"]
    assert host["errors"] == {}
    return [host[name] for name in NETWORK]


def test_the_network_is_a_rate_between_samples(agent: RealAgent) -> None:
    assert rates(agent) == [None, None]
    wait_until(lambda: None not in rates(agent), 5)
    assert all(isinstance(rate, int) and rate >= 0 for rate in rates(agent))


def test_the_loopback_does_not_count() -> None:
    assert "lo" not in agent_file.network_counters()


def test_a_card_that_comes_or_begins_anew_makes_no_leap(monkeypatch: pytest.MonkeyPatch) -> None:
    host = agent_file.Host()
    clock = iter([100.0, 102.0, 104.0, 104.1])
    readings = iter(
        [
            {"eth0": (1000, 500)},
            {"eth0": (3000, 500), "eth1": (10**12, 10**12)},
            {"eth0": (10, 700), "eth1": (10**12 + 4000, 10**12)},
            {"eth0": (10**9, 10**9)},
        ]
    )
    monkeypatch.setattr(agent_file, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(agent_file, "network_counters", lambda: next(readings))
    assert host.network_rates() == (None, None)
    assert host.network_rates() == (1000, 0)
    assert host.network_rates() == (2000, 100)
    assert host.network_rates() == (2000, 100), "too soon for a rate of its own"
