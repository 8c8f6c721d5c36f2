"""Host keys over the API and on the server's page, with a real sshd behind."""

from collections.abc import Callable, Iterator

import pytest
from django.test import Client
from rest_framework.test import APIClient

from infini.models import Event, User
from inventory.models import Server
from inventory.ssh.host_keys import fingerprint
from tests.real_sshd import RealSshd, refused_port

pytestmark = pytest.mark.django_db(transaction=True)

ApiAs = Callable[[User | None], APIClient]


@pytest.fixture
def own_sshd() -> Iterator[RealSshd]:
    with RealSshd() as server:
        yield server


@pytest.fixture
def server(own_sshd: RealSshd) -> Server:
    return Server.objects.create(
        name="gpu-1",
        host_ip=own_sshd.host,
        port=own_sshd.port,
        username=own_sshd.username,
        private_key=own_sshd.private_key,
    )


def key_path(server: Server) -> str:
    return f"/api/servers/{server.pk}/host-key"


def told(answer: object) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]  # type: ignore[attr-defined]


def test_seen_confirmed_changed_and_pinned_anew_over_the_api(
    server: Server, own_sshd: RealSshd, api: APIClient, administrator: User, api_as: ApiAs
) -> None:
    path, chief = key_path(server), api_as(administrator)
    assert api.get(path).json() == {
        "server_id": server.pk,
        "state": "none",
        "host_key": "",
        "fingerprint": "",
        "offered_host_key": "",
        "offered_fingerprint": "",
    }
    seen = api.post(f"{path}/scan").json()
    assert seen["state"] == "unconfirmed" and seen["offered_host_key"] == own_sshd.host_key
    assert seen["offered_fingerprint"] == fingerprint(own_sshd.host_key)
    confirmed = api.post(path, {"fingerprint": seen["offered_fingerprint"]}, format="json").json()
    assert (confirmed["state"], confirmed["host_key"]) == ("pinned", own_sshd.host_key)
    assert api.post(f"{path}/scan").json() == confirmed

    own_sshd.renew_host_key()
    changed = api.post(f"{path}/scan").json()
    assert changed["state"] == "changed" and changed["fingerprint"] == confirmed["fingerprint"]
    body = {"fingerprint": changed["offered_fingerprint"], "name": "gpu-1"}
    assert told(api.post(path, body, format="json")) == (403, "permission_denied")
    for name in ({}, {"name": "gpu-2"}):
        answer = chief.post(path, {"fingerprint": changed["offered_fingerprint"], **name}, format="json")
        assert told(answer) == (400, "invalid") and "name" in answer.json()["error"]["fields"]
    assert chief.post(path, body, format="json").json()["state"] == "pinned"
    kinds = list(Event.objects.filter(kind__contains="host_key").order_by("id").values_list("kind", flat=True))
    assert kinds == [
        "server.host_key_seen",
        "server.host_key_confirmed",
        "server.host_key_changed",
        "server.host_key_repinned",
    ]


def test_nobody_pins_what_he_did_not_see(server: Server, own_sshd: RealSshd, api: APIClient) -> None:
    path = key_path(server)
    assert told(api.post(path, {}, format="json")) == (400, "invalid")
    seen = api.post(f"{path}/scan").json()["offered_fingerprint"]
    own_sshd.renew_host_key()
    api.post(f"{path}/scan")
    assert told(api.post(path, {"fingerprint": seen}, format="json")) == (409, "conflict")
    assert told(api.post(path, {"host_key": "ssh-ed25519 nonsense"}, format="json")) == (400, "invalid")
    server.refresh_from_db()
    assert server.host_key == ""
    assert api.post(path, {"host_key": own_sshd.host_key}, format="json").json()["state"] == "pinned"


def test_what_keeps_from_asking_is_a_sentence(api: APIClient) -> None:
    plain = Server.objects.create(name="plain", host_ip="127.0.0.1")
    gone = Server.objects.create(
        name="gone", host_ip="127.0.0.1", port=refused_port(), username="root", password="canary-1"
    )
    assert told(api.post(f"{key_path(plain)}/scan")) == (409, "ssh_not_set_up")
    answer = api.post(f"{key_path(gone)}/scan")
    assert told(answer) == (504, "ssh_unreachable")
    assert "refuses the connection" in answer.json()["error"]["message"]


