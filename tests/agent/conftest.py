"""Fixtures for tests against the real agent."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest

from tests.real_agent import RealAgent

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared() -> Iterator[RealAgent]:
    """One agent for tests that do it no harm; each uses keys of its own."""
    with RealAgent("--client-timeout", "1") as agent:
        yield agent


@pytest.fixture
def agent() -> Iterator[RealAgent]:
    """A fresh agent for tests that kill things or read the whole state."""
    with RealAgent() as agent:
        yield agent


@pytest.fixture
def key() -> str:
    """An instance key that no other test uses."""
    return f"test-{next(_numbers)}"


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
