"""Devices in list and API: who holds them, which are free, what is not known; freeing those of a lost instance."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from deployments.models import DeviceClaim, Instance, Service
from infini.models import Event
from inventory.models import Device, Server
from tests.admin.conftest import count_queries, messages_of, run_instances

pytestmark = pytest.mark.django_db
LIST = "/admin/inventory/device/"


def figures(count: int) -> dict[str, Any]:
    live = [
        {
            "uuid": f"GPU-{n}",
            "memory_used_bytes": 40 * 1024**3,
            "utilization_percent": 91,
            "temperature_celsius": 71,
            "power_watts": 310.4,
            "health": "ok",
            "verified": False,
        }
        for n in range(count)
    ]
    return {"devices": live, "devices_observed_at": "2026-01-31T08:15:00Z"}


@pytest.fixture
def equip(db: None) -> Callable[[Server, int], list[Device]]:
    """So many devices, with figures for all."""

    def make(server: Server, count: int, vendor: str = "nvidia") -> list[Device]:
        Server.objects.filter(pk=server.pk).update(figures=figures(count))
        kind = {"vendor": vendor, "name": "H20", "memory_bytes": 96 * 1024**3}
        return [Device.objects.create(server=server, uuid=f"GPU-{n}", index=n, **kind) for n in range(count)]

    return make


@pytest.fixture
def holding(make_server: Callable, make_service: Callable, equip: Callable) -> Service:
    """A service with two of three devices of its server."""
    equip(make_server("gpu-07"), 3)
    service = make_service("qwen", Server.objects.get(), devices=2)
    run_instances(service)
    return service


def test_the_list_tells_figures_holder_and_what_is_free(holding: Service, viewing: Client) -> None:
    page = viewing.get(LIST).content.decode()
    for text in ("gpu-07", "H20", "40.0 / 96.0 GiB", "91%", "71 °C", "310 W", "qwen", "Free", "unverified", "Healthy"):
        assert text in page, text
    assert "developer_board" in page


def test_it_is_filtered(holding: Service, make_server: Callable, equip: Callable, viewing: Client) -> None:
    other = make_server("npu-01")
    equip(other, 1, vendor="ascend")
    Device.objects.filter(server=other).update(present=False)

    def names(query: str) -> list[str]:
        rows = viewing.get(f"{LIST}?{query}").context["cl"].result_list
        return [f"{row.server.name}/{row.index}" for row in rows]

    assert names("") == ["gpu-07/0", "gpu-07/1", "gpu-07/2", "npu-01/0"]
    assert names("free=yes") == ["gpu-07/2"]
    assert names("free=no") == ["gpu-07/0", "gpu-07/1", "npu-01/0"]
    assert names("vendor=ascend") == names("present=no") == names(f"server__id__exact={other.pk}") == ["npu-01/0"]
    assert len(names(f"server__brand__id__exact={other.brand_id}")) == 4


def test_queries_do_not_grow(holding: Service, make_server: Callable, equip: Callable, viewing: Client) -> None:
    viewing.get(LIST)  # what is counted once for all pages
    few = count_queries(viewing, LIST)
    for n in range(3):
        equip(make_server(f"more-{n}"), 8)
    assert count_queries(viewing, LIST) == few


def test_the_api_tells_the_same(holding: Service, api: APIClient, equip: Callable, make_server: Callable) -> None:
    def ask(query: str = "") -> Any:
        return api.get(f"/api/devices{query}").json()

    first, _second, third = ask()
    assert (first["server"], first["index"], first["memory_used_bytes"]) == ("gpu-07", 0, 40 * 1024**3)
    assert [holder["service"] for holder in first["instances"]] == ["qwen"]
    assert (first["free"], third["free"], third["instances"], third["verified"]) == (False, True, [], False)
    assert [d["index"] for d in ask("?free=true")] == [2] and [d["index"] for d in ask("?free=false")] == [0, 1]
    assert len(ask("?limit=1&offset=1")) == 1 and ask("?vendor=ascend") == [] and len(ask("?present=true")) == 3
    assert api.get("/api/devices?server=x").status_code == 400
    with CaptureQueriesContext(connection) as few:
        ask()
    equip(make_server("more"), 8)
    with CaptureQueriesContext(connection) as many:
        assert len(ask()) == 11
    assert len(many) == len(few)


def test_what_a_tool_does_not_tell_is_absent_not_zero(make_server: Callable, equip: Callable, api: APIClient) -> None:
    server = make_server("bare")
    equip(server, 1)
    Server.objects.update(figures={})
    [device] = api.get("/api/devices").json()
    told = [device[name] for name in ("memory_used_bytes", "utilization_percent", "power_watts", "health")]
    assert told == [None] * 4 and device["memory_total_bytes"] == 96 * 1024**3


def test_devices_of_a_lost_instance_are_freed_by_its_typed_key(
    holding: Service, operating: Client, viewing: Client
) -> None:
    instance = Instance.objects.get()
    page = f"/admin/deployments/service/instance/{instance.pk}/free-devices/"
    server = f"/admin/inventory/server/{instance.placement.server_id}/"
    assert "free-devices" not in operating.get(server).content.decode()
    typed = {"confirmed": "1", "word": instance.key}
    assert "is not lost" in messages_of(operating.post(page, typed, follow=True))

    Instance.objects.update(phase="lost", ready=False)

    assert page in operating.get(server).content.decode() and page not in viewing.get(server).content.decode()
    assert viewing.post(page, typed).status_code == 403
    assert instance.key in operating.get(page).content.decode()
    assert operating.post(page, {**typed, "word": "something"}).status_code == 409
    assert operating.post(page, {"confirmed": "1"}).status_code == 409
    assert DeviceClaim.objects.count() == 2
    assert operating.post(page, typed).url == server
    assert not DeviceClaim.objects.exists()
    assert Event.objects.get(kind="instance.devices_freed").data == {"devices": ["gpu-07/0", "gpu-07/1"]}


def test_they_are_freed_by_api_with_the_key(holding: Service, api: APIClient) -> None:
    instance = Instance.objects.get()
    path = f"/api/instances/{instance.pk}/free-devices"
    assert api.post(path, {"confirm": instance.key}, format="json").status_code == 409
    Instance.objects.update(phase="lost", ready=False)
    assert api.post(path, {"confirm": "x"}, format="json").status_code == 400
    assert api.post(path, {"confirm": instance.key}, format="json").json() == {"devices": ["gpu-07/0", "gpu-07/1"]}
    assert api.post(path, {"confirm": instance.key}, format="json").status_code == 409
