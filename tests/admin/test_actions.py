"""Verbs: only by POST, only by whom they are for, their refusals as messages."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.test import Client
from django.urls import get_resolver

from deployments.models import Operation, Service
from deployments.phases import Phase
from infini.admin_base import PagedAdmin
from infini.models import ApiKey, Event, User
from inventory.models import Environment, Server
from tests.admin.conftest import messages_of, run_instances

SERVICES = "/admin/deployments/service/"


def page(row: Any) -> str:
    return f"/admin/{row._meta.app_label}/{row._meta.model_name}/{row.pk}/"


def unfold_actions() -> Iterator[tuple[str, Any]]:
    """Every action of unfold's kinds that answers at a URL of its own."""
    for model, model_admin in django_admin.site._registry.items():
        for kind in ("actions_list", "actions_row", "actions_detail"):
            for name in model_admin._extract_action_names(getattr(model_admin, kind, ())):
                yield f"{model.__name__}.{name}", getattr(model_admin, name)


def test_no_action_of_unfold_runs_on_get() -> None:
    """Those without a dialog would: none may be there."""
    assert [name for name, action in unfold_actions() if not getattr(action, "dialog", None)] == []


def test_get_on_any_verb_changes_nothing(
    admin: Client, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    server = make_server()
    service = make_service("svc", server)
    run_instances(service)
    rows = {Server: server, Service: service}
    before = (Event.objects.count(), Operation.objects.count())
    asked = 0
    for model, model_admin in django_admin.site._registry.items():
        if not isinstance(model_admin, PagedAdmin) or model not in rows:
            continue
        for verb in model_admin.all_verbs():
            url = f"{page(rows[model])}do/{verb.name}/"
            assert admin.get(url).status_code == 405, url
            assert admin.get(f"{page(rows[model])}../?action={verb.name}&confirmed=1").status_code in (200, 302)
            asked += 1
    assert asked >= 6
    assert (Event.objects.count(), Operation.objects.count()) == before


def test_deploy_from_the_page(operating: Client, operator: User, make_service: Callable[..., Service]) -> None:
    service = make_service()
    response = operating.post(f"{page(service)}do/deploy/", follow=True)
    assert response.redirect_chain == [(page(service), 302)]
    assert "Deploying: svc." in messages_of(response)
    assert Operation.objects.get(service=service).by == operator


def test_what_was_done_leads_to_what_it_made(operating: Client, make_service: Callable[..., Service]) -> None:
    one, two = make_service("one"), make_service("two")
    html = operating.post(f"{page(one)}do/deploy/", follow=True).content.decode()
    made = Operation.objects.get()
    link = f'Deploying: one. <a class="link" href="/admin/deployments/operation/{made.pk}/">Deploy #{made.pk}</a>'
    assert link in html
    Operation.objects.update(state="done")
    chosen = {"action": "deploy", ACTION_CHECKBOX_NAME: [one.pk, two.pk]}
    html = operating.post(SERVICES, chosen, follow=True).content.decode()
    newest = [row.pk for row in Operation.objects.order_by("-pk")[:2]]
    [url] = re.findall(r'<a class="link" href="([^"]*id__in[^"]*)">Operations</a>', html)
    rows = operating.get(url).context["cl"].result_list
    assert [row.pk for row in rows] == newest


def test_stop_is_confirmed_first(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service)
    asked = operating.post(f"{page(service)}do/stop/")
    assert asked.status_code == 200 and b"Every instance is ended" in asked.content
    assert not Operation.objects.filter(kind="stop").exists()
    operating.post(f"{page(service)}do/stop/", {"confirmed": "1", "word": "svc"})
    assert Operation.objects.filter(kind="stop").exists()


def test_many_from_the_list_one_refusal_keeps_no_other(operating: Client, make_service: Callable[..., Service]) -> None:
    good = make_service("good")
    bad = make_service("bad", command="")
    data = {"action": "deploy", ACTION_CHECKBOX_NAME: [good.pk, bad.pk]}
    said = messages_of(operating.post(SERVICES, data, follow=True))
    assert "Deploying: good." in said and "bad: This service has no deploy command yet" in said
    assert Operation.objects.get().service == good


def test_list_action_with_an_effect_is_confirmed(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service)
    data = {"action": "stop", ACTION_CHECKBOX_NAME: [service.pk]}
    asked = operating.post(SERVICES, data)
    assert b'name="confirmed"' in asked.content and b'name="_selected_action"' in asked.content
    operating.post(SERVICES, {**data, "confirmed": "1", "word": "svc"})
    assert Operation.objects.filter(kind="stop").exists()


def test_errors_of_verbs_are_messages(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    operating.post(f"{page(service)}do/deploy/")
    said = messages_of(operating.post(f"{page(service)}do/deploy/", follow=True))
    assert "is busy with: deploy" in said


def test_deleting_a_service_stops_it_first(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service)
    asked = operating.get(f"{page(service)}delete/")
    assert b"stopped first" in asked.content and b'name="force"' in asked.content
    operating.post(f"{page(service)}delete/", {"confirmed": "1", "word": "svc"})
    assert Operation.objects.get(service=service, kind="delete").state == "queued"


def test_force_is_needed_where_a_server_is_silent(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service, Phase.LOST, ready=False)
    Server.objects.update(agent_seen_at=None)
    url = f"{page(service)}do/delete/"
    said = messages_of(operating.post(url, {"confirmed": "1", "word": "svc"}, follow=True))
    assert "cannot be reached" in said and not Operation.objects.filter(kind="delete").exists()
    operating.post(url, {"confirmed": "1", "word": "svc", "force": "1"})
    assert Operation.objects.get(kind="delete").force


def test_bulk_delete_of_services_goes_through_the_verb(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service)
    chosen = {"action": "delete", ACTION_CHECKBOX_NAME: [service.pk]}
    operating.post(SERVICES, {**chosen, "confirmed": "1", "word": "svc"})
    assert Operation.objects.filter(service=service, kind="delete").exists()


def test_deleting_what_is_needed_is_refused_in_words(operating: Client, make_service: Callable[..., Service]) -> None:
    make_service()
    server = Server.objects.get()
    said = messages_of(
        operating.post(f"{page(server)}do/delete_selected/", {"confirmed": "1", "word": "one"}, follow=True)
    )
    assert "one is still used by service svc" in said
    listed = {"action": "delete_selected", ACTION_CHECKBOX_NAME: [server.pk], "confirmed": "1", "word": "one"}
    assert "is still used by" in messages_of(operating.post("/admin/inventory/server/", listed, follow=True))
    assert Server.objects.exists()


def test_bulk_delete_writes_the_timeline(operating: Client, db: None) -> None:
    rows = [Environment.objects.create(name=name) for name in ("a", "b")]
    data = {"action": "delete_selected", ACTION_CHECKBOX_NAME: [row.pk for row in rows], "confirmed": "1"}
    operating.post("/admin/inventory/environment/", {**data, "word": "2"})
    assert Event.objects.filter(kind="environment.deleted").count() == 2


def test_check_asks_and_tells(operating: Client, make_server: Callable[..., Server], monkeypatch: Any) -> None:
    from inventory.admin import servers

    asked: list[Any] = []
    monkeypatch.setattr(servers, "check_servers", lambda rows, by: asked.append((list(rows), by)))
    server = make_server()
    said = messages_of(operating.post(f"{page(server)}do/check/", follow=True))
    assert asked[0][0] == [server] and "Checked one: online." in said


@pytest.mark.django_db(transaction=True)
def test_check_really_asks(make_user: Any, as_user: Any) -> None:
    """Not within a transaction, and with whole rows: the network is asked where no query can be made."""
    server = Server.objects.create(name="here", host_ip="127.0.0.1", port=9, agent_token="a", agent_port=9)
    response = as_user(make_user("operator")).post(f"{page(server)}do/check/", follow=True)
    assert response.status_code == 200 and "here" in messages_of(response)
    server.refresh_from_db()
    assert server.last_check


# Who may


@pytest.mark.parametrize("verb", ["deploy", "restart", "stop", "delete"])
def test_viewer_may_not(
    verb: str, viewing: Client, make_service: Callable[..., Service], make_server: Callable[..., Server]
) -> None:
    service = make_service()
    assert viewing.post(f"{page(service)}do/{verb}/", {"confirmed": "1"}).status_code == 403
    data = {"action": verb, ACTION_CHECKBOX_NAME: [service.pk], "confirmed": "1"}
    assert viewing.post(SERVICES, data).status_code == 403
    assert not Operation.objects.exists() and Service.objects.exists()


def test_viewer_sees_no_buttons(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    run_instances(service)
    html = viewing.get(page(service)).content.decode()
    assert "/do/" not in html and "/change/" not in html.split("<main")[1] and "/chat/" in html
    assert "/do/" not in viewing.get(page(Server.objects.get())).content.decode()
    assert 'name="action"' not in viewing.get(SERVICES).content.decode()


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        ("viewer", "inventory/server/", 200),
        ("viewer", "deployments/service/", 200),
        ("viewer", "infini/event/", 200),
        ("viewer", "infini/apikey/", 200),
        ("viewer", "infini/user/", 403),
        ("viewer", "inventory/server/add/", 403),
        ("viewer", "deployments/service/add/", 403),
        ("operator", "inventory/server/add/", 200),
        ("operator", "deployments/service/add/", 200),
        ("operator", "infini/user/", 403),
        ("operator", "deployments/operation/add/", 403),
        ("administrator", "infini/user/", 200),
        ("administrator", "infini/user/add/", 200),
        ("administrator", "infini/event/add/", 403),
        (None, "inventory/server/", 403),
        (None, "", 200),
    ],
)
def test_pages_by_role(role: str | None, path: str, status: int, make_user: Any, as_user: Any) -> None:
    assert as_user(make_user(role)).get(f"/admin/{path}").status_code == status


def test_navigation_holds_what_one_may_open(viewing: Client, admin: Client) -> None:
    def links(client: Client) -> str:
        return client.get("/admin/").content.decode().split("<main")[0]

    assert "/admin/infini/user/" in links(admin) and "/admin/infini/user/" not in links(viewing)
    assert "/admin/inventory/server/" in links(viewing)


def test_nobody_sees_pages_without_login(client: Client, db: None) -> None:
    assert client.get("/admin/inventory/server/").headers["Location"].startswith("/admin/login/")


# Keys


def test_a_key_is_shown_once_and_is_ones_own(viewing: Client, viewer: User, admin: Client, operating: Client) -> None:
    made = viewing.post("/admin/infini/apikey/add/", {"name": "mine"})
    text = made.context["key_text"]
    assert text in made.content.decode() and "no-store" in made.headers["Cache-Control"]
    key = ApiKey.objects.get()
    assert key.user == viewer and key.name == "mine"
    assert text not in viewing.get("/admin/infini/apikey/").content.decode()
    assert "mine" in admin.get("/admin/infini/apikey/").content.decode()
    assert "mine" not in operating.get("/admin/infini/apikey/").content.decode()


def test_keys_are_revoked_by_their_owner_and_not_by_others(viewing: Client, operating: Client) -> None:
    viewing.post("/admin/infini/apikey/add/", {"name": "mine"})
    key = ApiKey.objects.get()
    data = {"action": "revoke", ACTION_CHECKBOX_NAME: [key.pk], "confirmed": "1"}
    operating.post("/admin/infini/apikey/", data)
    key.refresh_from_db()
    assert key.revoked_at is None
    viewing.post("/admin/infini/apikey/", data)
    key.refresh_from_db()
    assert key.revoked_at


def test_others_keys_stay_out_of_the_timeline(viewing: Client, admin: Client, operating: Client) -> None:
    operating.post("/admin/infini/apikey/add/", {"name": "of the operator"})
    assert "of the operator" not in viewing.get("/admin/infini/event/").content.decode()
    assert "of the operator" in admin.get("/admin/infini/event/").content.decode()
    assert "of the operator" in operating.get("/admin/infini/event/").content.decode()


def test_the_queue_has_no_pages(admin: Client) -> None:
    names = {model._meta.app_label for model in django_admin.site._registry}
    assert "django_q" not in names


def test_no_view_under_the_admin_is_asynchronous() -> None:
    """``admin_view`` would answer such a view's coroutine instead of awaiting it."""

    def views(patterns: list) -> Iterator[Any]:
        for entry in patterns:
            yield from views(entry.url_patterns) if hasattr(entry, "url_patterns") else [entry.callback]

    admin_urls = next(p for p in get_resolver().url_patterns if str(p.pattern) == "admin/")
    found = [inspect.unwrap(view) for view in views(admin_urls.url_patterns)]
    assert len(found) > 50
    assert not [view for view in found if inspect.iscoroutinefunction(view)]
