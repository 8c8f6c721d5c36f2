"""Browsers logged in with each role, and rows to look at."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.models import Instance, Operation, OperationResult, Service
from deployments.phases import OperationState, Phase, ResultState
from deployments.specs import create_service
from infini.models import User
from inventory.models import Brand, Card, Environment, Server


@pytest.fixture
def as_user() -> Callable[[User], Client]:
    def browser(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return browser


@pytest.fixture
def admin(administrator: User, as_user: Callable[[User], Client]) -> Client:
    return as_user(administrator)


@pytest.fixture
def operating(operator: User, as_user: Callable[[User], Client]) -> Client:
    return as_user(operator)


@pytest.fixture
def viewing(viewer: User, as_user: Callable[[User], Client]) -> Client:
    return as_user(viewer)


@pytest.fixture
def make_server(db: None) -> Callable[..., Server]:
    """A server that reported just now, unless told otherwise."""
    brand = Brand.objects.create(name="Maker")
    card = Card.objects.create(brand=brand, name="C1", memory=64)
    environment = Environment.objects.create(name="production")

    def make(name: str = "one", **columns: Any) -> Server:
        now = timezone.now()
        heard = {"agent_seen_at": now, "agent_asked_at": now, "agent_token": "a-token"}
        kind = {"brand": brand, "card": card, "environment": environment}
        return Server.objects.create(**{"name": name, "host_ip": "127.0.0.1", **kind, **heard, **columns})

    return make


@pytest.fixture
def make_service(make_server: Callable[..., Server]) -> Callable[..., Service]:
    def make(name: str = "svc", *servers: Server, command: str = "run --port {port}", **spec: Any) -> Service:
        placed = servers or (Server.objects.filter(name="one").first() or make_server(),)
        return create_service(Service(name=name), servers=placed, spec={"command": command, **spec}, by=None)

    return make


def run_instances(service: Service, phase: str = Phase.RUNNING, *, ready: bool = True, **columns: Any) -> Operation:
    """As if it had been deployed and every instance had come to ``phase``."""
    from deployments import lifecycle

    operation = lifecycle.deploy(service, by=None)
    Instance.objects.filter(placement__service=service).update(phase=phase, ready=ready, **columns)
    state = ResultState.DONE if ready else ResultState.FAILED
    OperationResult.objects.filter(operation=operation).update(state=state, log_tail="line one\nthe last line")
    closed = OperationState.DONE if ready else OperationState.FAILED
    Operation.objects.filter(pk=operation.pk).update(state=closed, finished_at=timezone.now() + timedelta(seconds=1))
    return operation


def count_queries(client: Client, url: str, **headers: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        response = client.get(url, **headers)  # type: ignore[arg-type]
    assert response.status_code == 200, url
    return len(queries)


def messages_of(response: Any) -> str:
    return " | ".join(str(message) for message in response.context["messages"])


def form_data(response: Any) -> dict[str, Any]:
    """What a browser would post back: the form's values as they stand on the page."""
    form = response.context["adminform"].form
    data: dict[str, Any] = {}
    for name in form.fields:
        value = form[name].value()
        if value is None or name in ("password", "private_key", "passphrase", "agent_token", "secret_env"):
            continue
        if value is False:
            continue
        data[form.add_prefix(name)] = value
    return data
