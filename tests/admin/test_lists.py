"""Lists: a number of queries that does not grow, words for states, the worst first, filters that work."""

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from chat.gateway_parts import RATE
from chat.models import Endpoint, TrafficRule, Usage
from deployments.models import Service
from deployments.phases import Phase
from deployments.shown import Standing, standing_of, with_standing
from infini.alerts import Subject, open_alert
from infini.keys import create_key
from infini.models import AlertKind, AlertTarget, Event, User
from inventory.installation.asking import ask_for
from inventory.installation.states import Kind
from inventory.models import AIModel, Brand, Card, Device, Environment, Server
from tests.admin.conftest import count_queries, run_instances

LISTS = [
    "inventory/server",
    "inventory/brand",
    "inventory/card",
    "inventory/environment",
    "inventory/installation",
    "inventory/aimodel",
    "deployments/service",
    "deployments/operation",
    "infini/alert",
    "infini/alerttarget",
    "infini/event",
    "infini/apikey",
    "infini/user",
    "chat/endpoint",
    "chat/trafficrule",
]


def grow(make_server: Callable[..., Server], make_service: Callable[..., Service], by: User, tag: str, n: int) -> None:
    for i in range(n):
        brand = Brand.objects.create(name=f"b-{tag}{i}")
        card = Card.objects.create(brand=brand, name=f"c-{tag}{i}")
        environment = Environment.objects.create(name=f"e-{tag}{i}")
        AIModel.objects.create(name=f"m-{tag}{i}").environments.add(environment)
        server = make_server(f"s-{tag}{i}", brand=brand, card=card, environment=environment)
        run_instances(make_service(f"svc-{tag}{i}", server))
        ask_for([server], Kind.INSTALL, by=by)
        User.objects.create_user(f"u-{tag}{i}", password="x")
        create_key(user=by, name=f"k-{tag}{i}", by=by)
        model = AIModel.objects.get(name=f"m-{tag}{i}")
        Endpoint.objects.create(name=f"ep-{tag}{i}", base_url="http://127.0.0.1:1/v1", key="canary", model=model)
        TrafficRule.objects.create(service=Service.objects.get(name=f"svc-{tag}{i}"), concurrency=3)
        AlertTarget.objects.create(name=f"t-{tag}{i}", address="http://127.0.0.1:1/", secret="canary")
        open_alert(AlertKind.SERVER_OFFLINE, Subject.of(server), "Silent.")


@pytest.mark.parametrize("page", [*(f"/admin/{name}/" for name in LISTS), "/admin/"])
def test_queries_do_not_grow(
    page: str,
    admin: Client,
    administrator: User,
    make_server: Callable[..., Server],
    make_service: Callable[..., Service],
) -> None:
    grow(make_server, make_service, administrator, "a", 2)
    admin.get(page)  # caches fill
    before = count_queries(admin, page)
    grow(make_server, make_service, administrator, "b", 9)
    assert count_queries(admin, page) <= before


TABS = {
    "server": ["overview", "history", "instances", "files", "events"],
    "service": ["instances", "logs", "revisions", "events", "usage"],
}


