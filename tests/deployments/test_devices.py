"""Devices given to instances: claimed before anything starts, told to the process, never given twice."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from deployments import lifecycle
from deployments.models import DeviceClaim, Instance, Operation, Service
from infini.errors import Conflict
from inventory.models import Device, Server
from tests.deployments.conftest import status_of, turn

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]
Equip = Callable[[Server, int], None]
SHOW = "echo sees=$CUDA_VISIBLE_DEVICES order=$CUDA_DEVICE_ORDER; exec python3 -m http.server {port} --bind {host} 2>&1"


def test_an_instance_sees_its_devices_and_no_others(server: Server, make_service: Make, equip: Equip) -> None:
    equip(server, 4)
    first = make_service("sleep 300", server, name="first", devices=1)
    turn(lifecycle.deploy(first, by=None))
    second = make_service(SHOW, server, name="second", devices=2)

    operation = turn(lifecycle.deploy(second, by=None))

    assert "sees=1,2 order=PCI_BUS_ID" in operation.results.get().log_tail
    assert DeviceClaim.objects.count() == 3


def test_what_does_not_fit_says_what_is_missing_and_changes_nothing(
    server: Server, make_service: Make, equip: Equip
) -> None:
    equip(server, 2)
    turn(lifecycle.deploy(make_service("sleep 300", server, name="first", devices=1), by=None))
    second = make_service("sleep 300", server, name="second", devices=2)

    with pytest.raises(Conflict, match="one: 2 devices are needed and 1 of 2 are free"):
        lifecycle.deploy(second, by=None)

    assert not Operation.objects.filter(service=second).exists()
    assert not Instance.objects.filter(placement__service=second).exists()
    assert DeviceClaim.objects.count() == 1


def test_stopping_frees_devices_only_once_the_process_is_gone(server: Server, make_service: Make, equip: Equip) -> None:
    equip(server, 1)
    service = make_service("sleep 300", server, devices=1)
    turn(lifecycle.deploy(service, by=None))
    operation = lifecycle.stop(service, by=None)
    assert DeviceClaim.objects.exists()
    turn(operation)
    assert not DeviceClaim.objects.exists()


def test_a_redeployment_keeps_its_devices(server: Server, make_service: Make, equip: Equip) -> None:
    equip(server, 3)
    service = make_service("sleep 300", server, devices=2)
    turn(lifecycle.deploy(service, by=None))
    before = set(DeviceClaim.objects.values_list("device__uuid", flat=True))
    turn(lifecycle.deploy(service, by=None))
    assert set(DeviceClaim.objects.values_list("device__uuid", flat=True)) == before
    assert status_of(service) == "deployed"


def test_missing_devices_and_those_without_slots_are_not_given(server: Server, make_service: Make) -> None:
    Device.objects.create(server=server, uuid="a", index=0, vendor="nvidia", present=False)
    Device.objects.create(server=server, uuid="b", index=1, vendor="nvidia", slots=0)
    with pytest.raises(Conflict, match="0 of 2 are free"):
        lifecycle.deploy(make_service("sleep 300", server, devices=1), by=None)


def test_an_instance_gets_devices_of_one_vendor(server: Server, make_service: Make) -> None:
    for vendor, count in (("nvidia", 1), ("ascend", 2)):
        Device.objects.bulk_create(
            Device(server=server, uuid=f"{vendor}-{n}", index=n, vendor=vendor) for n in range(count)
        )
    turn(lifecycle.deploy(make_service("sleep 300", server, devices=2), by=None))
    assert set(DeviceClaim.objects.values_list("device__vendor", flat=True)) == {"ascend"}


def test_the_api_takes_and_tells_the_number(api: APIClient) -> None:
    made = api.post("/api/services", {"name": "s", "deploy_command": "x", "devices": 2}, format="json").json()
    assert made["devices"] == 2
    assert api.patch(f"/api/services/{made['id']}", {"devices": -1}, format="json").status_code == 400
