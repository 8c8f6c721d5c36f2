"""Samples a minute, and the history drawn from them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from inventory import samples
from inventory.devices import record_devices
from inventory.history import history_of
from inventory.models import Device, Sample, Server
from inventory.samples import Samples, prune

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def server(db: None) -> Server:
    return Server.objects.create(name="s", host_ip="127.0.0.1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    def set_to(moment: datetime) -> None:
        monkeypatch.setattr(samples.timezone, "now", lambda: moment)

    set_to(NOON)
    return set_to


def report(cpu: object, *devices: dict) -> dict:
    host = {"cpu_percent": cpu, "memory_percent": 50.0, "network_in_bytes_per_second": 1000}
    return {"host": host, "devices": list(devices), "devices_observed_at": "x"}


def card(use: object, used: int = 40) -> dict:
    return {
        "uuid": "GPU-1", "index": 1, "vendor": "nvidia", "name": "H100", "memory_total_bytes": 80,
        "memory_used_bytes": used, "utilization_percent": use, "temperature_celsius": None, "power_watts": 300,
    }  # fmt: skip


def test_a_minute_is_written_when_it_is_over(server: Server, clock: Callable) -> None:
    record_devices({server.pk: report(0, card(0))})
    taken = Samples()
    taken.take([(server.pk, report(10, card(80)))])
    taken.take([(server.pk, report(30, card(100, 80))), (10**6, report(1))])
    taken.take([(server.pk, report(float("nan"), card("?")))])
    assert not Sample.objects.exists()

    clock(NOON + timedelta(seconds=30))
    taken.take([(server.pk, report(99))])
    sample = Sample.objects.get()
    assert (sample.server_id, sample.at) == (server.pk, NOON.replace(second=0))
    assert (sample.cpu_percent, sample.disk_percent, sample.network_in) == (20, None, 1000)
    assert sample.devices == {str(Device.objects.get().pk): [90, 66.7, None, 300]}


def test_two_monitors_write_one_sample(server: Server, clock: Callable) -> None:
    first, second = Samples(), Samples()
    for taken in (first, second):
        taken.take([(server.pk, report(10))])
    for taken in (first, second):
        taken.write()
    assert Sample.objects.count() == 1


def test_statements_do_not_grow(clock: Callable, django_assert_num_queries: Callable) -> None:
    taken = Samples()
    servers = [Server.objects.create(name=f"n{n}", host_ip="h") for n in range(150)]
    taken.take([(s.pk, report(10)) for s in servers])
    with django_assert_num_queries(4):
        taken.write()
    assert Sample.objects.count() == 150


def test_old_ones_go_in_batches(server: Server, settings: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PRUNED_AT_ONCE", 3)
    settings.SAMPLES_KEEP_DAYS = 2  # type: ignore[attr-defined]
    now = timezone.now()
    ages = [timedelta(days=2, minutes=n) for n in range(5)] + [timedelta(days=1)]
    Sample.objects.bulk_create(Sample(server=server, at=now - age) for age in ages)
    assert [prune(), prune(), prune()] == [3, 2, 0]
    assert Sample.objects.get().at == now - timedelta(days=1)


def fill(server: Server, minutes: int, **columns: object) -> datetime:
    """A sample for each of the last ``minutes`` whole minutes; returns the first one's time."""
    last = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=1)
    first = last - timedelta(minutes=minutes - 1)
    Sample.objects.bulk_create(
        Sample(server=server, at=first + timedelta(minutes=n), cpu_percent=n, **columns) for n in range(minutes)
    )
    return first


def test_history_keeps_gaps(server: Server, api: APIClient) -> None:
    device = Device.objects.create(server=server, uuid="u", index=3, vendor="nvidia", name="H100")
    first = fill(server, 10, devices={str(device.pk): [80, 50, None, 300], "999": [1, 1, 1, 1]})
    Sample.objects.filter(at=first + timedelta(minutes=4)).delete()
    span = {"from": first.isoformat(), "to": (first + timedelta(minutes=10)).isoformat()}

    answer = api.get(f"/api/servers/{server.pk}/history", span)

    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert (found["server_id"], found["step_seconds"]) == (server.pk, 60)
    assert datetime.fromisoformat(found["from"]) == first
    lines = {(s["name"], s["device"] and s["device"]["index"]): s for s in found["series"]}
    assert lines["cpu_percent", None]["values"] == [0, 1, 2, 3, None, 5, 6, 7, 8, 9]
    assert lines["disk_percent", None]["values"] == [None] * 10
    assert (lines["utilization_percent", 3]["unit"], lines["power_watts", 3]["values"][0]) == ("percent", 300)
    assert ("temperature_celsius", 3) not in lines, "what no tool tells has no line"


@pytest.mark.parametrize(("hours", "step"), [(1, 60), (6, 60), (24, 300), (168, 1800)])
def test_the_step_grows_with_the_span(
    server: Server, hours: int, step: int, django_assert_num_queries: Callable
) -> None:
    fill(server, 60)
    now = timezone.now()
    with django_assert_num_queries(2):
        found = history_of(server, now - timedelta(hours=hours), now)
    assert found.step_seconds == step
    cpu = next(s.values for s in found.series if s.name == "cpu_percent")
    assert len(cpu) <= 400 and len(cpu) in (hours * 3600 // step, hours * 3600 // step + 1)
    told = [value for value in cpu if value is not None]
    assert told == sorted(told) and len(told) >= 60 * 60 // step


@pytest.mark.parametrize("span", [{"from": "yesterday"}, {"from": "2999-01-01T00:00:00Z"}, {"from": "2020-01-01"}])
def test_bad_spans_are_refused(server: Server, api: APIClient, span: dict) -> None:
    answer = api.get(f"/api/servers/{server.pk}/history", span)
    assert answer.status_code == 400
    assert "from" in answer.json()["error"]["fields"]
    assert api.get("/api/servers/987654321/history").status_code == 404
