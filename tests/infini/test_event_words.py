"""The timeline speaks in words, not in the code's names."""

import ast
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client
from django.utils import timezone, translation

from infini import events, records
from infini.event_facts import event_text
from infini.event_words import event_words, known
from infini.models import Event, User
from inventory.models import Environment, Server

ROOT = Path(__file__).resolve().parents[2]
APPS = ("infini", "inventory", "deployments", "chat", "scheduler")


def recorded_kinds() -> Iterator[str]:
    """Every kind that stands as a text in a call of ``record`` or ``describe``."""
    for app in APPS:
        for path in (ROOT / app).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and node.args):
                    continue
                name, kind = getattr(node.func, "attr", getattr(node.func, "id", "")), node.args[0]
                either = [kind.body, kind.orelse] if isinstance(kind, ast.IfExp) else [kind]
                if name in ("record", "describe"):
                    texts = (one.value for one in either if isinstance(one, ast.Constant))
                    yield from (text for text in texts if isinstance(text, str))


@pytest.mark.parametrize("kind", sorted({*recorded_kinds(), "device.found", "device.missing"}))
def test_each_kind_has_words(kind: str) -> None:
    assert known(kind)


def test_words_say_what_became_of_it() -> None:
    def words(kind: str, **data: object) -> str:
        return event_words(Event(kind=kind, data=data))

    assert words("service.deploy_asked") == "is to be deployed"
    assert words("service.deploy_returned") == "failed and went back"
    assert words("instance.phase", to="lost") == "Lost"
    assert words("server.created") == "added"
    assert words("something.new") == "something.new"


def test_details_are_readable() -> None:
    done = Event(kind="service.deploy_done", data={"operation": 7, "results": {"gpu-1": "done", "gpu-2": "failed"}})
    assert event_text(done) == "results: gpu-1 done, gpu-2 failed"
    phase = Event(
        kind="instance.phase", data={"from": "running", "to": "failed", "server": "gpu-1", "reason": "exit 1"}
    )
    assert event_text(phase) == "server: gpu-1; reason: exit 1"
    back = Event(kind="service.returned", data={"revision": [2, 1]})
    assert event_text(back) == "revision: 2 → 1"


def test_a_difference_has_the_words_of_the_form() -> None:
    data = {"schedule_type": ["daily", "weekly"], "notify": [True, False], "catch_up_most": [5, 7]}
    task = Event(kind="task.changed", subject_kind="task", data=data)
    assert event_text(task) == "schedule: Daily → Weekly; raise alerts: yes → no; catch up at most: 5 → 7"
    with translation.override("zh-hans"):
        assert event_text(task).isascii() is False and not re.search("[a-z]", event_text(task))
        done = Event(kind="service.deploy_done", data={"results": {"gpu-1": "done"}})
        assert not re.search("done|results", event_text(done))


@pytest.mark.django_db
def test_a_difference_names_what_it_refers_to(operator: User) -> None:
    place = Environment.objects.create(name="production")
    server = Server.objects.create(name="gpu-1", host_ip="10.0.0.1")
    server.environment = place
    records.change(server, ["environment"], by=operator)
    assert Event.objects.get(kind="server.changed").data == {"environment": [None, "production"]}
    place.name = "elsewhere"  # what was recorded stays
    assert event_text(Event.objects.get(kind="server.changed")) == "environment: production"


def test_words_follow_the_language() -> None:
    with translation.override("zh-hans"):
        assert event_words(Event(kind="user.logged_in", data={}))


@pytest.mark.django_db
def test_the_timeline_is_narrowed_by_subject_actor_and_time(
    client: Client, viewer: User, operator: User, administrator: User
) -> None:
    server = Server.objects.create(name="gpu-1", host_ip="10.0.0.1")
    for kind, by in (("server.changed", operator), ("server.reachable", None)):
        events.record(kind, server, by=by)
    Event.objects.filter(kind="server.reachable").update(at=timezone.now() - timedelta(days=2))

    def kinds(who: User, query: str) -> list[str]:
        client.force_login(who)
        found = client.get(f"/admin/infini/event/?{query}").context["cl"].result_list
        return sorted(event.kind for event in found if event.subject_kind == "server")

    assert kinds(administrator, "about=user") == []
    assert kinds(administrator, "about=server") == ["server.changed", "server.reachable"]
    assert kinds(administrator, f"by={operator.pk}") == ["server.changed"]
    assert kinds(administrator, "by=system") == ["server.reachable"]
    assert kinds(administrator, "about=server&since=24h") == ["server.changed"]
    # Who sees no people is offered himself alone, and nobody's words break the page.
    client.force_login(viewer)
    page = client.get("/admin/infini/event/").content.decode()
    assert f'<option value="{viewer.pk}"' in page and f'<option value="{operator.pk}"' not in page
    assert len(kinds(viewer, f"by={operator.pk}")) == len(kinds(viewer, "by=x&about=&since=y")) == 2
