"""The fleet's history: means over all that reported, gaps that stay, a bounded number of rows however large it is."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from inventory import fleet_history as module
from inventory.fleet_history import fleet_history
from inventory.models import Sample, Server

pytestmark = pytest.mark.django_db


def fill(count: int, minutes: int, *, cpu: float = 50.0, step: int = 1) -> datetime:
    """``count`` servers whose CPU is ``cpu`` plus their number; returns the first sample's time."""
    last = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=1)
    first = last - timedelta(minutes=minutes - 1)
    servers = [Server.objects.create(name=f"s{n}", host_ip="127.0.0.1") for n in range(count)]
    devices = {"1": [80, 50, None, 300], "2": [20, None, 60, None]}
    Sample.objects.bulk_create(
        Sample(server=s, at=first + timedelta(minutes=m), cpu_percent=cpu + n, memory_percent=None, devices=devices)
        for n, s in enumerate(servers)
        for m in range(0, minutes, step)
    )
    return first


def lines(history: module.FleetHistory) -> dict[str, list[float | None]]:
    return {one.name: one.values for one in history.series}


def test_it_is_the_mean_of_what_reported_and_gaps_stay(api: APIClient) -> None:
    first = fill(2, 6)
    Sample.objects.filter(at=first + timedelta(minutes=2)).delete()
    Sample.objects.filter(at=first + timedelta(minutes=4), server__name="s1").delete()
    span = {"from": first.isoformat(), "to": (first + timedelta(minutes=6)).isoformat()}
    answer = api.get("/api/history", span)
    assert answer.status_code == 200, answer.content
    found = answer.json()
    told = {one["name"]: one["values"] for one in found["series"]}
    assert told["cpu_percent"] == [50.5, 50.5, None, 50.5, 50, 50.5]
    assert told["servers"] == [2, 2, None, 2, 1, 2]
    assert told["memory_percent"] == [None] * 6
    assert told["utilization_percent"] == [50, 50, None, 50, 50, 50] and told["device_memory_percent"][0] == 50
    assert (found["step_seconds"], found["read_every_seconds"]) == (60, 60)


@pytest.mark.parametrize("hours", [1, 6, 24, 168])
def test_queries_and_rows_do_not_grow(
    hours: int, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Callable
) -> None:
    fill(10, 60)
    monkeypatch.setattr(module, "MOST_ROWS", 600)
    now = timezone.now()
    with django_assert_num_queries(3):
        found = fleet_history(now - timedelta(hours=hours), now)
    steps = len(found.series[0].values)
    assert steps * (found.step_seconds // found.read_every_seconds) * 10 <= 600 * 1.3
    told = [value for value in lines(found)["cpu_percent"] if value is not None]
    assert all(50 <= value <= 60 for value in told) and (told or hours > 24)


def test_bad_spans_are_refused_and_strangers_too(api: APIClient, client: Client) -> None:
    assert api.get("/api/history", {"from": "2020-01-01T00:00:00Z"}).status_code == 400
    assert client.get("/api/history").status_code == 401
