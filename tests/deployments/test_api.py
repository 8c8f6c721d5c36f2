"""Services over HTTP: the contract's shapes, permissions and errors."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from deployments.models import Instance, Operation, Revision, Service
from infini.keys import create_key
from infini.models import Event, User
from inventory.models import AIModel, Server
from tests.deployments.conftest import turn

pytestmark = pytest.mark.django_db(transaction=True)
LISTEN = "echo up; exec python3 -m http.server {port} --bind {host} 2>&1"


def open_operation() -> Operation:
    return Operation.objects.get(state__in=["queued", "running"])


def test_a_command_at_creation_starts_the_deployment(api: APIClient, server: Server) -> None:
    model = AIModel.objects.create(name="m")
    body = {"name": "chatty", "model_id": model.pk, "server_ids": [server.pk], "deploy_command": LISTEN}

    answer = api.post("/api/services", body, format="json")

    assert answer.status_code == 201
    made = answer.json()
    assert made["deploy_status"] == "deploying" and made["ready"] == "0/1"
    assert (made["model_id"], made["model"]["name"], made["server_ids"]) == (model.pk, "m", [server.pk])

    turn(open_operation())
    got = api.get(f"/api/services/{made['id']}/").json()
    assert (got["deploy_status"], got["ready"], got["reason"]) == ("deployed", "1/1", "")
    instance = got["instances"][0]
    assert instance["phase"] == "running" and instance["ready"] is True and instance["pid"] > 1
    assert {
        "id",
        "server_id",
        "phase",
        "ready",
        "pid",
        "port",
        "restarts",
        "exit_code",
        "reason",
        "observed_at",
    } <= set(instance)
    log = api.get(f"/api/services/{made['id']}/deploy-log").json()
    assert (log["kind"], log["state"]) == ("deploy", "done")
    assert log["results"][0]["server_id"] == server.pk and log["results"][0]["log_tail"].startswith("up")


def test_the_verbs_answer_202_with_the_operation(api: APIClient, server: Server) -> None:
    service_id = api.post("/api/services", {"name": "s", "server_ids": [server.pk]}, format="json").json()["id"]
    api.patch(f"/api/services/{service_id}", {"deploy_command": "sleep 300"}, format="json")
    for verb in ("deploy", "restart", "stop"):
        answer = api.post(f"/api/services/{service_id}/{verb}")
        assert answer.status_code == 202, answer.content
        assert answer.json() == {"operation_id": open_operation().pk, "deploy_status": "deploying"}
        turn(open_operation())
    answer = api.delete(f"/api/services/{service_id}")
    assert answer.status_code == 202
    turn(open_operation())
    assert api.get(f"/api/services/{service_id}").status_code == 404


def test_deploy_while_deploying_is_409(api: APIClient, server: Server) -> None:
    body = {"name": "s", "server_ids": [server.pk], "deploy_command": "sleep 300"}
    service_id = api.post("/api/services", body, format="json").json()["id"]
    answer = api.post(f"/api/services/{service_id}/deploy/")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "operation_open"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "taken"}, "name"),
        ({"name": "n", "server_ids": [999999]}, "server_ids"),
        ({"name": "n", "server_ids": "one"}, "server_ids"),
        ({"name": "n", "model_id": 999999}, "model_id"),
        ({"name": "n", "environment": "nowhere"}, "environment"),
        ({"name": "n", "port": 70000}, "port"),
        ({"name": "n", "port": "x"}, "port"),
        ({"name": "n", "env": ["a"]}, "env"),
        ({"name": "n", "deploy_command": "x", "env": {"1BAD": "v"}}, "env"),
        ({"name": "n", "deploy_command": "x" * 70000}, "deploy_command"),
        ({"name": "n", "path_prefix": "http://evil"}, "path_prefix"),
    ],
)
def test_bad_input_is_400_in_one_shape_and_stores_nothing(api: APIClient, body: dict, field: str) -> None:
    Service.objects.create(name="Taken")
    answer = api.post("/api/services", body, format="json")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid" and error["message"] and field in error["fields"], error
    assert Service.objects.count() == 1 and not Revision.objects.exists()


def test_a_service_that_cannot_start_is_not_created(api: APIClient, server: Server) -> None:
    body = {"name": "a", "server_ids": [server.pk], "deploy_command": "sleep 300", "port": 10500}
    assert api.post("/api/services", body, format="json").status_code == 201
    answer = api.post("/api/services", body | {"name": "b"}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "port_taken")
    assert not Service.objects.filter(name="b").exists()


def test_a_client_never_sets_status(api: APIClient) -> None:
    body = {"name": "s", "deploy_status": "deployed", "wanted": "running"}
    made = api.post("/api/services", body, format="json").json()
    assert (made["deploy_status"], made["wanted"], made["reason"]) == ("online", "stopped", "Never deployed.")


def test_a_stale_version_is_409_and_changes_nothing(api: APIClient) -> None:
    made = api.post("/api/services", {"name": "s"}, format="json").json()
    path = f"/api/services/{made['id']}"
    assert api.patch(path, {"name": "t", "version": made["version"]}, format="json").json()["version"] == 2
    answer = api.patch(path, {"name": "u", "version": made["version"]}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stale_version")
    assert Service.objects.get().name == "t"


def test_another_command_or_other_servers_make_the_version_stale_too(
    api: APIClient, make_server: Callable[..., Server]
) -> None:
    path = f"/api/services/{api.post('/api/services', {'name': 's'}, format='json').json()['id']}"
    for mine, theirs in (
        ({"deploy_command": "sleep 2"}, {"deploy_command": "sleep 3"}),
        ({"server_ids": [make_server(name="a").pk]}, {"server_ids": []}),
    ):
        seen = api.get(path).json()["version"]
        assert api.patch(path, {**mine, "version": seen}, format="json").json()["version"] == seen + 1
        assert api.patch(path, {**theirs, "version": seen}, format="json").status_code == 409
        assert api.patch(path, {**mine, "version": seen + 1}, format="json").json()["version"] == seen + 1  # no change
    assert Service.objects.get().current_revision.command == "sleep 2"


def test_each_change_of_the_command_is_a_revision_and_the_same_again_is_none(api: APIClient) -> None:
    made = api.post("/api/services", {"name": "s", "deploy_command": "one"}, format="json").json()
    path = f"/api/services/{made['id']}"
    api.patch(path, {"deploy_command": "two"}, format="json")
    api.put(path, {"name": "s", "deploy_command": "two"}, format="json")
    assert list(Revision.objects.order_by("number").values_list("command", flat=True)) == ["one", "two"]
    assert api.patch(path, {"deploy_command": " "}, format="json").status_code == 400


def test_a_rolling_update_is_asked_for_by_a_number(api: APIClient) -> None:
    made = api.post("/api/services", {"name": "s", "max_unavailable": 2}, format="json").json()
    assert made["max_unavailable"] == 2
    for wrong in (0, -1, "two"):
        answer = api.patch(f"/api/services/{made['id']}", {"max_unavailable": wrong}, format="json")
        assert answer.status_code == 400 and "max_unavailable" in answer.json()["error"]["fields"]


def test_rolling_back_deploys_the_last_good_revision(api: APIClient, server: Server) -> None:
    body = {"name": "s", "server_ids": [server.pk], "deploy_command": "sleep 300"}
    path = f"/api/services/{api.post('/api/services', body, format='json').json()['id']}"
    turn(open_operation())
    assert api.post(f"{path}/roll-back").json()["error"]["code"] == "nothing_to_return_to"
    api.patch(path, {"deploy_command": "exit 9", "note": "worse"}, format="json")
    api.post(f"{path}/deploy")
    turn(open_operation())
    assert api.get(path).json()["deploy_status"] == "online"

    answer = api.post(f"{path}/roll-back", {}, format="json")

    assert answer.status_code == 202
    assert turn(open_operation()).kind == "roll_back"
    now = api.get(path).json()
    assert (now["deploy_status"], now["revision"], now["deploy_command"]) == ("deployed", 1, "sleep 300")
    newer, older = api.get(f"{path}/revisions").json()
    assert newer["changes"] == {"command": ["sleep 300", "exit 9"]} and newer["note"] == "worse"
    assert (older["current"], older["good"], newer["good"]) == (True, True, False)
    assert api.post(f"{path}/roll-back", {"revision": 7}, format="json").status_code == 404
    assert api.post(f"{path}/roll-back", {"revision": "x"}, format="json").status_code == 400


def test_secret_environment_values_are_write_only(api: APIClient, server: Server) -> None:
    body = {"name": "s", "deploy_command": "true", "secret_env": {"HF_TOKEN": "canary-7731"}}
    made = api.post("/api/services", body, format="json")
    shown = made.content + api.get("/api/services").content + str(list(Event.objects.values())).encode()
    assert made.json()["secret_env_set"] is True
    assert b"canary-7731" not in shown
    assert "canary" not in Revision.objects.extra(select={"raw": "secret_env"}).values_list("raw", flat=True)[0]


def test_unknown_ids_are_404_and_no_login_is_401(api: APIClient, api_as: Callable) -> None:
    for method, path in [("get", ""), ("post", "/deploy"), ("post", "/stop"), ("get", "/deploy-log")]:
        assert getattr(api, method)(f"/api/services/999{path}").json()["error"]["code"] == "not_found"
        answer = getattr(api_as(None), method)(f"/api/services/999{path}")
        assert answer.status_code == 401 and answer["WWW-Authenticate"] == "Bearer"


def test_a_key_opens_what_its_owner_may_do(viewer: User, operator: User) -> None:
    for user, status in ((viewer, 403), (operator, 201)):
        _key, text = create_key(user=user, name="k", by=user)
        client = APIClient(headers={"Authorization": f"Bearer {text}"})
        assert client.get("/api/services").status_code == 200
        assert client.post("/api/services", {"name": user.username}, format="json").status_code == status


def test_the_list_is_a_plain_array_that_can_be_cut(api: APIClient) -> None:
    for n in range(5):
        Service.objects.create(name=f"s{n}")
    whole, cut = api.get("/api/services"), api.get("/api/services/?limit=2&offset=1")
    assert [s["name"] for s in whole.json()] == ["s0", "s1", "s2", "s3", "s4"]
    assert [s["name"] for s in cut.json()] == ["s1", "s2"]
    assert whole["X-Total-Count"] == cut["X-Total-Count"] == "5"
    assert api.get("/api/services?limit=-1").status_code == 400


def test_the_list_takes_the_same_number_of_queries_for_many(
    api: APIClient, make_service: Callable[..., Service], django_assert_num_queries: Callable
) -> None:
    def grow(first: int, last: int) -> None:
        for n in range(first, last):
            server = Server.objects.create(name=f"n{n}", host_ip="h", agent_token="t")
            service = make_service("sleep 1 {port}", server, name=f"s{n}")
            api.post(f"/api/services/{service.pk}/deploy")

    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    grow(0, 3)
    with CaptureQueriesContext(connection) as few:
        api.get("/api/services")
    needed = len(few)  # read now: the next request empties the log
    grow(3, 15)
    with django_assert_num_queries(needed):
        assert len(api.get("/api/services").json()) == 15


def test_refresh_asks_the_agents_now(api: APIClient, server: Server, make_service: Callable[..., Service]) -> None:
    service = make_service("sleep 300", server)
    api.post(f"/api/services/{service.pk}/deploy")
    turn(open_operation())
    import os
    import signal

    from tests.real_agent import wait_until

    os.kill(Instance.objects.get().pid, signal.SIGKILL)
    wait_until(lambda: server.agent.request("GET", "/services")[1]["services"][0]["phase"] == "failed")

    assert api.get("/api/services").json()[0]["deploy_status"] == "deployed"  # nobody has looked yet
    fresh = api.post("/api/services/refresh-status").json()[0]
    assert fresh["deploy_status"] == "online"
    assert fresh["instances"][0]["exit_code"] == 137


def test_stats_count_what_is(api: APIClient, server: Server, make_service: Callable[..., Service]) -> None:
    service = make_service("sleep 300", server)
    api.post(f"/api/services/{service.pk}/deploy")
    turn(open_operation())
    stats = api.get("/api/stats").json()
    assert set(stats) == {
        *("server_count", "online_server_count", "service_count", "deployed_service_count"),
        *("instance_count", "device_count", "device_in_use_count", "task_count"),
    }
    assert {
        k: stats[k] for k in ("server_count", "online_server_count", "service_count", "deployed_service_count")
    } == {
        "server_count": 1,
        "online_server_count": 1,
        "service_count": 1,
        "deployed_service_count": 1,
    }
