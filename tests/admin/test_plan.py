"""What a deployment would do, told before: the same that the claims then say, in queries that do not grow."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from deployments import lifecycle
from deployments.models import DeviceClaim, Instance, Operation, Service
from infini.errors import Conflict
from inventory.models import Device, Server
from tests.admin.conftest import count_queries, run_instances

pytestmark = pytest.mark.django_db
Make = Callable[..., Any]


def equip(server: Server, count: int, vendor: str = "nvidia") -> None:
    for n in range(count):
        Device.objects.create(server=server, uuid=f"{vendor}-{n}", index=n, vendor=vendor, name="H20")


def told(api: APIClient, **asked: Any) -> dict[str, tuple[str, str]]:
    answer = api.post("/api/services/plan", asked, format="json")
    assert answer.status_code == 200, answer.content
    return {line["server"]: (line["way"], line["reason"]) for line in answer.json()}


def test_what_fits_and_why_not(make_server: Make, make_service: Make, api: APIClient) -> None:
    big, small, none, bare = (make_server(name) for name in ("big", "small", "none", "bare"))
    equip(big, 4)
    equip(small, 2)
    equip(small, 1, vendor="ascend")
    Server.objects.filter(pk=bare.pk).update(agent_token="")
    run_instances(make_service("other", small, devices=1))

    assert told(api, devices=2) == {
        "big": ("start", ""),
        "small": ("nothing", "2 devices are needed and 1 of 3 are free."),
        "none": ("nothing", "2 devices are needed and none is known there."),
        "bare": ("nothing", "It has no agent token."),
    }
    assert told(api, devices=1, server_ids=[small.pk]) == {"small": ("start", "")}
    claims = DeviceClaim.objects.count()
    with pytest.raises(Conflict):
        lifecycle.deploy(make_service("new", small, devices=2), by=None)
    assert DeviceClaim.objects.count() == claims and Operation.objects.count() == 1


def test_a_port_of_another_service_and_maintenance_are_told(
    make_server: Make, make_service: Make, api: APIClient
) -> None:
    server = make_server("one")
    run_instances(make_service("other", server, command="serve", port=8080))
    Server.objects.update(maintenance=True)
    assert told(api, port=8080)["one"] == ("nothing", "Port 8080 belongs to the service other.")
    [line] = api.post("/api/services/plan", {"port": 8081}, format="json").json()
    assert line["fits"] and "maintenance" in line["note"]


def test_each_server_goes_the_way_it_then_goes(make_server: Make, make_service: Make, api: APIClient) -> None:
    roomy, full, leaving, new = (make_server(name) for name in ("roomy", "full", "leaving", "new"))
    for server, count in ((roomy, 2), (full, 1), (leaving, 1), (new, 1)):
        equip(server, count)
    service = make_service("svc", roomy, full, leaving, devices=1)
    run_instances(service)
    ids = [roomy.pk, full.pk, new.pk]

    def ways(**asked: Any) -> dict[str, str]:
        plans = told(api, service_id=service.pk, server_ids=ids, **asked)
        return {server: way for server, (way, _) in plans.items()}

    assert ways() == {"roomy": "in_place", "full": "in_place", "new": "start", "leaving": "end"}
    rolled = {"roomy": "beside", "full": "in_place", "new": "start", "leaving": "end"}
    assert ways(max_unavailable=1) == rolled
    assert ways(max_unavailable=1, surge=False)["roomy"] == "in_place"
    assert ways(max_unavailable=1, devices=0)["roomy"] == "in_place"  # nobody knows whether two have room
    Instance.objects.update(phase="failed", ready=False)
    assert ways(max_unavailable=1)["roomy"] == "in_place"


def test_bad_input_is_told(api: APIClient) -> None:
    for asked in ({"service_id": 987654321}, {"devices": -1}, {"server_ids": ["x"]}, {"port": 0}):
        assert api.post("/api/services/plan", asked, format="json").status_code == 400


def test_queries_do_not_grow(make_server: Make, make_service: Make, api: APIClient, operating: Client) -> None:
    first = make_server("first")
    equip(first, 2)
    service = make_service("svc", first, devices=1, command="serve", port=8080)
    run_instances(service)
    page = f"/admin/deployments/service/plan/?service={service.pk}&devices=1&port=8080"

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            told(api, service_id=service.pk)
        return len(captured)

    operating.get(page), queries()  # what is looked up once: kinds of content, counts for all pages
    few, few_page = queries(), count_queries(operating, page)
    for n in range(4):
        equip(make_server(f"more-{n}"), 4)
    assert (queries(), count_queries(operating, page)) == (few, few_page)


def test_the_form_holds_the_place_and_the_page_tells_it(
    make_server: Make, make_service: Make, operating: Client, viewing: Client, client: Client
) -> None:
    server = make_server("gpu-07")
    equip(server, 1)
    service: Service = make_service("svc", server)
    form = operating.get(f"/admin/deployments/service/{service.pk}/change/").content.decode()
    assert f'data-service="{service.pk}"' in form and "js/plan.js" in form
    page = "/admin/deployments/service/plan/"
    assert "Where it would fit" in viewing.get(page).content.decode()
    shown = viewing.get(f"{page}?placed_on={server.pk}&devices=2").content.decode()
    assert "What will happen" in shown and "1 server does not fit" in shown and "1 of 1 devices free" in shown
    assert viewing.get(f"{page}?placed_on=x&devices=9999999999&port=-1&service=y").status_code == 200
    assert client.get(page).status_code == 302