@pytest.mark.parametrize("kind", ["server", "service"])
def test_pages_of_one_object_do_not_grow(
    kind: str, admin: Client, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    servers = [make_server("one")]
    service = make_service("svc", *servers)
    run_instances(service)

    def counts(pk: int) -> list[int]:
        app = "inventory" if kind == "server" else "deployments"
        return [count_queries(admin, f"/admin/{app}/{kind}/{pk}/?tab={tab}") for tab in TABS[kind]]

    counts(pk := servers[0].pk if kind == "server" else service.pk)
    before = counts(pk)
    for i in range(5):
        run_instances(make_service(f"other{i}", *servers))
    wide = make_service("wide", *servers, *(make_server(f"more{i}") for i in range(5)))
    run_instances(wide)
    after = counts(pk if kind == "server" else wide.pk)
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


def test_server_list_tells_each_state_in_words(admin: Client, make_server: Callable[..., Server]) -> None:
    make_server("fine")
    make_server("gone", agent_seen_at=None, reachable=False)
    make_server("new", agent_seen_at=None, agent_asked_at=None)
    html = admin.get("/admin/inventory/server/").content.decode()
    for word in ("Online", "Offline", "Not checked"):
        assert f'<span class="chip-word">{word}</span>' in html
    assert html.index(">gone<") < html.index(">new<") < html.index(">fine<")


@pytest.mark.parametrize(
    ("query", "shown"),
    [("status=offline", "gone"), ("status=online", "fine"), ("status=unknown", "new"), ("maintenance=yes", "fine")],
)
def test_server_filters(query: str, shown: str, admin: Client, make_server: Callable[..., Server]) -> None:
    make_server("fine", maintenance=True)
    make_server("gone", agent_seen_at=None, reachable=False)
    make_server("new", agent_seen_at=None, agent_asked_at=None)
    rows = admin.get(f"/admin/inventory/server/?{query}").context["cl"].result_list
    assert [row.name for row in rows] == [shown]


def test_servers_are_found_by_label_and_free_devices(admin: Client, make_server: Callable[..., Server]) -> None:
    taken, free = make_server("taken", labels={"rack": "a1"}), make_server("free", labels={"rack": "a1", "1": "x=y"})
    for number, server in enumerate((taken, free, free)):
        Device.objects.create(server=server, uuid=str(number), index=number, vendor="nvidia", slots=number % 2)

    def found(query: str) -> list[str]:
        return [row.name for row in admin.get(f"/admin/inventory/server/?{query}").context["cl"].result_list]

    assert found("label=rack%3Da1") == ["free", "taken"] and found("label=1%3Dx%3Dy") == ["free"]
    assert found("label=rack%3Da") == []
    assert found("free=yes") == ["free"] and found("free=no") == ["taken"]
    html = admin.get("/admin/inventory/server/").content.decode()
    assert 'value="rack=a1"' in html and ">1/2</a>" in html and ">0/1</a>" in html


def test_device_memory_of_a_server_is_that_of_all_its_devices(admin: Client, make_server: Callable) -> None:
    gib = 2**30
    told = [{"memory_used_bytes": used * gib, "memory_total_bytes": 64 * gib} for used in (64, 32)]
    make_server("full", figures={"devices": [*told, {"memory_used_bytes": None, "memory_total_bytes": 64 * gib}, "x"]})
    make_server("silent", figures={"devices": [{"uuid": "a"}]})
    html = admin.get("/admin/inventory/server/").content.decode()
    assert ">75%<" in html and "96.0 / 128 GiB" in html
    assert "No device&#x27;s tool has told." in html


def test_a_deploying_service_shows_how_far_it_is_in_its_row(
    admin: Client, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    from deployments import lifecycle
    from deployments.models import OperationResult

    operation = lifecycle.deploy(make_service("wide", *(make_server(f"s{n}") for n in range(4))), by=None)
    OperationResult.objects.filter(pk=operation.results.order_by("pk").first().pk).update(state="done")
    html = admin.get("/admin/deployments/service/").content.decode()
    assert 'value="25" aria-label="1 of 4 done"' in html


def test_servers_are_put_in_maintenance_and_out_of_it(operating: Client, make_server: Callable[..., Server]) -> None:
    server = make_server("one")
    page = f"/admin/inventory/server/{server.pk}/"
    assert "Put in maintenance" in operating.get(page).content.decode()
    bulk = {"action": "maintenance-on", "_selected_action": [server.pk], "confirmed": "1"}
    operating.post("/admin/inventory/server/", bulk)
    for path in (page, "/admin/inventory/server/"):
        assert re.search(r'title="Left alone since \d\d:\d\d by operator', operating.get(path).content.decode()), path
    html = operating.get(page).content.decode()
    assert "End maintenance" in html and "Put in maintenance" not in html
    operating.post(f"{page}do/maintenance-off/")
    server.refresh_from_db()
    assert not server.maintenance


def test_a_command_is_begun_from_chosen_servers(operating: Client, make_server: Callable[..., Server]) -> None:
    chosen = [make_server(name, username="root") for name in ("a", "b")]
    make_server("c")
    done = operating.post(
        "/admin/inventory/server/", {"action": "command", "_selected_action": [server.pk for server in chosen]}
    )
    form = operating.get(done["Location"]).context["adminform"].form
    assert [str(pk) for pk in form["on_servers"].value()] == [str(server.pk) for server in chosen]
    assert operating.get("/admin/scheduler/run/add/?on_servers=x,&name=y").status_code == 200


@pytest.fixture
def in_every_state(make_server: Callable[..., Server], make_service: Callable[..., Service]) -> None:
    one, two = make_server("one"), make_server("two")
    run_instances(make_service("runs", one))
    run_instances(make_service("failed", one), Phase.FAILED, ready=False, reason="Exit 1.")
    run_instances(make_service("lost", one), Phase.LOST, ready=False)
    partly = make_service("partly", one, two)
    run_instances(partly)
    partly.placements.get(server=two).instances.update(phase=Phase.FAILED, ready=False)
    stopped = make_service("stopped", one)
    run_instances(stopped)
    for placement in stopped.placements.all():
        placement.instances.update(wanted="stopped", phase=Phase.STOPPED, ready=False)
    leftover = make_service("leftover", one)
    run_instances(leftover)
    for placement in leftover.placements.all():
        placement.instances.update(wanted="stopped", ready=False)
    from deployments import lifecycle

    lifecycle.deploy(make_service("deploying", one), by=None)
    make_service("never", one)


@pytest.mark.parametrize(
    ("status", "names"),
    [
        ("running", ["runs"]),
        ("not_running", ["failed"]),
        ("unreachable", ["lost"]),
        ("partly", ["partly"]),
        ("stopped", ["never", "stopped"]),
        ("leftover", ["leftover"]),
        ("deploying", ["deploying"]),
        ("wrong", ["lost", "failed", "partly", "leftover"]),
    ],
)
def test_service_states(status: str, names: list[str], in_every_state: None, admin: Client) -> None:
    response = admin.get(f"/admin/deployments/service/?status={status}")
    assert [row.name for row in response.context["cl"].result_list] == names
    if status != "wrong":
        word = {"partly": "Partly running", "leftover": "Still running", "not_running": "Not running"}
        assert word.get(status, status.capitalize()) in response.content.decode()


def test_standing_agrees_with_the_words_of_the_api(in_every_state: None) -> None:
    rows = with_standing(Service.objects.with_status())
    agree = {
        Standing.RUNNING: {"deployed"},
        Standing.DEPLOYING: {"deploying"},
        Standing.UNREACHABLE: {"offline"},
        Standing.PARTLY: {"online", "offline"},
    }
    assert len(rows) == 8
    for service in rows:
        assert service.deploy_status in agree.get(standing_of(service), {"online"}), service


def test_wrong_ones_come_first_and_stand_on_the_overview(in_every_state: None, admin: Client) -> None:
    rows = admin.get("/admin/deployments/service/").context["cl"].result_list
    assert [row.name for row in rows][:3] == ["lost", "failed", "partly"]
    overview = admin.get("/admin/")
    assert [problem.name for problem in overview.context["problems"]][:3] == ["lost", "failed", "partly"]
    assert "one: Exit 1." in overview.content.decode()


def test_services_are_ordered_by_their_requests_a_minute(in_every_state: None, admin: Client) -> None:
    asked = {"runs": 10, "partly": 25}
    for service in Service.objects.filter(name__in=asked):
        told = Usage(service_id=service.pk, user_id=1, path="chat", outcome="complete")
        Usage.objects.bulk_create([told] * asked[service.name])
    page = admin.get("/admin/deployments/service/").context["cl"]
    column = page.list_display.index(RATE.show)
    rows = admin.get(f"/admin/deployments/service/?o=-{column}").context["cl"].result_list
    assert [(row.name, row.requests_a_minute) for row in rows][:2] == [("partly", 5.0), ("runs", 2.0)]
    assert {row.requests_a_minute for row in rows[2:]} == {0.0}
    assert all(str(rate) in RATE.show(row) for row, rate in zip(rows, ("5", "2", "0"), strict=False))


def test_filtering_by_relations(in_every_state: None, admin: Client) -> None:
    two = Server.objects.get(name="two")
    rows = admin.get(f"/admin/deployments/service/?servers__id__exact={two.pk}").context["cl"].result_list
    assert [row.name for row in rows] == ["partly"]


def test_card_figures_nobody_publishes_are_dashes(admin: Client) -> None:
    brand = Brand.objects.create(name="Maker")
    Card.objects.create(brand=brand, name="C1", memory=64, fp16_perf=312.5, source_url="https://example.org/sheet")
    html = admin.get("/admin/inventory/card/").content.decode()
    assert '<span class="num">312.5</span>' in html and 'title="Not published">–</span>' in html
    assert 'href="https://example.org/sheet" rel="noreferrer noopener"' in html


def test_lists_are_called_by_what_they_list(viewing: Client, admin: Client) -> None:
    for path, title in {"inventory/server": "Servers", "inventory/card": "Cards", "infini/event": "Timeline"}.items():
        for browser in (viewing, admin):
            html = browser.get(f"/admin/{path}/").content.decode()
            assert f"{title} | Infini" in " ".join(html.split("<title>")[1].split("</title>")[0].split()), path


def test_empty_lists_say_what_to_do(admin: Client, viewing: Client) -> None:
    html = admin.get("/admin/deployments/service/").content.decode()
    assert "No services yet" in html and "Add service" in html
    assert "Add service" not in viewing.get("/admin/deployments/service/").content.decode()
    assert "Clear filters" in admin.get("/admin/deployments/service/?q=nothing").content.decode()
    assert "From here to the first answer" in admin.get("/admin/").content.decode()


def test_an_empty_list_says_what_belongs_there(administrator: User, client: Client) -> None:
    client.force_login(administrator)
    html = client.get("/admin/inventory/device/").content.decode()
    assert "Accelerators show themselves here" in html


def test_a_row_is_escaped_ticked_and_leads_to_its_page(admin: Client, make_server: Callable[..., Server]) -> None:
    server = make_server("<b>&amp;", host_ip="127.0.0.9")
    page = admin.get("/admin/inventory/server/?q=amp").content.decode()
    [(key, row)] = re.findall(r'<tr data-key="(\d+)" (class="data-row.*?</tr>)', page)
    assert key == str(server.pk)
    assert "<b>" not in row and "&lt;b&gt;&amp;amp;" in row
    assert f'name="_selected_action" value="{server.pk}"' in row
    lead = re.search(r'<th class="cell field-named" data-label="Server"><a href="([^"]+)">', row)
    assert lead and lead[1] == f"/admin/inventory/server/{server.pk}/?_changelist_filters=q%3Damp"
    assert '<span class="two-lines"><span>' in row and "<small>127.0.0.9</small>" in row


def test_a_list_of_groups_of_yes_and_no_and_of_nothing(admin: Client) -> None:
    assert "viewer</a>" in admin.get("/admin/auth/group/").content.decode()
    TrafficRule.objects.create(service=Service.objects.create(name="kept"), sticky=True)
    assert re.search(r'field-sticky" data-label="[^"]+">Yes<', admin.get("/admin/chat/trafficrule/").content.decode())
    assert "No brand matches" in admin.get("/admin/inventory/brand/?q=nothing-like-it").content.decode()


def test_the_timeline_stands_by_day_as_long_as_it_is_in_order(viewing: Client) -> None:
    now = timezone.now()
    Event.objects.all().delete()
    for days in (40, 1, 0, 0):
        Event.objects.create(kind="brand.created", subject_kind="brand", subject_id="1", subject_name="b")
        Event.objects.filter(pk=Event.objects.latest("pk").pk).update(at=now - timedelta(days=days))
    url, local = "/admin/infini/event/", timezone.localdate(now)
    html = viewing.get(url).content.decode()
    days = [local - timedelta(days=n) for n in (0, 1, 40)]
    assert re.findall(r'<th class="list-heading" colspan="5" scope="rowgroup">([^<]+)</th>|<tr (data-key)', html) == [
        *((f"Today, {days[0]}", ""), ("", "data-key"), ("", "data-key")),
        *((f"Yesterday, {days[1]}", ""), ("", "data-key"), (f"{days[2]}", ""), ("", "data-key")),
    ]
    assert "4 events" in re.sub(r"\s+", " ", html)
    assert "list-heading" not in viewing.get(url + "?o=2").content.decode()
