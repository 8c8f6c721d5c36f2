"""The overview: what is free and busy, with its source and age, each figure leading to the list it counts."""

import re
from collections.abc import Callable
from datetime import time, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from chat.models import Usage, UsageDay
from deployments.models import DeviceClaim, Instance
from deployments.phases import Phase
from infini import events
from infini.models import User
from inventory.models import Brand, Device, Server
from scheduler.models import Run, Task
from tests.admin.conftest import count_queries, run_instances

pytestmark = pytest.mark.django_db


def equip(server: Server, vendor: str, count: int, **columns: Any) -> list[Device]:
    made = [
        Device(server=server, uuid=f"{vendor}-{n}", index=n, vendor=vendor, name="H", **columns) for n in range(count)
    ]
    return Device.objects.bulk_create(made)


def test_devices_by_brand_agree_with_the_lists_they_lead_to(
    viewing: Client, make_server: Callable[..., Server], make_service: Callable
) -> None:
    Brand.objects.create(name="Later", vendor="nvidia", sort_order=2)
    Brand.objects.create(name="First", vendor="ascend", sort_order=1)
    old = timezone.now() - timedelta(hours=1)
    server, silent = make_server("one"), make_server("two", agent_seen_at=old)
    first = equip(server, "nvidia", 3)[0]
    equip(silent, "ascend", 2)
    equip(server, "gone", 1, present=False)
    run_instances(make_service("svc", server))
    DeviceClaim.objects.create(device=first, instance=Instance.objects.get())

    response = viewing.get("/admin/")

    [(_template, part)] = response.context["parts"]
    brands = part["devices"].brands
    assert [(b.name, b.used, b.free, b.missing, b.silent) for b in brands] == [
        ("First", 0, 2, 0, 2),
        ("Later", 1, 2, 0, 0),
        ("gone", 0, 0, 1, 0),
    ]
    for brand in brands:
        counts = {"url": brand.present + brand.missing, "used_url": brand.used, "free_url": brand.free}
        for name, count in (counts | {"missing_url": brand.missing}).items():
            assert len(viewing.get(getattr(brand, name)).context["cl"].result_list) == count, (brand.name, name)
    html = response.content.decode()
    assert "1 of 3 in use" in html and "2 on servers not heard from" in html and ">4/5<" in html


def test_states_agree_with_the_lists_they_lead_to_the_wrong_first(
    viewing: Client, make_server: Callable[..., Server], make_service: Callable
) -> None:
    one, _other = make_server("one"), make_server("two", maintenance=True)
    make_server("silent", agent_seen_at=timezone.now() - timedelta(hours=1))
    make_server("bare", agent_token="", agent_seen_at=None)
    make_service("never")
    for name, phase, ready in (("ok", Phase.RUNNING, True), ("bad", Phase.FAILED, False), ("gone", Phase.LOST, False)):
        run_instances(make_service(name, one), phase, ready=ready, observed_at=timezone.now())

    response = viewing.get("/admin/")

    kinds = {kind.title: kind for kind in response.context["states"]}
    shown = {title: [(state.chip.word, state.count) for state in kind.states] for title, kind in kinds.items()}
    assert shown == {
        "Servers": [("Offline", 1), ("Not checked", 1), ("Online", 2), ("No agent", 1), ("Maintenance", 1)],
        "Services": [("Unreachable", 1), ("Not running", 1), ("Running", 1), ("Stopped", 1)],
    }
    for kind in kinds.values():
        assert kind.source and kind.at
        for state in kind.states:
            assert len(viewing.get(state.url).context["cl"].result_list) == state.count, state.url
    assert len(response.context["tiles"]) == 8, "four in a row: none alone"


def test_every_figure_says_who_told_it_and_when(
    viewing: Client, make_server: Callable[..., Server], make_service: Callable
) -> None:
    heard = timezone.now() - timedelta(seconds=3)
    server = make_server("one", agent_seen_at=heard)
    run_instances(make_service("svc", server), observed_at=heard - timedelta(hours=5))  # unchanged for so long
    Usage.objects.create(user_id=1, path="chat", outcome="complete")
    tiles = viewing.get("/admin/").context["tiles"]
    assert all(tile.source for tile in tiles)
    assert {tile.at for tile in tiles if tile.source == "agents" and tile.icon in ("widgets", "deployed_code")} == {
        heard
    }
    assert {tile.title for tile in tiles if tile.at is None} <= {"Your requests a minute", "Devices free"}