def test_a_jump_host_is_another_server_and_leads_in_no_circle(api: APIClient, server: Server) -> None:
    hop = Server.objects.create(name="hop", host_ip="10.0.0.9", jump=server)
    far = Server.objects.create(name="far", host_ip="10.0.0.8", jump=hop)
    for jump in (server, hop, far):
        answer = api.patch(f"/api/servers/{server.pk}", {"jump_id": jump.pk}, format="json")
        assert told(answer) == (400, "invalid") and "jump_id" in answer.json()["error"]["fields"]
    assert api.get(f"/api/servers/{far.pk}").json()["jump_id"] == hop.pk
    farther = api.post("/api/servers", {"name": "a", "host_ip": "10.0.0.7", "jump_id": far.pk}, format="json").json()
    last = {"name": "b", "host_ip": "10.0.0.6", "jump_id": farther["id"]}
    assert told(api.post("/api/servers", last, format="json")) == (400, "invalid")
    assert told(api.delete(f"/api/servers/{hop.pk}")) == (409, "conflict")
    assert api.patch(f"/api/servers/{far.pk}", {"jump_id": None}, format="json").json()["jump_id"] is None


# The page


def page_of(client: Client, server: Server) -> str:
    return client.get(f"/admin/inventory/server/{server.pk}/").content.decode()


@pytest.fixture
def as_person(client: Client) -> Callable[[User], Client]:
    def log_in(user: User) -> Client:
        client.force_login(user)
        return client

    return log_in


def test_the_page_leads_from_not_seen_to_pinned(
    server: Server, own_sshd: RealSshd, operator: User, as_person: Callable[[User], Client]
) -> None:
    client = as_person(operator)
    post_to = f"/admin/inventory/server/{server.pk}/host-key/"
    assert "Not seen yet" in page_of(client, server)
    assert client.get(post_to).status_code == 405
    assert client.post(post_to).status_code == 302
    page = page_of(client, server)
    print_ = fingerprint(own_sshd.host_key)
    assert "Not confirmed" in page and page.count(print_) >= 2 and 'name="fingerprint"' in page
    asked = client.post(post_to, {"fingerprint": print_})
    assert "Confirm the host key of gpu-1?" in asked.content.decode() and "Not confirmed" in page_of(client, server)
    client.post(post_to, {"fingerprint": print_, "confirmed": "1"})
    page = page_of(client, server)
    assert "Pinned" in page and print_ in page and 'name="fingerprint"' not in page


def test_a_changed_key_shows_both_and_is_an_administrators_to_pin(
    server: Server,
    own_sshd: RealSshd,
    operator: User,
    administrator: User,
    viewer: User,
    as_person: Callable[[User], Client],
) -> None:
    Server.objects.update(host_key=own_sshd.host_key)
    old = own_sshd.host_key
    own_sshd.renew_host_key()
    post_to = f"/admin/inventory/server/{server.pk}/host-key/"
    client = as_person(operator)
    client.post(post_to)
    page = page_of(client, server)
    assert "Key changed" in page and fingerprint(old) in page and fingerprint(own_sshd.host_key) in page
    assert 'name="fingerprint"' not in page
    assert "Key changed" in client.get("/admin/inventory/server/").content.decode()
    values = {"fingerprint": fingerprint(own_sshd.host_key), "confirmed": "1", "word": "gpu-1"}
    client.post(post_to, values)
    server.refresh_from_db()
    assert server.host_key == old
    client = as_person(viewer)
    assert client.post(post_to, values).status_code == 403 == client.post(post_to).status_code
    assert 'action="' + post_to not in page_of(client, server)
    client = as_person(administrator)
    assert 'name="fingerprint"' in page_of(client, server)
    asked = client.post(post_to, {"fingerprint": values["fingerprint"]}).content.decode()
    assert fingerprint(old) in asked and fingerprint(own_sshd.host_key) in asked and 'data-word="gpu-1"' in asked
    assert client.post(post_to, {**values, "word": "gpu"}).status_code == 409
    server.refresh_from_db()
    assert server.host_key == old
    client.post(post_to, values)
    server.refresh_from_db()
    assert server.host_key == own_sshd.host_key


def test_the_form_offers_other_servers_as_jump_hosts_without_reading_their_secrets(
    server: Server, operator: User, as_person: Callable[[User], Client]
) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    Server.objects.create(name="hop", host_ip="10.0.0.9", password="canary-2")
    client = as_person(operator)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        form = client.get(f"/admin/inventory/server/{server.pk}/change/").content.decode()
    assert ">hop</option>" in form
    menus = [q["sql"] for q in queries if 'FROM "inventory_server"' in q["sql"] and '"password"' in q["sql"]]
    assert len(menus) <= 1, "the server itself"
