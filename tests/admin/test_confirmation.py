"""What is asked before something is done, and that nothing is done without the answer (ui.md, section 5)."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.test import Client

from deployments.models import Instance, Operation, Service
from deployments.phases import Phase, Wanted
from infini.admin_base import BaseAdmin
from infini.models import User
from inventory.models import AIModel, Environment, Server
from scheduler.models import SavedCommand
from tests.admin.conftest import run_instances

SERVICES = "/admin/deployments/service/"
MakeService = Callable[..., Service]


def page(row: Any) -> str:
    return f"/admin/{row._meta.app_label}/{row._meta.model_name}/{row.pk}/"


def word_in(response: Any) -> str | None:
    """What the question wants typed; None: a click is enough."""
    found = re.search(r'data-word="([^"]*)"', response.content.decode())
    return unescape(found[1]) if found else None


def choose(verb: str, *rows: Any, **answer: str) -> dict[str, Any]:
    return {"action": verb, ACTION_CHECKBOX_NAME: [row.pk for row in rows], **answer}


def stops() -> int:
    return Operation.objects.filter(kind="stop").count()


def test_stopping_the_last_ready_instance_takes_the_services_name(operating: Client, make_service: MakeService) -> None:
    service, url = make_service(), f"{SERVICES}{make_service('other').pk}/do/stop/"
    run_instances(service)
    assert word_in(operating.post(url)) is None, "none of it is ready: a click is enough"

    url = f"{page(service)}do/stop/"
    asked = operating.post(url)
    assert word_in(asked) == "svc" and b"1 instance ends, 1 of them ready." in asked.content
    for answer in ({"confirmed": "1"}, {"confirmed": "1", "word": "sv"}, {"word": "svc"}):
        refused = operating.post(url, answer)
        assert refused.status_code == (409 if "confirmed" in answer else 200) and not stops()
    assert b"This is not it" in operating.post(url, {"confirmed": "1", "word": "x"}).content
    operating.post(url, {"confirmed": "1", "word": " svc "})
    assert stops() == 1


def test_from_five_on_stop_and_restart_take_their_number(operating: Client, make_service: MakeService) -> None:
    services = [make_service(f"svc-{n}") for n in range(12)]
    few = operating.post(SERVICES, choose("restart", *services[:4]))
    assert word_in(few) is None and b">Restart 4<" in few.content
    for verb in ("stop", "restart"):
        many = operating.post(SERVICES, choose(verb, *services))
        text = many.content.decode()
        assert word_in(many) == "12" and f">{verb.title()} 12<" in text and f"{verb.title()} these 12?" in text
        assert text.count("<li>svc-") == 10 and "and 2 more" in text
        assert operating.post(SERVICES, choose(verb, *services, confirmed="1", word="11")).status_code == 409
    assert not Operation.objects.exists()
    operating.post(SERVICES, choose("stop", *services, confirmed="1", word="12"))
    assert stops() == 12


def test_many_instances_of_one_service_count_too(
    operating: Client, make_service: MakeService, make_server: Callable[..., Server]
) -> None:
    service = make_service("wide", *(make_server(f"gpu-{n}") for n in range(5)))
    run_instances(service)
    asked = operating.post(f"{page(service)}do/restart/")
    assert word_in(asked) == "5" and b"5 instances end, 5 of them ready." in asked.content
    assert operating.post(f"{page(service)}do/restart/", {"confirmed": "1"}).status_code == 409
    Instance.objects.filter(ordinal=0).exclude(placement__server__name="gpu-0").update(phase=Phase.STOPPED, ready=False)
    assert word_in(operating.post(f"{page(service)}do/restart/")) is None
    Instance.objects.update(wanted=Wanted.STOPPED, ready=False)
    assert word_in(operating.post(f"{page(service)}do/stop/")) is None


@pytest.fixture
def rows(make_service: MakeService, make_user: Callable[..., User]) -> list[Any]:
    """One of each kind that people delete, needed by nothing."""
    return [
        make_service("to go"),
        Server.objects.create(name="gpu-9", host_ip="10.0.0.9"),
        Environment.objects.create(name="staging"),
        AIModel.objects.create(name="qwen-72b"),
        SavedCommand.objects.create(name="disk", command="df -h"),
        make_user("viewer"),
    ]


def test_deleting_takes_the_name_whichever_way_it_is_asked(admin: Client, rows: list[Any]) -> None:
    for row in rows:
        verb = "delete" if isinstance(row, Service) else "delete_selected"
        ways = [(f"{page(row)}delete/", {})]
        if not isinstance(row, User):
            ways.append((page(row).rsplit("/", 2)[0] + "/", choose(verb, row)))
        for url, data in ways:
            asked = admin.post(url, data)
            assert word_in(asked) == str(row), url
            for answer in ({"confirmed": "1"}, {"post": "yes"}, {"confirmed": "1", "word": "nothing"}):
                admin.post(url, {**data, **answer})
        assert type(row)._default_manager.filter(pk=row.pk).exists(), row
        assert not Operation.objects.exists()
    for row in rows:
        assert admin.post(f"{page(row)}delete/", {"confirmed": "1", "word": str(row)}).status_code == 302
        assert not type(row)._default_manager.filter(pk=row.pk).exists(), row


def test_nothing_is_deleted_past_the_question(db: None) -> None:
    for model, model_admin in django_admin.site._registry.items():
        assert isinstance(model_admin, BaseAdmin), model
        assert type(model_admin).delete_view is BaseAdmin.delete_view, model


def test_what_is_dangerous_is_asked_about(db: None) -> None:
    verbs = [verb for model_admin in django_admin.site._registry.values() for verb in model_admin.all_verbs()]  # type: ignore[attr-defined]
    assert len(verbs) > 20
    assert [verb.name for verb in verbs if verb.danger and not (verb.effect or verb.leads_to)] == []
    assert [verb.name for verb in verbs if verb.name.startswith("delete") and not verb.word([verb])] == []
    at_once = {verb.name for verb in verbs if not verb.effect and not verb.leads_to}
    assert {"check", "resources"} <= at_once


def test_a_script_gets_the_question_alone_and_nothing_is_done(
    operating: Client, make_service: MakeService, make_server: Callable[..., Server]
) -> None:
    service, asking = make_service(), {"HTTP_X_DIALOG": "1"}
    run_instances(service)
    before = Operation.objects.count()
    html = operating.post(f"{page(service)}do/stop/", {"confirmed": "1", "word": "svc"}, **asking).content.decode()
    assert html.lstrip().startswith("<form") and "data-close autofocus" in html and "<html" not in html
    assert operating.post(f"{page(service)}do/deploy/", **asking).status_code == 204
    assert operating.post(SERVICES, choose("deploy", service), **asking).status_code == 204
    server = make_server("gpu-1", username="root")
    assert operating.post(f"{page(server)}do/agent-install/", **asking).status_code == 204
    assert operating.post("/admin/inventory/server/", choose("check", server), **asking).status_code == 204
    server.refresh_from_db()
    assert Operation.objects.count() == before and server.last_check is None


def test_the_question_is_in_the_readers_language(operating: Client, operator: User, make_service: MakeService) -> None:
    service = make_service()
    run_instances(service)
    User.objects.filter(pk=operator.pk).update(language="zh-hans")
    text = operating.post(f"{page(service)}do/stop/").content.decode()
    assert "停止 svc？" in text and "输入 svc 以确认" in text and "取消" in text
