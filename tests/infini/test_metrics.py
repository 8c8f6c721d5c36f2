"""``/metrics`` as Prometheus reads it: what stands there, for whom; what nobody told lately is left out."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from rest_framework.test import APIClient

from chat.models import UsageDay
from deployments.phases import Phase
from infini.alerts import Subject, open_alert
from infini.keys import create_key
from infini.models import AlertKind, User
from inventory.limits import limit
from inventory.models import Environment, Server
from tests.admin.conftest import make_server, make_service, run_instances  # noqa: F401  (fixtures)

DEVICE = {"uuid": "GPU-1", "index": 0, "vendor": "nvidia", "name": 'H100 "80"', "utilization_percent": 55}
FIGURES = {"cpu_percent": 12.5, "memory_percent": None, "devices": [DEVICE, DEVICE | {"uuid": "GPU-2", "index": 1}]}

Told = dict[tuple[str, tuple[str, ...]], float]


def told(api: APIClient) -> Told:
    """Each sample by its name and the values of its labels, sorted."""
    answer = api.get("/metrics")
    assert answer.status_code == 200 and answer["Content-Type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, tuple(sorted(s.labels.values()))): s.value for family in families for s in family.samples}


@pytest.fixture
def fleet(make_server: Callable[..., Server], make_service: Callable[..., Any]) -> Server:  # noqa: F811
    now = timezone.now()
    place = Environment.objects.create(name="lab")
    heard = make_server("heard", environment=place, agent_seen_at=now, figures=FIGURES)
    make_server("silent", agent_seen_at=now - timedelta(minutes=9), agent_asked_at=now, figures=FIGURES)
    run_instances(make_service("runs", heard))
    run_instances(make_service("broken", heard), Phase.FAILED, ready=False, restarts=3)
    open_alert(AlertKind.SERVER_OFFLINE, Subject.of(heard), "Silent.")
    return heard


def test_what_stands_there(fleet: Server, api: APIClient) -> None:
    found = told(api)
    assert found["infini_servers", ("online",)] == found["infini_servers", ("offline",)] == 1
    assert found["infini_servers", ("unknown",)] == 0
    assert (
        found["infini_server_online", ("heard", "lab")] == 1
        and found["infini_server_online", ("production", "silent")] == 0
    )
    assert found["infini_open_alerts", ("server_offline",)] == 1
    assert found["infini_services", ("running",)] == found["infini_services", ("not_running",)] == 1
    assert found["infini_service_ready_instances", ("", "broken")] == 0
    assert found["infini_service_wanted_instances", ("", "broken")] == 1
    assert found["infini_service_restarts", ("broken",)] == 3
    assert found["infini_instances", ("failed",)] == 1 and found["infini_instances", ("lost",)] == 0
    assert found["infini_tasks", ()] == found["infini_runs", ("missed",)] == 0


def test_no_figure_that_nobody_told_lately(fleet: Server, api: APIClient) -> None:
    found = told(api)
    assert found["infini_server_cpu_percent", ("heard", "lab")] == 12.5
    assert found["infini_device_utilization_percent", ("1", "GPU-2", 'H100 "80"', "heard", "nvidia")] == 55
    names = {name for name, _ in found}
    assert "infini_server_memory_percent" not in names and "infini_device_power_watts" not in names
    assert not [labels for name, labels in found if "percent" in name and "silent" in labels]


def test_requests_and_tokens_are_counters_of_ones_own_or_everybodys(
    administrator: User, operator: User, api_as: Callable[..., APIClient], viewer: User
) -> None:
    today = timezone.now().date()
    for user, day, requests in ((operator, today, 2), (operator, today - timedelta(days=400), 5), (viewer, today, 10)):
        UsageDay.objects.create(
            day=day, user_id=user.pk, service_name="chat", model="m", requests=requests, failed=1, prompt_tokens=100
        )
    for user, requests, tokens in ((administrator, 17, 300), (viewer, 10, 100)):
        found = told(api_as(user))
        assert found["infini_requests_total", ("chat", "m")] == requests
        assert found["infini_prompt_tokens_total", ("chat", "m")] == tokens
        assert found["infini_failed_requests_total", ("chat", "m")] == tokens / 100


def test_who_may_ask(fleet: Server, viewer: User, api_as: Callable[..., APIClient]) -> None:
    assert api_as(None).get("/metrics").status_code == 401
    _, text = create_key(user=viewer, name="prometheus", by=viewer)
    by_key = APIClient(headers={"Authorization": f"Bearer {text}"})
    assert by_key.get("/metrics/").status_code == 200
    limit(viewer, [Environment.objects.create(name="elsewhere")])
    found = told(api_as(User.objects.get(pk=viewer.pk)))
    assert found["infini_servers", ("online",)] == 0
    assert not [labels for _, labels in found if "heard" in labels or "runs" in labels]


def test_queries_do_not_grow(fleet: Server, api: APIClient, make_server: Callable, make_service: Callable) -> None:  # noqa: F811
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            told(api)
        return len(queries)

    before = count()
    for n in range(5):
        run_instances(make_service(f"svc-{n}", make_server(f"s-{n}", figures=FIGURES, agent_seen_at=timezone.now())))
    assert count() == before
