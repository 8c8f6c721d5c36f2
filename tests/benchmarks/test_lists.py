"""Lists at the size of a large fleet: 500 servers, 1,000 services."""

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.models import Instance, Operation, Placement, Revision, Service
from deployments.phases import OperationState, Phase, Wanted
from infini.models import User
from inventory.models import AIModel, Brand, Card, Environment, Server
from tests.benchmarks.conftest import Table, milliseconds, p95

pytestmark = [pytest.mark.benchmark, pytest.mark.django_db]
PATHS = ("/api/servers", "/api/services")
FIGURES = {"cpu_percent": 12.0, "memory_percent": 40.0, "disk_percent": 70.0, "errors": {}}


def fill(servers: int, services: int) -> None:
    """That many servers and services more, each service on two servers and deployed once."""
    start, now = Service.objects.count(), timezone.now()
    environment, _ = Environment.objects.get_or_create(name="production")
    brand, _ = Brand.objects.get_or_create(name="Brand")
    card, _ = Card.objects.get_or_create(brand=brand, name="Card")
    model, _ = AIModel.objects.get_or_create(name="model")
    boxes = Server.objects.bulk_create(
        Server(
            name=f"server-{start + n}", host_ip="10.0.0.1", brand=brand, card=card, environment=environment,
            agent_token="t", agent_seen_at=now, agent_asked_at=now, figures=FIGURES,
        )
        for n in range(servers)
    )  # fmt: skip
    made = Service.objects.bulk_create(
        Service(name=f"service-{start + n}", model=model, environment=environment, wanted=Wanted.RUNNING)
        for n in range(services)
    )
    revisions = Revision.objects.bulk_create(Revision(service=s, number=1, command="serve {port}") for s in made)
    for service, revision in zip(made, revisions, strict=True):
        service.current_revision = revision
    Service.objects.bulk_update(made, ["current_revision"], batch_size=200)
    placements = Placement.objects.bulk_create(
        Placement(service=s, server=boxes[(n + k) % servers]) for n, s in enumerate(made) for k in (0, 1)
    )
    Instance.objects.bulk_create(
        Instance(
            placement=p, revision=p.service.current_revision, key=f"k-{start}-{n}", generation=1, acked_generation=1,
            phase=Phase.RUNNING if n % 10 else Phase.FAILED, ready=bool(n % 10), pid=n + 2, observed_at=now,
        )
        for n, p in enumerate(placements)
    )  # fmt: skip
    Operation.objects.bulk_create(
        Operation(service=s, kind="deploy", state=OperationState.DONE, deadline_at=now) for s in made
    )


@pytest.fixture
def browser(administrator: User) -> Client:
    client = Client()
    administrator.is_superuser = True
    administrator.save()
    client.force_login(administrator)
    return client


def queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(connection) as asked:
        assert client.get(path).status_code == 200
        return len(asked)


def test_lists(browser: Client, table: Table) -> None:
    """Lists of 500 servers and 1,000 services, whole request"""
    fill(5, 10)
    few = {path: queries(browser, path) for path in PATHS}
    fill(495, 990)
    reference = milliseconds(lambda: browser.get("/healthz"), 30)
    slow = []
    for path in PATHS:
        taken = milliseconds(lambda path=path: browser.get(path), 30)
        many = queries(browser, path)
        table.add(f"{path}, P95", f"{p95(taken):.0f} ms, {many} queries", f"/healthz {p95(reference):.1f} ms", "200 ms")
        assert many <= few[path], path
        if p95(taken) >= 200:
            slow.append(path)
    assert not slow