def test_requests_a_minute_are_ones_own_or_everybodys(
    viewing: Client, admin: Client, viewer: User, administrator: User
) -> None:
    now = timezone.now()
    for user, age, tokens in ((viewer, 1, 50), (administrator, 2, 100), (administrator, 9, 10**6)):
        at = now - timedelta(minutes=age)
        Usage.objects.create(user_id=user.pk, at=at, prompt_tokens=tokens, path="chat", outcome="complete")

    def tile(browser: Client) -> tuple[str, str, str]:
        one = next(t for t in browser.get("/admin/").context["tiles"] if t.icon == "bar_chart")
        return one.title, one.value, one.detail

    assert tile(viewing) == ("Your requests a minute", "0.2", "10 tokens a minute, mean of 5 min")
    assert tile(admin) == ("Requests a minute", "0.4", "30 tokens a minute, mean of 5 min")
    span = {"from": (now - timedelta(minutes=30)).isoformat()}
    for browser, requests, tokens in ((viewing, 1, 50), (admin, 3, 10**6 + 150)):
        found = browser.get("/api/usage/history", span).json()
        lines = {line["name"]: line["values"] for line in found["series"]}
        assert (sum(lines["requests"]), sum(lines["prompt_tokens"])) == (requests, tokens)
        assert found["step_seconds"] == 60 and None not in lines["requests"]
    assert viewing.get("/api/usage/history", {"from": "2999-01-01T00:00:00Z"}).status_code == 400


def test_queries_do_not_grow_with_devices_and_brands(
    admin: Client, make_server: Callable[..., Server], make_service: Callable
) -> None:
    def grow(tag: str, count: int) -> None:
        for n in range(count):
            Brand.objects.create(name=f"b-{tag}{n}", vendor=f"v{tag}{n}")
            server = make_server(f"s-{tag}{n}")
            equip(server, f"v{tag}{n}", 4)
            run_instances(make_service(f"svc-{tag}{n}", server))

    grow("a", 1)
    admin.get("/admin/")
    before = count_queries(admin, "/admin/")
    grow("b", 6)
    assert count_queries(admin, "/admin/") == before


def test_who_has_no_role_sees_no_figure(as_user: Callable, make_server: Callable[..., Server]) -> None:
    make_server("one")
    response = as_user(User.objects.create_user("nobody", password="x", is_staff=True)).get("/admin/")
    assert not response.context["tiles"] and not response.context["parts"] and not response.context["charts"]


def test_charts_stand_outside_what_is_fetched_anew(viewing: Client, make_server: Callable[..., Server]) -> None:
    make_server("one")
    html = viewing.get("/admin/").content.decode()
    assert 'data-url="/api/history"' in html and 'data-url="/api/usage/history"' in html
    assert html.index('id="live"') < html.index('id="fleet-history"')


def test_what_needs_somebody_says_since_when(
    viewing: Client, make_server: Callable[..., Server], make_service: Callable
) -> None:
    now = timezone.now()
    one, silent = make_server("one"), make_server("gone", agent_seen_at=now - timedelta(minutes=30))
    plain = make_server("plain", agent_token="", agent_seen_at=None, reachable=False)
    events.record("server.unreachable", plain, by=None)
    for name, server, phase in (("failed", one, Phase.FAILED), ("lost", silent, Phase.LOST)):
        run_instances(make_service(name, server), phase, ready=False, observed_at=now - timedelta(minutes=7))
    task = Task.objects.create(name="nightly", command="x", enabled=True, schedule_type="daily", time_of_day=time(3))
    Run.objects.create(task=task, name="nightly", command="x", state="failed", created_at=now - timedelta(hours=2))

    response = viewing.get("/admin/")

    since = {problem.name: problem.since for problem in response.context["problems"]}
    ages = {name: round((now - at).total_seconds() / 60) if at else None for name, at in since.items()}
    assert ages == {"lost": 30, "failed": 7, "gone": 30, "plain": 0, "nightly": 120}
    lines = re.findall(r"<li>.*?</li>", response.content.decode().split('class="problems"')[1], re.DOTALL)[:5]
    assert all("<time " in line and 'class="btn" href=' in line for line in lines)
    assert "gone is silent since " in lines[0]


def guide(browser: Client) -> list[tuple[bool, bool]]:
    """Of each step whether it is done and whether it has the button; empty once the guide is gone."""
    context = browser.get("/admin/").context
    if not context["steps_open"]:
        return []
    return [(step.done, step is context["next_step"] and bool(step.url)) for step in context["steps"]]


def test_facts_tick_the_guide_until_somebody_was_answered(
    admin: Client, viewing: Client, make_server: Callable[..., Server], make_service: Callable
) -> None:
    assert guide(admin) == [(False, True), (False, False), (False, False), (False, False)]
    assert guide(viewing) == [(False, False)] * 4  # who may add none is told what it waits for
    server = make_server("one", agent_seen_at=None)
    assert guide(admin) == [(True, False), (False, True), (False, False), (False, False)]
    assert admin.get(admin.get("/admin/").context["next_step"].url).context["lines"][0].server == server
    Server.objects.update(agent_seen_at=timezone.now())
    assert guide(admin) == [(True, False), (True, False), (False, True), (False, False)]
    run_instances(make_service("svc", server))
    assert guide(viewing) == [(True, False), (True, False), (True, False), (False, True)]

    refused = UsageDay.objects.create(day=timezone.now(), requests=1, failed=1)
    assert guide(viewing)
    UsageDay.objects.filter(pk=refused.pk).update(requests=2)
    assert guide(viewing) == []
    Instance.objects.update(ready=False)
    assert guide(admin) == []  # a service that stops makes nobody a beginner again
