"""Installing agents from the admin and over the API: who may, what is shown, nothing on GET."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.test import Client
from rest_framework.test import APIClient

from inventory.installation.asking import ask_for
from inventory.installation.release import is_older, own_release
from inventory.installation.states import Kind, State
from inventory.models import Installation, Server
from tests.admin.conftest import count_queries, messages_of

INSTALL = "/admin/inventory/server/install/"
SERVERS = "/admin/inventory/server/"


def act(client: Client, action: str, *servers: Server) -> Any:
    return client.post(SERVERS, {"action": action, "_selected_action": [server.pk for server in servers]})


def test_the_action_leads_to_a_page_that_asks_and_only_post_begins(
    operating: Client, make_server: Callable[..., Server]
) -> None:
    one, two = make_server("one", username="root"), make_server("two")
    led = act(operating, "agent-install", one, two)
    assert led.status_code == 302 and led["Location"].startswith(f"{INSTALL}?kind=install&ids=")
    page = operating.get(led["Location"])
    text = page.content.decode()
    assert "root@127.0.0.1:22" in text and "No SSH account is stored." in text and own_release().version in text
    assert "python3 install_agent.py --host 127.0.0.1 --port 8888" in text
    assert not Installation.objects.exists()

    ids = f"{one.pk},{two.pk}"
    begun = operating.post(INSTALL, {"ids": ids, "kind": "install", "dry_run": "1"})
    rows = list(Installation.objects.all())
    assert [(row.dry_run, row.state) for row in rows] == [(True, State.QUEUED)] * 2
    assert begun["Location"] == f"{INSTALL}{rows[0].batch}/"
    batch = operating.get(begun["Location"])
    assert "Install the agent: dry run" in batch.content.decode() and b"Cancel the rest" in batch.content

    # Busy: told, and nothing is begun beside it.
    again = operating.post(INSTALL, {"ids": ids, "kind": "remove"}, follow=True)
    assert "one is busy with: install #" in messages_of(again)
    assert Installation.objects.count() == 2
    asked = operating.post(begun["Location"], {"do": "cancel"}).content.decode()
    assert "Cancel these 2?" in asked and "Let it run" in asked and 'name="do" value="cancel"' in asked
    assert not Installation.objects.filter(state=State.CANCELLED).exists()
    cancelled = operating.post(begun["Location"], {"do": "cancel", "confirmed": "1"}, follow=True)
    assert "Cancelling 2." in messages_of(cancelled) and b"Retry 2" in cancelled.content
    assert set(Installation.objects.values_list("state", flat=True)) == {State.CANCELLED}
    operating.post(begun["Location"], {"do": "retry"})
    assert set(Installation.objects.values_list("state", flat=True)) == {State.QUEUED}


def test_whose_role_is_too_low_sees_and_does_not(
    viewing: Client, make_server: Callable[..., Server], administrator: Any
) -> None:
    server = make_server("one", username="root")
    [row] = ask_for([server], Kind.INSTALL, by=administrator).installations
    assert viewing.get(f"{INSTALL}?ids={server.pk}").status_code == 403
    assert viewing.post(INSTALL, {"ids": server.pk}).status_code == 403
    assert act(viewing, "agent-install", server).status_code == 403
    assert viewing.post(f"{SERVERS}{server.pk}/do/agent-install/").status_code == 403
    batch = viewing.get(f"{INSTALL}{row.batch}/")
    assert batch.status_code == 200 and b"Cancel the rest" not in batch.content
    assert viewing.post(f"{INSTALL}{row.batch}/", {"do": "cancel"}).status_code == 403
    assert viewing.get(f"/admin/inventory/installation/{row.pk}/").status_code == 200
    row.refresh_from_db()
    assert (row.state, row.cancel_asked) == (State.QUEUED, False)


def test_pages_take_what_does_not_fit(operating: Client) -> None:
    assert operating.get(INSTALL).status_code == 200
    assert operating.get(f"{INSTALL}?ids=a,,1e9,999&kind=install").status_code == 200
    assert operating.get(f"{INSTALL}?ids=1&kind=nonsense").status_code == 404
    assert operating.get(f"{INSTALL}nothing/").status_code == 404


def test_pages_take_a_constant_number_of_queries(operating: Client, make_server: Callable[..., Server]) -> None:
    def ask(tag: str, n: int) -> tuple[str, str]:
        servers = [make_server(f"{tag}{i}", username="root") for i in range(n)]
        batch = ask_for(servers, Kind.INSTALL, by=None).batch
        return f"{INSTALL}?ids={','.join(str(s.pk) for s in servers)}", f"{INSTALL}{batch}/"

    few, many = ask("a", 2), ask("b", 12)
    operating.get(few[0])
    for small, large in zip(few, many, strict=True):
        assert count_queries(operating, large) <= count_queries(operating, small)


def test_the_list_finds_agents_by_version(operating: Client, make_server: Callable[..., Server]) -> None:
    make_server("old", agent_version="0.1.0")
    make_server("current", agent_version=own_release().version)
    make_server("newer", agent_version="99.0")
    make_server("bare", agent_token="")

    def named(value: str) -> set[str]:
        found = operating.get(f"{SERVERS}?agent={value}").context["cl"].result_list
        return {server.name for server in found}

    assert named("upgrade") == {"old"}
    assert named("none") == {"bare"}
    assert named("99.0") == {"newer"}
    assert is_older("0.9", "0.10") and not is_older("1.0", "1.0")


def test_an_upgrade_that_is_none_is_not_offered(operating: Client, make_server: Callable[..., Server]) -> None:
    current = make_server("current", agent_version=own_release().version)
    page = operating.get(f"{SERVERS}{current.pk}/").content.decode()
    assert f"Version {own_release().version} is the site&#x27;s own or newer." in page


def test_over_the_api(api: APIClient, make_server: Callable[..., Server]) -> None:
    server, other = make_server("one", username="root"), make_server("two", username="root")
    begun = api.post(f"/api/servers/{server.pk}/agent/install", {"dry_run": True}, format="json")
    assert begun.status_code == 202, begun.content
    document = begun.json()
    assert (document["kind"], document["state"], document["dry_run"]) == ("install", "queued", True)
    assert [step["name"] for step in document["steps"]][:2] == ["look", "file"]
    assert document["steps"][0]["label"] == "Look at the machine" and document["steps"][0]["started_at"] is None
    busy = api.post(f"/api/servers/{server.pk}/agent/upgrade")
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "installation_open")
    assert api.post(f"/api/servers/{server.pk}/agent/remove", {"stop_instances": "maybe"}).status_code == 400

    many = api.post("/api/servers/agents/upgrade", {"server_ids": [server.pk, other.pk]}, format="json")
    assert many.status_code == 202
    assert [row["server"] for row in many.json()["installations"]] == ["two"]
    assert [row["server_id"] for row in many.json()["refused"]] == [server.pk]
    assert api.post("/api/servers/agents/upgrade", {"server_ids": [10**6]}, format="json").status_code == 400

    listed = api.get(f"/api/installations?server_id={server.pk}").json()
    assert [row["id"] for row in listed] == [document["id"]]
    assert api.get(f"/api/installations?batch={many.json()['batch']}").json()[0]["server"] == "two"
    assert api.get("/api/installations?server_id=x").status_code == 400
    assert api.post(f"/api/installations/{document['id']}/retry").status_code == 409
    assert api.post(f"/api/installations/{document['id']}/cancel").status_code == 202
    assert api.get(f"/api/installations/{document['id']}").json()["state"] == "cancelled"
    assert api.post(f"/api/installations/{document['id']}/cancel").status_code == 409
    assert api.post(f"/api/installations/{document['id']}/retry").json()["state"] == "queued"


def test_a_server_without_an_agent_cannot_be_upgraded(api: APIClient, make_server: Callable[..., Server]) -> None:
    bare = make_server("bare", agent_token="")
    refused = api.post(f"/api/servers/{bare.pk}/agent/upgrade")
    assert refused.status_code == 400 and "install it" in refused.json()["error"]["message"]


def test_the_api_takes_a_constant_number_of_queries(
    api: APIClient, make_server: Callable[..., Server], django_assert_max_num_queries: Any
) -> None:
    ask_for([make_server(f"s{i}", username="root") for i in range(8)], Kind.INSTALL, by=None)
    with django_assert_max_num_queries(6):
        assert len(api.get("/api/installations").json()) == 8


def test_a_server_that_is_deleted_leaves_its_history(make_server: Callable[..., Server]) -> None:
    server = make_server("one", username="root")
    [row] = ask_for([server], Kind.INSTALL, by=None).installations
    server.delete()
    row.refresh_from_db()
    assert (row.server_id, row.server_name) == (None, "one")
