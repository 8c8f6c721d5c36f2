"""Servers over HTTP: shapes, references, bad input, deletion, number of queries."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from deployments.models import Placement, Service
from inventory.models import Server

Make = Callable[..., dict]


def fields_of(answer) -> dict:
    assert answer.status_code == 400, answer.content
    return answer.json()["error"]["fields"]


def test_a_server_needs_only_name_and_address(make: Make) -> None:
    made = make("/api/servers", name=" gpu-1 ", host_ip="10.0.0.1")
    expected = {
        "name": "gpu-1",
        "host_ip": "10.0.0.1",
        "port": 22,
        "agent_port": 8888,
        "username": "",
        "brand_id": None,
        "brand": None,
        "model_id": None,
        "model": None,
        "environment": None,
        "environment_id": None,
        "labels": {},
        "maintenance": False,
        "status": "unknown",
        "reachable": None,
        "last_check": None,
        "agent_seen_at": None,
        "agent_error": "",
        "agent_version": "",
        "password_set": False,
        "private_key_set": False,
        "passphrase_set": False,
        "agent_token_set": False,
        "version": 1,
    }
    assert {name: made[name] for name in expected} == expected


def test_a_server_carries_brand_card_and_environment(api: APIClient, make: Make, card: dict) -> None:
    make("/api/environments", name="production")
    made = make("/api/servers", name="gpu-1", host_ip="h.example", model_id=card["id"], environment="Production")
    assert (made["brand_id"], made["brand"]["name"]) == (card["brand_id"], "NVIDIA")
    assert (made["model_id"], made["model"]["name"], made["model"]["memory"]) == (card["id"], "H100", 80)
    assert made["environment"] == "production"
    assert api.get("/api/servers").json() == [made] == [api.get(f"/api/servers/{made['id']}").json()]


def test_what_was_read_can_be_written_back(api: APIClient, make: Make, card: dict) -> None:
    make("/api/environments", name="production")
    made = make(
        "/api/servers", name="gpu-1", host_ip="::1", model_id=card["id"], environment="production", labels={"rack": "7"}
    )
    written = api.put(f"/api/servers/{made['id']}", made, format="json")
    assert (written.status_code, written.json()) == (200, made)


def test_an_environment_is_written_by_name_or_id(api: APIClient, make: Make, server: dict) -> None:
    ids = {name: make("/api/environments", name=name)["id"] for name in ("test", "production")}
    path = f"/api/servers/{server['id']}"

    def write(**values: object):
        return api.patch(path, values, format="json")

    for values, name in (
        ({"environment": "TEST"}, "test"),
        ({"environment_id": ids["production"]}, "production"),
        ({"environment": ids["test"]}, "test"),
        ({"environment": None}, None),
        ({"environment": "test", "environment_id": ids["test"]}, "test"),
    ):
        read = write(**values).json()
        assert (read["environment"], read["environment_id"]) == (name, ids.get(name) if name else None)
    assert "environment_id" in fields_of(write(environment="test", environment_id=ids["production"]))
    assert "environment" in fields_of(write(environment="nowhere"))
    assert "environment" in fields_of(write(environment=987654))
    assert "environment_id" in fields_of(write(environment_id="x"))


def test_brand_and_card_agree(api: APIClient, make: Make, card: dict) -> None:
    other = make("/api/brands", name="AMD")
    body = {"name": "gpu-1", "host_ip": "10.0.0.1", "brand_id": other["id"], "model_id": card["id"]}
    assert "NVIDIA" in fields_of(api.post("/api/servers", body, format="json"))["brand_id"][0]
    path = f"/api/servers/{make('/api/servers', **{**body, 'model_id': None})['id']}"
    taken = api.patch(path, {"model_id": card["id"]}, format="json").json()
    assert taken["brand"]["name"] == "NVIDIA"
    for values in ({"brand_id": other["id"]}, {"brand_id": None}):
        assert "brand_id" in fields_of(api.patch(path, values, format="json"))
    moved = api.patch(path, {"model_id": None, "brand_id": other["id"]}, format="json").json()
    assert (moved["model"], moved["brand"]["name"]) == (None, "AMD")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", ""),
        ("name", None),
        ("host_ip", ""),
        ("host_ip", "http://10.0.0.1"),
        ("host_ip", "10.0.0.1:22"),
        ("host_ip", "999.1.1.1"),
        ("host_ip", "a b"),
        ("host_ip", "-x.example"),
        ("host_ip", "a..b"),
        ("host_ip", "x\r\nHost: y"),
        ("host_ip", "x" * 254),
        ("port", 0),
        ("port", 65536),
        ("port", -1),
        ("port", "ssh"),
        ("port", True),
        ("port", None),
        ("port", 2.5),
        ("agent_port", 0),
        ("agent_port", 10**30),
        ("maintenance", "perhaps"),
        ("brand_id", 987654),
        ("model_id", "x"),
        ("model_id", [1]),
        ("labels", []),
        ("labels", {"a": 1}),
        ("labels", {"a": {"b": "c"}}),
        ("labels", {"": "x"}),
        ("labels", {"a": "x" * 300}),
        ("labels", {"a": "\x00"}),
        ("labels", {str(n): "x" for n in range(65)}),
        ("labels", None),
        ("agent_token", "two words"),
        ("agent_token", "line\r\nX-Evil: 1"),
        ("agent_certificate", "no certificate"),
        ("password", None),
        ("password", {"a": 1}),
        ("private_key", "no key"),
    ],
)
def test_bad_values_are_named_and_nothing_is_stored(api: APIClient, server: dict, name: str, value: object) -> None:
    body = {"name": "gpu-2", "host_ip": "10.0.0.2", name: value}
    assert fields_of(api.post("/api/servers", body, format="json")).keys() == {name}
    assert fields_of(api.patch(f"/api/servers/{server['id']}", {name: value}, format="json")).keys() == {name}
    assert api.get("/api/servers").json() == [server]


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1", "gpu-1", "gpu_1.lab.example", "GPU.example."])
def test_addresses_and_host_names_are_accepted(make: Make, host: str) -> None:
    assert make("/api/servers", name="gpu-1", host_ip=f" {host} ")["host_ip"] == host


def test_a_name_is_taken_whatever_its_case(api: APIClient, server: dict) -> None:
    answer = api.post("/api/servers", {"name": "GPU-1", "host_ip": "10.0.0.2"}, format="json")
    assert fields_of(answer).keys() == {"name"}


def test_observed_columns_are_not_written(api: APIClient, server: dict) -> None:
    body = {"status": "online", "reachable": True, "last_check": "2020-01-01T00:00:00Z", "agent_version": "9"}
    assert api.patch(f"/api/servers/{server['id']}", body, format="json").json() == server


def test_status_is_derived(api: APIClient, server: dict) -> None:
    path = f"/api/servers/{server['id']}"

    def status_with(**observed: object) -> str:
        Server.objects.filter(pk=server["id"]).update(**observed)
        return api.get(path).json()["status"]

    now = timezone.now()
    assert status_with(reachable=False) == "offline"
    assert status_with(agent_seen_at=now) == "online"
    assert status_with(agent_seen_at=now - timedelta(hours=1)) == "offline"
    assert status_with(reachable=True) == "online"


def test_a_stale_version_is_refused(api: APIClient, server: dict) -> None:
    path = f"/api/servers/{server['id']}"
    assert api.patch(path, {"maintenance": True, "version": 1}, format="json").json()["version"] == 2
    answer = api.patch(path, {"maintenance": False, "version": 1}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stale_version")
    assert api.get(path).json()["maintenance"] is True


def test_a_server_with_placements_stays(api: APIClient, server: dict) -> None:
    service = Service.objects.create(name="qwen")
    Placement.objects.create(service=service, server_id=server["id"])
    refused = api.delete(f"/api/servers/{server['id']}")
    assert refused.status_code == 409 and "qwen" in refused.json()["error"]["message"]
    Placement.objects.all().delete()
    assert api.delete(f"/api/servers/{server['id']}").status_code == 204


@pytest.mark.parametrize("path", ["/api/servers", "/api/accelerators", "/api/models", "/api/brands"])
def test_a_list_takes_as_many_queries_for_many_rows(api: APIClient, make: Make, card: dict, path: str) -> None:
    make("/api/environments", name="test")

    def grow(first: int, last: int) -> None:
        for n in range(first, last):
            brand = make("/api/brands", name=f"brand {n}")
            own = make(f"/api/brands/{brand['id']}/accelerators", name=f"card {n}")
            make("/api/servers", name=f"s{n}", host_ip="h", model_id=own["id"], environment="test", password="x")
            make("/api/models", name=f"m{n}", environment_ids=[api.get("/api/environments").json()[0]["id"]])

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert api.get(path).status_code == 200
        return len(captured)

    grow(0, 2)
    few = queries()
    grow(2, 12)
    assert queries() == few <= 7  # session, person, rights (2), limits, rows, what belongs to them


def test_the_browsable_api_shows_list_and_form(api: APIClient, server: dict, card: dict) -> None:
    for path in ("/api/servers", f"/api/servers/{server['id']}", "/api/brands", "/api/models", "/api/upload"):
        answer = api.get(path, HTTP_ACCEPT="text/html")
        assert answer["Content-Type"].startswith("text/html")
        assert b"<form" in answer.content or path == "/api/upload"
