"""Forms: only what a person changed is written, secrets never come back, refusals keep the input."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin import site
from django.contrib.auth.models import Group
from django.test import Client, RequestFactory
from django.utils import timezone

from deployments.models import Operation, Revision, Service
from infini.models import Event, User
from inventory.models import AIModel, Brand, Server
from tests.admin.conftest import form_data, run_instances

CANARY = "canary-7f3a"


def change_url(row: Any) -> str:
    return f"/admin/{row._meta.app_label}/{row._meta.model_name}/{row.pk}/change/"


def errors_of(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200, response.headers
    return response.context["adminform"].form.errors


def test_observed_columns_written_meanwhile_survive(operating: Client, make_server: Callable[..., Server]) -> None:
    server = make_server(agent_seen_at=None)
    data = form_data(operating.get(change_url(server)))
    heard = timezone.now()
    Server.objects.filter(pk=server.pk).update(agent_seen_at=heard, agent_version="9", reachable=True)
    response = operating.post(change_url(server), {**data, "name": "renamed", "labels": "{}"})
    assert response.status_code == 302, errors_of(response)
    server.refresh_from_db()
    assert (server.name, server.agent_seen_at, server.agent_version) == ("renamed", heard, "9")


def test_no_change_writes_no_event(operating: Client, make_server: Callable[..., Server]) -> None:
    server = make_server()
    data = form_data(operating.get(change_url(server)))
    operating.post(change_url(server), {**data, "labels": "{}"})
    server.refresh_from_db()
    assert server.version == 1 and not Event.objects.filter(kind="server.changed").exists()


def test_a_stale_version_is_an_error_that_keeps_the_input(
    operating: Client, make_server: Callable[..., Server]
) -> None:
    server = make_server()
    data = form_data(operating.get(change_url(server)))
    Server.objects.filter(pk=server.pk).update(version=5, host_ip="10.9.9.9")
    response = operating.post(change_url(server), {**data, "name": "renamed", "labels": "{}"})
    said = str(errors_of(response))
    assert "was changed meanwhile" in said and "open the page anew" in said
    assert 'value="renamed"' in response.content.decode()
    server.refresh_from_db()
    assert server.name == "one"


def test_a_taken_name_is_said_at_the_field(operating: Client, make_server: Callable[..., Server]) -> None:
    make_server("one")
    two = make_server("two")
    data = form_data(operating.get(change_url(two)))
    errors = errors_of(operating.post(change_url(two), {**data, "name": "ONE", "labels": "{}"}))
    assert errors == {"name": ["A server with this name exists already."]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host_ip", "http://nowhere"),
        ("agent_port", "70000"),
        ("labels", '["no"]'),
        ("agent_certificate", "nonsense"),
        ("agent_token", "with space"),
        ("private_key", "nonsense"),
    ],
)
def test_bad_values_are_said_at_their_fields(
    field: str, value: str, operating: Client, make_server: Callable[..., Server]
) -> None:
    server = make_server()
    data = form_data(operating.get(change_url(server)))
    assert field in errors_of(operating.post(change_url(server), {"labels": "{}", **data, field: value}))


def test_a_card_brings_its_brand(operating: Client, make_server: Callable[..., Server]) -> None:
    card = make_server().card
    data = {"name": "new", "host_ip": "10.0.0.1", "port": 22, "agent_port": 8888, "card": card.pk, "labels": "{}"}
    response = operating.post("/admin/inventory/server/add/", data)
    assert response.status_code == 302, errors_of(response)
    assert Server.objects.get(name="new").brand == card.brand


# Secrets


def test_secrets_are_kept_replaced_removed_and_never_shown(
    operating: Client, make_server: Callable[..., Server]
) -> None:
    server = make_server(agent_token=CANARY, password=CANARY + "-p")
    opened = operating.get(change_url(server))
    assert CANARY not in opened.content.decode() and "Stored; leave empty to keep it" in opened.content.decode()
    data = {**form_data(opened), "labels": "{}"}
    operating.post(change_url(server), {**data, "name": "renamed"})
    server.refresh_from_db()
    assert (server.agent_token, server.password, server.name) == (CANARY, CANARY + "-p", "renamed")
    data["seen_version"] = server.version
    data["name"] = "renamed"
    operating.post(change_url(server), {**data, "agent_token": "another", "password-remove": "on"})
    server.refresh_from_db()
    assert (server.agent_token, server.password) == ("another", "")
    assert "another" not in str(list(Event.objects.values_list("data", flat=True)))


def test_a_refused_form_shows_no_secret(operating: Client, make_server: Callable[..., Server]) -> None:
    server = make_server()
    data = form_data(operating.get(change_url(server)))
    response = operating.post(change_url(server), {**data, "name": "", "labels": "{}", "agent_token": CANARY})
    assert errors_of(response) and CANARY not in response.content.decode()


def test_no_page_shows_a_secret(
    admin: Client, viewing: Client, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    server = make_server(agent_token=CANARY, password=CANARY, private_key=CANARY, passphrase=CANARY, username="x")
    service = make_service("svc", server, secret_env={"TOKEN": CANARY})
    operation = run_instances(service)
    pages = ["", "inventory/server/", "deployments/service/", "deployments/operation/", "infini/event/"]
    pages += [f"inventory/server/{server.pk}/", f"inventory/server/{server.pk}/change/"]
    pages += [f"deployments/service/{service.pk}/", f"deployments/service/{service.pk}/change/"]
    pages += [f"deployments/operation/{operation.pk}/", f"deployments/service/{service.pk}/delete/"]
    for page in pages:
        for browser in (admin, viewing):  # who may only look gets no form, whose boxes hide what they hold
            assert CANARY not in browser.get(f"/admin/{page}", follow=True).content.decode(), page
    assert viewing.get(f"/admin/inventory/server/{server.pk}/change/")["Location"].endswith(f"/server/{server.pk}/")


def test_who_may_only_look_is_shown_no_secret_and_no_empty_box(
    viewer: User, make_server: Callable[..., Server]
) -> None:
    request = RequestFactory().get("/")
    request.user = viewer
    for model, row in ((Server, make_server(agent_token=CANARY)), (AIModel, AIModel(pk=1))):
        shown = site.get_model_admin(model).get_fieldsets(request, row)
        names = {name for _title, options in shown for name in options["fields"]}
        assert "name" in names and not names & {"agent_token", "password", "private_key", "passphrase", "logo_file"}


# Services

ADD = "/admin/deployments/service/add/"


@pytest.fixture
def new_service(make_server: Callable[..., Server]) -> dict[str, Any]:
    return {
        "name": "new",
        "placed_on": [make_server().pk],
        "deploy_command": "serve --port {port}",
        "path_prefix": "/v1",
        "env": '{"A": "1"}',
        "secret_env": json.dumps({"TOKEN": CANARY}),
        "run_as": "",
        "cwd": "",
        "stop_command": "",
        "note": "first",
    }


def test_saving_makes_a_revision_and_does_not_deploy(
    operating: Client, operator: User, new_service: dict[str, Any]
) -> None:
    response = operating.post(ADD, {**new_service, "_save": "1"})
    assert response.status_code == 302, errors_of(response)
    service = Service.objects.get()
    assert response.headers["Location"] == f"/admin/deployments/service/{service.pk}/"
    revision = Revision.objects.get()
    assert (revision.command, revision.env, revision.note, revision.author) == (
        "serve --port {port}",
        {"A": "1"},
        "first",
        operator,
    )
    assert CANARY in revision.secret_env
    assert service.placements.count() == 1 and not Operation.objects.exists()


def test_save_and_deploy(operating: Client, new_service: dict[str, Any]) -> None:
    response = operating.post(ADD, {**new_service, "_deploy": "1"}, follow=True)
    assert "Deploying: new." in " ".join(map(str, response.context["messages"]))
    assert Operation.objects.get().kind == "deploy"


def test_what_cannot_be_deployed_is_not_stored(operating: Client, new_service: dict[str, Any]) -> None:
    response = operating.post(ADD, {**new_service, "placed_on": [], "_deploy": "1"})
    assert "on no server yet" in str(errors_of(response))
    assert not Service.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env", "nonsense"),
        ("env", '{"1A": "x"}'),
        ("secret_env", '{"A": 1}'),
        ("secret_env", "nonsense"),
        ("port", "0"),
        ("path_prefix", "v1"),
        ("name", ""),
    ],
)
def test_bad_specs_are_said_at_their_fields(
    field: str, value: str, operating: Client, new_service: dict[str, Any]
) -> None:
    response = operating.post(ADD, {**new_service, field: value})
    assert field in errors_of(response) and CANARY not in response.content.decode()
    assert not Service.objects.exists()


def test_a_changed_command_is_a_new_revision_and_keeps_the_secret(
    operating: Client, new_service: dict[str, Any]
) -> None:
    operating.post(ADD, new_service)
    service = Service.objects.get()
    data = {**form_data(operating.get(change_url(service))), "deploy_command": "serve --better"}
    response = operating.post(change_url(service), data)
    assert response.status_code == 302, errors_of(response)
    newest = service.revisions.first()
    assert (newest.number, newest.command, newest.env) == (2, "serve --better", {"A": "1"})
    assert CANARY in newest.secret_env
    again = form_data(operating.get(change_url(service)))
    operating.post(change_url(service), again)
    assert service.revisions.count() == 2


def test_a_revision_made_meanwhile_makes_the_form_stale(operating: Client, new_service: dict[str, Any]) -> None:
    operating.post(ADD, new_service)
    service = Service.objects.get()
    data = form_data(operating.get(change_url(service)))
    operating.post(change_url(service), {**data, "deploy_command": "sleep 4"})
    response = operating.post(change_url(service), {**data, "deploy_command": "sleep 5"})
    assert service.revisions.latest("number").command == "sleep 4"
    assert "was changed meanwhile" in str(errors_of(response))


def test_viewer_saves_nothing(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    assert viewing.post(ADD, {"name": "x"}).status_code == 403
    assert viewing.post(change_url(service), {"name": "x"}).status_code == 403


# The catalogue


def test_models_are_bound_to_environments_with_an_event(operating: Client, make_server: Callable[..., Server]) -> None:
    environment = make_server().environment
    operating.post("/admin/inventory/aimodel/add/", {"name": "m", "environments": [environment.pk]})
    assert list(AIModel.objects.get().environments.all()) == [environment]
    assert Event.objects.get(kind="aimodel.created").data["environments"] == [[], ["production"]]


def test_a_text_file_is_no_logo(operating: Client, db: None) -> None:
    from django.core.files.uploadedfile import SimpleUploadedFile

    file = SimpleUploadedFile("logo.png", b"just text", content_type="image/png")
    response = operating.post("/admin/inventory/brand/add/", {"name": "b", "sort_order": 0, "logo_file": file})
    assert "logo_file" in errors_of(response) and not Brand.objects.exists()


def test_a_logo_is_stored(operating: Client, db: None) -> None:
    from io import BytesIO

    from django.core.files.uploadedfile import SimpleUploadedFile
    from PIL import Image

    picture = BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    file = SimpleUploadedFile("x.png", picture.getvalue())
    response = operating.post("/admin/inventory/brand/add/", {"name": "b", "sort_order": 0, "logo_file": file})
    assert response.status_code == 302, errors_of(response)
    assert Brand.objects.get().logo.startswith("/api/uploads/")


# People


def test_roles_are_set_by_group_and_written_down(admin: Client, db: None) -> None:
    role = Group.objects.get(name="operator")
    passwords = {"password1": "a-Long-enough-1", "password2": "a-Long-enough-1", "usable_password": "true"}
    response = admin.post("/admin/infini/user/add/", {"username": "li", "role": role.pk, **passwords})
    assert response.status_code == 302, errors_of(response)
    li = User.objects.get(username="li")
    assert li.is_staff and list(li.groups.all()) == [role] and li.has_perm("deployments.deploy_service")
    assert Event.objects.get(kind="user.created").data["role"] == [[], ["operator"]]
    viewer_role = Group.objects.get(name="viewer")
    data = {"username": "li", "is_active": "on", "role": viewer_role.pk}
    admin.post(f"/admin/infini/user/{li.pk}/change/", data)
    assert list(li.groups.all()) == [viewer_role]


def test_nobody_changes_his_own_role_or_a_superuser(admin: Client, administrator: User, db: None) -> None:
    viewer_role = Group.objects.get(name="viewer")
    admin.post(f"/admin/infini/user/{administrator.pk}/change/", {"username": "administrator", "role": viewer_role.pk})
    assert administrator.groups.get().name == "administrator"
    administrator.refresh_from_db()
    assert administrator.is_active
    root = User.objects.create_superuser("root", password="x")
    seen = admin.get(f"/admin/infini/user/{root.pk}/change/").content.decode()
    assert "superuser" in seen and "pbkdf2" not in seen and "hash" not in seen
    assert admin.post(f"/admin/infini/user/{root.pk}/change/", {"username": "mine"}).status_code == 403
    assert admin.post(f"/admin/infini/user/{root.pk}/password/", {}).status_code == 403
    assert admin.post(f"/admin/infini/user/{administrator.pk}/delete/", {"post": "yes"}).status_code == 403


def test_passwords_are_changed(admin: Client, viewer: User, viewing: Client) -> None:
    new = {"password1": "Quite-another-1", "password2": "Quite-another-1", "usable_password": "true"}
    admin.post(f"/admin/infini/user/{viewer.pk}/password/", new)
    viewer.refresh_from_db()
    assert viewer.check_password("Quite-another-1")
    assert Event.objects.filter(kind="user.password_changed").exists()


def test_a_new_service_starts_with_empty_environment_variables(operating: Client) -> None:
    data = form_data(operating.get("/admin/deployments/service/add/"))
    assert data["env"] == ""
