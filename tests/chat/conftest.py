"""One site and one scripted upstream for all tests of the folder; each test takes a service of its own."""

import socket
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from chat.models import Conversation
from tests.chat.site import Gateway, Site, start_gateway, start_site
from tests.chat.upstream_script import ScriptedUpstream, Seen


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def site(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[Site]:
    """Over a copy of the tests' own database, if there is one: migrating is the longest part of a start."""
    home = tmp_path_factory.mktemp("site")
    with django_db_blocker.unblock():
        is_migrated = Conversation._meta.db_table in connection.introspection.table_names()
        if is_migrated:
            with closing(sqlite3.connect(home / "infini.sqlite3")) as copied:
                connection.connection.backup(copied)
    running = start_site(home, migrate=not is_migrated)
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
