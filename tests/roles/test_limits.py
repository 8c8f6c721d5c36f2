"""Limiting people to environments: where it is set, what it does to what they make, and that others pay nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from deployments.models import Placement, Service
from deployments.specs import create_service
from infini import visibility
from infini.badges import badges_for
from infini.errors import Invalid
from infini.models import Event, User
from inventory.limits import limit, limited_to
from inventory.models import AIModel, Brand, Environment, Server
from scheduler.models import Run, Task
from tests.roles.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def test_env() -> Environment:
    return Environment.objects.create(name="test")


@pytest.fixture
def production() -> Environment:
    return Environment.objects.create(name="production")


@pytest.fixture
def servers(test_env: Environment, production: Environment) -> dict[str, Server]:
    about = {"host_ip": "127.0.0.1", "username": "root", "password": "secret"}
    made = {e.name: Server.objects.create(name=f"on-{e.name}", environment=e, **about) for e in (test_env, production)}
    return made | {"nowhere": Server.objects.create(name="on-nothing", **about)}


@pytest.fixture
def limited(operator: User, test_env: Environment) -> User:
    limit(operator, [test_env])
    return operator


@pytest.fixture
def mine(limited: User, api_as: Callable[[User | None], APIClient]) -> APIClient:
    return api_as(limited)


def names(answer: Any) -> list[str]:
    return [row["name"] for row in answer.json()]


# Where it is set


def edit(client: Client, person: User, **changes: Any) -> Any:
    role = person.groups.first()
    fields = {"username": person.username, "role": role.pk if role else "", "is_active": "on", **changes}
    return client.post(f"/admin/infini/user/{person.pk}/change/", fields)


def test_an_administrator_limits_a_person_and_the_timeline_tells(
    administrator: User, operator: User, test_env: Environment, client: Client
) -> None:
    client.force_login(administrator)
    assert edit(client, operator, limited_to=[test_env.pk]).status_code == 302
    assert limited_to(operator) == [test_env]
    event = Event.objects.get(kind="user.changed", subject_id=str(operator.pk))
    assert (event.actor, event.data) == (administrator, {"environments": [[], ["test"]]})
    assert "test" in client.get("/admin/infini/user/").content.decode()
    edit(client, operator)
    assert limited_to(operator) == []
    assert Event.objects.latest("pk").data == {"environments": [["test"], []]}


def test_whoever_may_change_people_is_not_limited(
    administrator: User, test_env: Environment, client: Client, make_user: Callable[..., User]
) -> None:
    other = make_user("administrator", "other")
    client.force_login(administrator)
    response = edit(client, other, limited_to=[test_env.pk])
    assert "not limited" in str(response.context["adminform"].form.errors)
    with pytest.raises(Invalid):
        limit(other, [test_env])
    assert limited_to(other) == []


def test_a_limited_person_who_becomes_administrator_sees_all(limited: User, servers: dict[str, Server]) -> None:
    limited.is_superuser = True
    limited.save()
    assert visibility.visible(Server.objects.all(), User.objects.get(pk=limited.pk)).count() == 3


def test_an_environment_is_kept_while_somebody_is_limited_to_it(
    limited: User, test_env: Environment, api_as: Callable[[User | None], APIClient], administrator: User
) -> None:
    """With it his limit would be gone, and he would see all."""
    answer = api_as(administrator).delete(f"/api/environments/{test_env.pk}")
    assert answer.status_code == 409
    assert limited_to(limited) == [test_env]


# What is seen


def test_what_lies_in_no_environment_is_not_seen(mine: APIClient, servers: dict[str, Server]) -> None:
    assert names(mine.get("/api/servers")) == ["on-test"]
    assert mine.get("/api/stats").json()["server_count"] == 1


def test_what_spans_environments_is_seen_by_who_sees_all_of_it(
    mine: APIClient, servers: dict[str, Server], production: Environment
) -> None:
    def make(name: str, *on: str, **columns: Any) -> None:
        create_service(Service(name=name, **columns), servers=[servers[one] for one in on], spec={}, by=None)

    make("here", "test")
    make("both", "test", "production")
    make("there", "production")
    make("named-there", "test", environment=production)
    make("nowhere")
    assert names(mine.get("/api/services")) == ["here"]
    assert mine.get(f"/api/services/{Service.objects.get(name='both').pk}").status_code == 404


def test_a_server_that_moves_takes_its_services_along(
    mine: APIClient, servers: dict[str, Server], test_env: Environment
) -> None:
    create_service(Service(name="svc"), servers=[servers["production"]], spec={}, by=None)
    assert names(mine.get("/api/services")) == []
    Server.objects.filter(pk=servers["production"].pk).update(environment=test_env)
    assert names(mine.get("/api/services")) == ["svc"]


def test_the_counts_of_the_menu_are_of_what_is_seen(world: World) -> None:
    counts = {
        who: {name: badge.count for name, badge in badges_for(user).items()} for who, user in world.people.items()
    }
    assert counts["operator"] == {"deployments.service": 1, "scheduler.task": 1}
    assert counts["administrator"] == {"deployments.service": 2, "scheduler.task": 2}


# What is made and changed


def test_what_is_not_seen_of_a_row_is_not_changed(
    mine: APIClient, limited: User, test_env: Environment, production: Environment
) -> None:
    model = AIModel.objects.create(name="m")
    model.environments.add(test_env, production)
    assert mine.get(f"/api/models/{model.pk}").json()["environment_ids"] == [test_env.pk]
    path = f"/api/models/{model.pk}"
    assert mine.patch(path, {"environment_ids": []}, format="json").json()["error"]["code"] == "out_of_sight"
    other = Environment.objects.create(name="staging")
    limit(limited, [test_env, other])
    assert mine.patch(path, {"environment_ids": [other.pk]}, format="json").status_code == 200
    assert {environment.name for environment in model.environments.all()} == {"production", "staging"}


def test_nothing_is_made_or_moved_out_of_ones_sight(
    mine: APIClient, servers: dict[str, Server], production: Environment
) -> None:
    outside, own = servers["production"].pk, servers["test"].pk
    for path, body in (
        ("/api/servers", {"name": "new", "host_ip": "127.0.0.2"}),
        ("/api/servers", {"name": "new", "host_ip": "127.0.0.2", "environment": "production"}),
        ("/api/servers", {"name": "new", "host_ip": "127.0.0.2", "environment_id": production.pk}),
        ("/api/services", {"name": "new", "deploy_command": "run"}),
        ("/api/services", {"name": "new", "server_ids": [own, outside]}),
        ("/api/services", {"name": "new", "environment": "production", "server_ids": [own]}),
        ("/api/environments", {"name": "new"}),
        ("/api/tasks", {"name": "new", "command": "true", "schedule_type": "interval", "interval_seconds": 60}),
    ):
        body = body | ({"server_ids": [outside]} if path == "/api/tasks" else {})
        assert mine.post(path, body, format="json").status_code == 400, (path, body)
    moved = mine.patch(f"/api/servers/{own}", {"environment": None}, format="json")
    assert (moved.status_code, moved.json()["error"]["code"]) == (400, "out_of_sight")
    assert Server.objects.count() == 3
    assert not Service.objects.exists() and not Task.objects.exists()
    made = mine.post("/api/services", {"name": "new", "server_ids": [own]}, format="json")
    assert made.status_code == 201
    added = mine.post("/api/servers", {"name": "more", "host_ip": "127.0.0.2", "environment": "test"}, format="json")
    assert added.status_code == 201


def test_a_selector_names_an_environment_of_ones_own(mine: APIClient, servers: dict[str, Server]) -> None:
    """Labels cannot pretend: what a server is called and where it lies is not theirs to say."""
    Server.objects.filter(pk=servers["production"].pk).update(labels={"environment": "test", "rack": "a"})
    for selector in ("rack=a", "environment!=production", "environment", "environment=production", "!rack"):
        for path in ("/api/runs", "/api/tasks/preview"):
            about = {"schedule_type": "interval", "interval_seconds": 60}
            answer = mine.post(path, {"command": "true", "selector": selector, **about}, format="json")
            assert answer.status_code == 400, (path, selector)
    assert not Run.objects.exists()
    begun = mine.post("/api/runs", {"command": "true", "selector": "environment=test"}, format="json")
    assert begun.status_code == 202
    assert [result.server_name for result in Run.objects.get().results.all()] == ["on-test"]


def test_a_task_by_selector_is_seen_where_it_stays(mine: APIClient, servers: dict[str, Server], api: APIClient) -> None:
    about = {"command": "true", "schedule_type": "interval", "interval_seconds": 60}
    for name, selector in (("mine", "environment=test"), ("all", "rack"), ("other", "environment=production")):
        Task.objects.create(name=name, selector=selector, **about)
    assert names(mine.get("/api/tasks")) == ["mine"]


def test_forms_offer_only_what_is_seen(limited: User, servers: dict[str, Server], client: Client) -> None:
    client.force_login(limited)
    for path in ("deployments/service/add", "scheduler/task/add", "scheduler/run/add", "inventory/server/add"):
        page = client.get(f"/admin/{path}/").content.decode()
        assert "on-test" in page and "on-production" not in page and "on-nothing" not in page, path
        assert "production" not in page, path
    asked = {"placed_on": [servers["production"].pk], "name": "new"}
    assert client.post("/admin/deployments/service/add/", asked).status_code == 200
    assert not Placement.objects.exists()


def test_saving_a_form_takes_nothing_away_that_is_not_offered(
    limited: User, servers: dict[str, Server], client: Client
) -> None:
    """A server of his is reached over one that he does not see."""
    mine, jump = servers["test"], servers["production"]
    Server.objects.filter(pk=mine.pk).update(jump=jump)
    client.force_login(limited)
    path = f"/admin/inventory/server/{mine.pk}/change/"
    form = client.get(path).context["adminform"].form
    given = {name: form[name].value() for name in form.fields if form[name].value() not in (None, False)}
    assert client.post(path, given | {"name": "renamed", "labels": "{}"}).status_code == 302
    mine.refresh_from_db()
    assert (mine.name, mine.jump, mine.password) == ("renamed", jump, "secret")


def test_an_action_of_a_list_reaches_no_hidden_row(world: World, client: Client) -> None:
    client.force_login(world.people["operator"])
    for place, action in (("inventory/server", "delete_selected"), ("deployments/service", "stop")):
        chosen = [world.hidden.ids[place.split("/")[1]]]
        client.post(f"/admin/{place}/", {"action": action, "_selected_action": chosen, "confirmed": "1"})
    assert Server.objects.filter(pk=world.hidden.ids["server"]).exists()
    assert Service.objects.get(pk=world.hidden.ids["service"]).wanted == "running"
    assert not Event.objects.filter(actor=world.people["operator"], kind__startswith="service.").exists()


def test_lines_neither_change_nor_name_what_is_hidden(
    limited: User, servers: dict[str, Server], client: Client
) -> None:
    client.force_login(limited)
    lines = "name,address,environment\non-production,127.0.0.9,test\nnew,127.0.0.8,production\nmore,127.0.0.7,\n"
    page = client.post("/admin/inventory/server/import/", {"text": lines}).content.decode()
    assert "There is no environment production" in page
    assert "say which one it is in" in page
    client.post("/admin/inventory/server/import/", {"text": lines, "write": "1"})
    servers["production"].refresh_from_db()
    assert servers["production"].host_ip == "127.0.0.1"
    assert Server.objects.count() == 3


def test_a_brand_in_use_elsewhere_is_kept_without_saying_by_whom(mine: APIClient, servers: dict[str, Server]) -> None:
    brand = Brand.objects.create(name="Maker")
    Server.objects.filter(pk=servers["production"].pk).update(brand=brand)
    answer = mine.delete(f"/api/brands/{brand.pk}")
    assert answer.status_code == 409
    assert "on-production" not in answer.content.decode()


# What it costs


@pytest.mark.parametrize(
    "path", ["/admin/", "/admin/inventory/server/", "/admin/scheduler/run/", "/admin/infini/event/"]
)
def test_who_is_not_limited_pays_one_query_and_no_join(
    operator: User, test_env: Environment, servers: dict[str, Server], client: Client, path: str
) -> None:
    def queries() -> list[str]:
        client.force_login(operator)
        with CaptureQueriesContext(connection) as asked:
            assert client.get(path).status_code == 200
        return [query["sql"] for query in asked]

    free = queries()
    limits = [sql for sql in free if "inventory_environmentlimit" in sql]
    assert len(limits) == 1
    assert not [sql for sql in free if "placement" in sql and "environment_id" in sql and "NOT (EXISTS" in sql]
    limit(operator, [test_env])
    first = len(queries())
    for n in range(10):
        Server.objects.create(name=f"more-{n}", host_ip="127.0.0.1", environment=test_env)
        Task.objects.create(name=f"t{n}", command="true", schedule_type="interval", selector="environment=test")
    assert len(queries()) == first
