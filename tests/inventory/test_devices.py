"""Devices from reports: found once, missing is not gone, silence of a tool says nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from infini.models import Event
from inventory.devices import figures_of, record_devices
from inventory.models import Device, Server

pytestmark = pytest.mark.django_db


@pytest.fixture
def server(db: None) -> Server:
    return Server.objects.create(name="gpu", host_ip="127.0.0.1")


def report(*devices: Any, **parts: Any) -> dict[str, Any]:
    return {"devices": list(devices), "device_errors": {}, "devices_observed_at": "2026-01-01T00:00:00Z"} | parts


def gpu(number: int = 0, **values: Any) -> dict[str, Any]:
    base = {"uuid": f"GPU-{number}", "index": number, "vendor": "nvidia", "name": "H100", "slots": 1}
    return base | {"memory_total_bytes": 85 * 10**9, "utilization_percent": None} | values


def test_a_device_is_found_once_with_its_event(server: Server) -> None:
    for _ in range(3):
        record_devices({server.pk: report(gpu(0), gpu(1))})
    assert list(Device.objects.values_list("uuid", "memory_bytes", "present")) == [
        ("GPU-0", 85 * 10**9, True),
        ("GPU-1", 85 * 10**9, True),
    ]
    assert Event.objects.filter(kind="device.found", subject_id=str(server.pk)).count() == 2


def test_a_missing_device_stays_as_missing_and_may_come_back(server: Server) -> None:
    record_devices({server.pk: report(gpu(0), gpu(1))})
    record_devices({server.pk: report(gpu(0))})
    assert Device.objects.get(uuid="GPU-1").present is False
    assert Event.objects.filter(kind="device.missing").count() == 1
    record_devices({server.pk: report(gpu(0), gpu(1))})
    assert Device.objects.get(uuid="GPU-1").present is True


@pytest.mark.parametrize("silence", [{"device_errors": {"nvidia": "It hangs."}}, {"devices_observed_at": None}])
def test_a_tool_that_says_nothing_makes_nothing_missing(server: Server, silence: dict[str, Any]) -> None:
    record_devices({server.pk: report(gpu(0))})
    record_devices({server.pk: report(**silence)})
    assert Device.objects.get().present is True


@pytest.mark.parametrize("nonsense", [None, 5, {}, {"uuid": ""}, {"uuid": 5}, {"uuid": "x" * 101}])
def test_what_has_no_identity_is_left_out(server: Server, nonsense: Any) -> None:
    record_devices({server.pk: report(nonsense, gpu(0, index="one", memory_total_bytes=-1))})
    device = Device.objects.get()
    assert (device.uuid, device.index, device.memory_bytes) == ("GPU-0", 0, None)


def test_figures_keep_what_the_report_says(server: Server) -> None:
    figures = figures_of(report(gpu(0), device_errors={"amd": "It failed."}))
    assert figures["devices"][0]["utilization_percent"] is None
    assert figures["device_errors"] == {"amd": "It failed."}
    assert figures_of({"devices": "none", "device_errors": []})["devices"] == []


def test_many_servers_take_as_many_queries_as_one(django_assert_max_num_queries: Callable) -> None:
    servers = [Server.objects.create(name=f"s{n}", host_ip="h") for n in range(40)]
    with django_assert_max_num_queries(5):
        record_devices({server.pk: report(gpu(0), gpu(1)) for server in servers})
