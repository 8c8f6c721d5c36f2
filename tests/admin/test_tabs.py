"""Tabs of object pages: links that work without scripts, only the open one asked for, badges, who may open which."""

import re
from collections.abc import Callable
from html import unescape

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from chat.models import Usage
from deployments import lifecycle
from deployments.models import DeviceClaim, Instance, Operation, Service
from deployments.phases import OperationState, Phase
from infini import events
from infini.models import User
from inventory.installation.asking import ask_for
from inventory.installation.states import Kind
from inventory.models import Device, Server
from tests.admin.conftest import messages_of, run_instances

pytestmark = pytest.mark.django_db

MakeService = Callable[..., Service]


def bar(html: str) -> dict[str, str]:
    """The tabs by what they are called, failing ones with their number."""
    nav = html.split('<nav class="tabs"')[1].split("</nav>")[0]
    found = re.findall(r'<a href="([^"]*)"[^>]*>(.*?)</a>', nav, re.DOTALL)
    return {" ".join(unescape(re.sub(r"<[^>]+>", "", text)).split()): url for url, text in found}


def page_of(row: Server | Service, tab: str = "") -> str:
    app = "inventory" if isinstance(row, Server) else "deployments"
    return f"/admin/{app}/{row._meta.model_name}/{row.pk}/" + (f"?tab={tab}" if tab else "")


def test_a_server_has_its_tabs_and_one_is_the_present(
    viewing: Client, operating: Client, make_server: Callable
) -> None:
    server = make_server()
    html = operating.get(page_of(server)).content.decode()
    names = ["Overview", "History", "Instances", "Files", "Events"]
    assert list(bar(html)) == names
    assert html.count('aria-current="page"') >= 1 and 'href="?tab=overview" aria-current="page"' in html
    for name, url in bar(html).items():
        shown = operating.get(page_of(server) + url)
        assert shown.status_code == 200 and shown.context["open_tab"].label == name
        assert f'href="{url}" aria-current="page"' in shown.content.decode()
    assert list(bar(viewing.get(page_of(server)).content.decode())) == [n for n in names if n != "Files"]


def test_a_service_has_its_tabs(viewing: Client, make_service: MakeService) -> None:
    service = make_service()
    html = viewing.get(page_of(service)).content.decode()
    assert bar(html) == {
        "Instances": "?tab=instances",
        "Logs": "?tab=logs",
        "Revisions": "?tab=revisions",
        "Events": "?tab=events",
        "Usage": "?tab=usage",
    }
    assert viewing.get(page_of(service, "nonsense")).context["open_tab"].name == "instances"


def test_a_tab_that_is_not_ones_own_is_refused(viewing: Client, make_server: Callable) -> None:
    assert viewing.get(page_of(make_server(), "files")).status_code == 403


@pytest.mark.parametrize(
    ("kind", "tab", "untouched"),
    [
        ("server", "history", ["inventory_device", "infini_event", "inventory_sample", "deployments_deviceclaim"]),
        ("server", "events", ["inventory_device", "deployments_deviceclaim"]),
        ("service", "logs", ["deployments_operationresult", "chat_usageday", "infini_event"]),
        ("service", "usage", ["deployments_operationresult", "infini_event"]),
        ("service", "revisions", ["deployments_operationresult", "chat_usageday", "infini_event"]),
    ],
)
def test_only_the_open_tab_is_asked_for(
    kind: str, tab: str, untouched: list[str], admin: Client, make_service: MakeService
) -> None:
    service = make_service()
    run_instances(service)
    page = page_of(Server.objects.get() if kind == "server" else service, tab)
    admin.get(page)
    with CaptureQueriesContext(connection) as queries:
        assert admin.get(page).status_code == 200
    asked = " ".join(f"{query['sql']} " for query in queries)
    assert [table for table in untouched if re.search(rf'FROM "{table}" (?!U0)', asked)] == []


def test_failing_instances_are_counted_on_the_tab(viewing: Client, make_service: MakeService) -> None:
    service = make_service()
    run_instances(service, Phase.FAILED, ready=False)
    server = Server.objects.get()
    for row in (service, server):
        assert "Instances 1 Need you" in bar(viewing.get(page_of(row, "events")).content.decode())
    Instance.objects.update(wanted="stopped", phase=Phase.STOPPED)
    assert "Instances" in bar(viewing.get(page_of(server)).content.decode())


def test_a_failed_row_offers_its_log(viewing: Client, make_service: MakeService) -> None:
    service = make_service()
    run_instances(service, Phase.FAILED, ready=False, reason="The process ended with exit code 3.")
    instance = Instance.objects.get()
    for row in (service, Server.objects.get()):
        html = viewing.get(page_of(row, "instances")).content.decode()
        assert "The process ended with exit code 3." in html
        assert f'data-url="/api/instances/{instance.pk}/logs?tail=20"' in html
        assert f"/admin/deployments/service/{service.pk}/?tab=logs&amp;instance={instance.pk}" in html


