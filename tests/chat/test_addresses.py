"""Where an endpoint may lead, and where it must not, however it is written."""

import socket
from collections.abc import Callable

import pytest
from django.test import Client
from rest_framework.test import APIClient

from chat import addresses
from chat.models import Endpoint
from chat.refusals import Refusal
from deployments.upstreams import Upstream
from infini.errors import Invalid
from infini.models import Event, User

REFUSED = [
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("100.100.100.200", "fd00:ec2::254", "168.63.129.16", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1"),
    "2002:a9fe:a9fe::1",
]


@pytest.mark.parametrize("number", REFUSED)
def test_no_request_goes_there(number: str) -> None:
    assert addresses.refused(number)


@pytest.mark.parametrize(
    "number", ["127.0.0.1", "::1", "10.0.0.7", "192.168.1.1", "8.8.8.8", "fd12::1", "2606:4700::1"]
)
def test_where_models_may_run(number: str) -> None:
    assert not addresses.refused(number)


@pytest.mark.parametrize(
    "url",
    [
        *("http://169.254.169.254/latest", "http://[fe80::1]/v1", "http://0/v1", "http://2852039166/v1"),
        *("ftp://example.org", "http://", "example.org/v1", "http://u:p@127.0.0.1/v1", "http://127.0.0.1/v1?x=1"),
        *("http://127.0.0.1/v1#x", "http://127.0.0.1/\r\nX: y", "http://127.0.0.1:99999/v1", "file:///etc/passwd", ""),
    ],
)
def test_no_such_address_is_taken(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        addresses.checked_base_url(url)
    assert "base_url" in refused.value.fields


def test_an_address_is_kept_without_its_last_slash() -> None:
    assert addresses.checked_base_url(" http://127.0.0.1:8000/v1/ ") == "http://127.0.0.1:8000/v1"


async def test_a_name_that_turns_is_checked_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["127.0.0.1", "169.254.169.254"]

    def resolve(host: str, port: int, **_: object) -> list:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (answers[0], port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(addresses, "_resolved", {})
    upstream = Upstream("endpoint-1", "https://rebind.example/v1", "x", guarded=True)
    found = await addresses.checked_address(upstream)
    assert (found.host, found.name, found.port, found.tls) == ("127.0.0.1", "rebind.example", 443, True)
    answers.pop(0)
    assert (await addresses.checked_address(upstream)).host == "127.0.0.1", "what was checked is used"
    monkeypatch.setattr(addresses, "_resolved", {})
    with pytest.raises(Refusal, match="link-local"):
        await addresses.checked_address(upstream)


def test_only_an_administrator_enters_addresses(
    operator: User, administrator: User, api_as: Callable[[User | None], APIClient]
) -> None:
    body = {"name": "far", "base_url": "http://127.0.0.1:9/v1/", "key": "sk-secret"}
    assert api_as(operator).post("/api/endpoints", body, format="json").status_code == 403
    api = api_as(administrator)
    made = api.post("/api/endpoints", body, format="json")
    assert made.status_code == 201, made.content
    assert made.json()["key_set"] is True and "sk-secret" not in made.content.decode()
    row = Endpoint.objects.get()
    assert (row.base_url, row.key) == ("http://127.0.0.1:9/v1", "sk-secret")
    url = f"/api/endpoints/{row.pk}"
    bad = api.patch(url, {"base_url": "http://169.254.169.254/v1"}, format="json")
    assert bad.status_code == 400 and "base_url" in bad.json()["error"]["fields"]
    moved = api.patch(url, {"base_url": "http://127.0.0.2:9/v1"}, format="json")
    assert moved.status_code == 400 and "key" in moved.json()["error"]["fields"], "the key was for the old host alone"
    assert api.patch(url, {"base_url": "http://127.0.0.1:9/other"}, format="json").status_code == 200
    assert "sk-secret" not in str(list(Event.objects.values_list("data", flat=True)))
    assert api.delete(url).status_code == 204


def test_the_form_takes_no_such_address_either(administrator: User) -> None:
    browser = Client()
    browser.force_login(administrator)
    form = {"name": "far", "base_url": "http://169.254.169.254/v1", "queue": "100", "queue_seconds": "30"}
    page = browser.post("/admin/chat/endpoint/add/", form)
    assert page.status_code == 200 and "link-local" in page.content.decode()
    form["base_url"] = "http://127.0.0.1:9/v1"
    assert browser.post("/admin/chat/endpoint/add/", {**form, "key": "sk-secret"}).status_code == 302
    page = browser.get(f"/admin/chat/endpoint/{Endpoint.objects.get().pk}/change/")
    assert "sk-secret" not in page.content.decode() and "Stored; leave empty" in page.content.decode()
