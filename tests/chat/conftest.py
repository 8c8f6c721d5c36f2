"""One site and one scripted upstream for all tests of the folder; each test takes a service of its own."""

import socket
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.chat.site import Gateway, Site, start_gateway, start_site
from tests.chat.upstream_script import ScriptedUpstream, Seen


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = start_site(tmp_path_factory.mktemp("site"))
    yield running
    running.end()


@pytest.fixture(scope="session")
def gateway(site: Site) -> Iterator[Gateway]:
    """The gateway as a process of its own, under uvicorn, over the site's database."""
    running = start_gateway(site)
    yield running
    running.end()


@dataclass
class Case:
    """A service whose instances behave in one way, and what they saw."""

    service_id: int
    url: str
    seen: Seen
    model: str = ""


@pytest.fixture
def case(site: Site, upstream: ScriptedUpstream) -> Callable[..., Case]:
    def make(behaviour: str, *, ports: list[int] | None = None, served_model: str = "tiny", name: str = "") -> Case:
        token = uuid.uuid4().hex[:8]
        prefix = f"/{behaviour}/{token}/v1"
        name = name or f"s-{token}"
        service_id = site.service(ports or [upstream.port], prefix, served_model, name)
        return Case(service_id, site.completions(service_id), upstream.seen[token], name)

    return make


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else gets it, and never listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