def test_the_present_stands_under_instances_and_the_past_under_events(
    viewing: Client, make_service: MakeService
) -> None:
    service = make_service()
    operation = run_instances(service)
    assert str(operation) not in viewing.get(page_of(service)).content.decode()
    assert str(operation) in viewing.get(page_of(service, "events")).content.decode()
    Operation.objects.update(state=OperationState.FAILED, reason="one: it does not fit.")
    assert "it does not fit" in viewing.get(page_of(service)).content.decode()


def test_a_rollout_shows_how_far_it_is_and_what_comes_after(
    viewing: Client, make_service: MakeService, make_server: Callable
) -> None:
    service = make_service("svc", make_server("one"), make_server("two"), env={"A": "1"})
    Service.objects.filter(pk=service.pk).update(max_unavailable=1)
    run_instances(service)
    from deployments.specs import change_service

    service.refresh_from_db()
    Service.objects.filter(pk=service.pk).update(good_revision=service.current_revision)
    change_service(service, [], servers=None, spec={"env": {"A": "2"}}, by=None)
    operation = lifecycle.deploy(Service.objects.get(), by=None)
    html = viewing.get(page_of(service)).content.decode()
    assert "r1 → r2" in html and f"deadline {timezone.localtime(operation.deadline_at):%H:%M}, then r1" in html
    assert "Under way" in html and 'class="rollout"' in html


def test_events_of_a_service_are_its_own_and_of_its_instances(viewing: Client, make_service: MakeService) -> None:
    service, other = make_service("mine"), make_service("others")
    for one in (service, other):
        run_instances(one)
        instance = Instance.objects.get(placement__service=one)
        events.record("instance.phase", instance, by=None, data={"to": "failed", "server": one.name})
    response = viewing.get(page_of(service, "events"))
    names = {event.subject_name for event in response.context["events"]}
    assert any(name.startswith("mine-") for name in names) and not any(name.startswith("others") for name in names)
    assert "subject_kind__exact=instance&amp;q=mine-" in response.content.decode()


def test_events_of_a_server_begin_with_its_checks(operating: Client, operator: User, make_server: Callable) -> None:
    server = make_server(reachable=False, check_method="tcp", check_error="Port 22 refused the connection.")
    Server.objects.filter(pk=server.pk).update(last_check=timezone.now())
    ask_for([server], Kind.INSTALL, by=operator)
    html = operating.get(page_of(server, "events")).content.decode()
    assert "Reachable (tcp)" in html and "Port 22 refused the connection." in html
    assert "Install the agent" in html and "is to have its agent installed" in html


def test_a_verb_leads_back_to_the_tab_it_was_chosen_on(operating: Client, make_service: MakeService) -> None:
    service = make_service()
    run_instances(service)
    html = operating.get(page_of(service, "logs")).content.decode()
    address = f"/admin/deployments/service/{service.pk}/do/stop/?tab=logs"
    assert f'action="{address}"' in html
    done = operating.post(address, {"confirmed": "1", "word": service.name})
    assert done["Location"] == page_of(service, "logs")
    assert messages_of(operating.get(page_of(service))).startswith("Stopping: svc. <a ")
    assert operating.post(f"{address}%0d%0ax", {"confirmed": "1", "word": service.name})["Location"] == page_of(service)


def test_devices_say_who_holds_them(viewing: Client, make_service: MakeService) -> None:
    service = make_service()
    run_instances(service)
    server = Server.objects.get()
    first, _second = (
        Device.objects.create(server=server, uuid=f"u{n}", index=n, vendor="nvidia", name="H100") for n in range(2)
    )
    DeviceClaim.objects.create(device=first, instance=Instance.objects.get())
    table = viewing.get(page_of(server)).content.decode().split('id="devices-title"')[1].split("</section>")[0]
    assert f'href="/admin/deployments/service/{service.pk}/"' in table and ">Free<" in table
    assert table.count('<span class="chip-word">Ready</span>') == 1


def test_usage_of_one_service(viewing: Client, admin: Client, viewer: User, make_service: MakeService) -> None:
    service = make_service()
    Usage.objects.create(user_id=viewer.pk, service_id=service.pk, path="chat", outcome="complete")
    Usage.objects.create(user_id=viewer.pk, service_id=service.pk + 1, path="chat", outcome="complete")
    html = admin.get(page_of(service, "usage")).content.decode()
    assert f'data-url="/api/usage/history?service={service.pk}"' in html
    lines = admin.get(f"/api/usage/history?service={service.pk}").json()["series"]
    assert sum(lines[0]["values"]) == 1
    assert admin.get("/api/usage/history?service=x").status_code == 400
    assert ">0.2</a>" in admin.get("/admin/deployments/service/").content.decode()
