"""The server ``local``: made, kept up to date, made again."""

import stat
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from infini.models import Event
from inventory.local import ensure_local_server
from inventory.models import Server

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def agent_state(settings: Any, tmp_path: Path) -> Path:
    settings.AGENT_STATE_DIR = tmp_path / "agent"
    settings.AGENT_PORT = 8123
    return settings.AGENT_STATE_DIR


def test_site_and_agent_share_the_token(agent_state: Path, api: APIClient) -> None:
    server = ensure_local_server()
    token = agent_state / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text().strip()) >= 43
    stored = Server.objects.get()
    assert (stored.name, stored.host_ip, stored.agent_port) == ("local", "127.0.0.1", 8123)
    assert stored.agent_token == token.read_text().strip()
    assert token.read_text().strip() not in str(list(Event.objects.values_list("data", flat=True)))
    assert api.get(f"/api/servers/{server.pk}").json()["agent_token_set"] is True


def test_the_agents_own_token_is_taken(agent_state: Path) -> None:
    agent_state.mkdir()
    (agent_state / "token").write_text("made-by-the-agent\n")
    assert ensure_local_server().agent_token == "made-by-the-agent"


def test_a_second_start_changes_nothing() -> None:
    first = ensure_local_server()
    events = Event.objects.count()
    again = ensure_local_server()
    assert (again.pk, again.version, Event.objects.count()) == (first.pk, 1, events)


def test_port_and_token_follow(agent_state: Path, settings: Any) -> None:
    ensure_local_server()
    settings.AGENT_PORT = 9999
    (agent_state / "token").write_text("another\n")
    ensure_local_server()
    stored = Server.objects.get()
    assert (stored.agent_port, stored.agent_token, stored.version) == (9999, "another", 2)


def test_what_a_person_changed_stays_and_a_deleted_one_comes_back(api: APIClient) -> None:
    server = ensure_local_server()
    body = {"name": "Local", "labels": {"rack": "7"}, "maintenance": True, "port": 2222}
    assert api.patch(f"/api/servers/{server.pk}", body, format="json").status_code == 200
    ensure_local_server()
    stored = Server.objects.get()
    assert (stored.name, stored.labels, stored.maintenance, stored.port) == ("Local", {"rack": "7"}, True, 2222)
    assert api.delete(f"/api/servers/{server.pk}").status_code == 204
    assert ensure_local_server().pk != server.pk


def test_the_token_never_goes_to_another_machine(api: APIClient) -> None:
    server = ensure_local_server()
    api.patch(f"/api/servers/{server.pk}", {"host_ip": "10.0.0.9", "agent_token": ""}, format="json")
    ensure_local_server()
    assert Server.objects.get().agent_token == ""
