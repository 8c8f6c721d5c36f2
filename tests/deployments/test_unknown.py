"""What an agent runs and nobody here has asked for: shown, left alone, and adopted or ended by a person."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from deployments import adoption, lifecycle, unknown
from deployments.models import DeviceClaim, Instance, Placement, PortClaim, Revision, Service, UnknownInstance
from deployments.monitor import _record
from deployments.reports import Report
from infini.models import Event, User
from inventory.agents import AgentRejects
from inventory.models import Server
from tests.deployments.conftest import status_of, turn
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was queued; the worker's part is done by ``look``."""
    queued: list[Any] = []
    monkeypatch.setattr(unknown, "async_task", lambda name, *args: queued.append((name, *args)))
    return queued


def look(server: Server) -> dict[str, UnknownInstance]:
    """A round of the monitor, and the task it queues."""
    _record([Report(server.pk, timezone.now(), server.agent.request("GET", "/report")[1])])
    unknown.describe(server.pk)
    return {row.key: row for row in unknown.described()}


def test_it_is_shown_with_what_it_runs_and_left_alone(
    server: Server, make_service: Make, api: APIClient, tasks: list[Any]
) -> None:
    turn(lifecycle.deploy(make_service("sleep 300", server), by=None))
    pid = server.agent.deploy("stranger", "exec sleep 301", env={"TOKEN": "s3cr3t"}, cwd="/tmp")["pid"]

    row = look(server)["stranger"]

    assert (row.command, row.cwd, row.env_names, row.pid) == ("exec sleep 301", "/tmp", ["TOKEN"], pid)
    assert tasks == [("deployments.tasks.describe_unknown", server.pk)]
    [listed] = api.get(f"/api/servers/{server.pk}/unknown-instances").json()
    assert (
        listed["key"] == "stranger"
        and listed["phase"] in ("starting", "running")
        and "s3cr3t" not in json.dumps(listed)
    )
    assert Event.objects.filter(kind="server.unknown_found", data={"key": "stranger"}).count() == 1
    for _ in range(3):
        look(server)
    assert is_running(pid) and Event.objects.filter(kind="server.unknown_found").count() == 1
    server.agent.request("POST", "/service/stranger/stop")
    server.agent.request("DELETE", "/service/stranger")
    assert not look(server)


def test_it_is_adopted_into_a_new_service_and_nothing_restarts(server: Server, api: APIClient) -> None:
    was = server.agent.deploy("stranger", "exec sleep 301", env={"TOKEN": "s3cr3t"}, generation=7, restart="always")
    look(server)
    path = f"/api/servers/{server.pk}/unknown-instances/stranger/adopt"
    assert api.post(path, {}, format="json").status_code == 400

    answer = api.post(path, {"name": "mine"}, format="json")

    assert answer.status_code == 201
    service = Service.objects.get(pk=answer.json()["service_id"])
    instance = Instance.objects.get(pk=answer.json()["instance_id"])
    assert (instance.key, instance.generation, instance.acked_generation) == ("stranger", 7, 7)
    revision = service.current_revision
    assert revision and (revision.command, revision.restart) == ("exec sleep 301", "always")
    assert revision.env == {} and json.loads(revision.secret_env) == {"TOKEN": "s3cr3t"}
    assert not look(server)
    wait_until(lambda: not look(server) and status_of(service) == "deployed")
    assert server.agent.status("stranger")["pid"] == was["pid"] and is_running(was["pid"])
    assert Event.objects.get(kind="instance.adopted").actor_name
    # From here on it is one of ours.
    turn(lifecycle.restart(service, by=None))
    instance.refresh_from_db()
    assert instance.generation == 8 and instance.ready and server.agent.status("stranger")["pid"] != was["pid"]
    turn(lifecycle.delete(service, by=None))
    assert server.agent.request("GET", "/services")[1]["services"] == []


def test_after_a_database_was_restored_it_finds_its_revision_again(server: Server, make_service: Make) -> None:
    service = make_service("exec sleep 3{port}", server, env={"A": "1"}, secret_env={"B": "2"}, probes={"type": "none"})
    turn(lifecycle.deploy(service, by=None))
    before = Instance.objects.get()
    Instance.objects.all().delete()  # as in the backup, which is older than the instance

    row = look(server)[before.key]
    instance = unknown.unknown_instance(server.pk, row.key) and adopt(row, service=service)

    assert (instance.revision_id, instance.port, instance.ordinal) == (before.revision_id, before.port, 0)
    assert Revision.objects.count() == 1 and Placement.objects.get().replicas == 1
    assert PortClaim.objects.get().port == before.port
    wait_until(lambda: not look(server) and status_of(service) == "deployed")
    assert is_running(before.pid)


def adopt(row: UnknownInstance, **into: Any) -> Instance:
    return adoption.adopt(row, by=None, **into)


def test_devices_it_sees_are_claimed_for_it(server: Server, equip: Callable[[Server, int], None]) -> None:
    equip(server, 3)
    server.agent.deploy("stranger", "exec sleep 301", env={"CUDA_VISIBLE_DEVICES": "1,2"})
    instance = adopt(look(server)["stranger"], name="mine")
    assert set(DeviceClaim.objects.values_list("instance", "device__index")) == {(instance.pk, 1), (instance.pk, 2)}
    assert instance.revision.devices == 2
    turn(lifecycle.deploy(instance.placement.service, by=None))
    assert set(DeviceClaim.objects.values_list("device__index", flat=True)) == {1, 2}


def test_one_that_has_ended_is_adopted_as_stopped_and_claims_nothing(
    server: Server, equip: Callable[[Server, int], None]
) -> None:
    equip(server, 1)
    server.agent.deploy("stranger", "exit 1", env={"CUDA_VISIBLE_DEVICES": "0"}, port=10)
    server.agent.wait_for_phase("stranger", "failed")
    instance = adopt(look(server)["stranger"], name="mine")
    assert (instance.wanted, instance.phase) == ("stopped", "failed")
    assert not DeviceClaim.objects.exists() and not PortClaim.objects.exists()


def test_a_second_one_joins_beside_what_the_service_has(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    server.agent.deploy("stranger", "exec sleep 301")
    instance = adopt(look(server)["stranger"], service=service)
    service.refresh_from_db()
    wait_until(lambda: not look(server) and status_of(service) == "deployed")
    assert (instance.ordinal, instance.revision.number) == (1, 2)
    assert service.current_revision and service.current_revision.number == 1
    assert Placement.objects.get().replicas == 2


def test_what_is_refused_changes_nothing(server: Server, make_service: Make, api: APIClient) -> None:
    service = make_service("sleep 300 {port}", server, probes={"type": "none"})
    turn(lifecycle.deploy(service, by=None))
    taken = PortClaim.objects.get().port
    server.agent.deploy("stranger", "exec sleep 301", port=taken, probes={"type": "none"})
    look(server)
    path = f"/api/servers/{server.pk}/unknown-instances/stranger"
    answer = api.post(f"{path}/adopt", {"name": "mine"}, format="json")
    assert answer.status_code == 409 and "port" in answer.json()["error"]["message"]
    assert api.post(f"{path}/adopt", {"name": "SVC"}, format="json").status_code == 409
    lifecycle.deploy(service, by=None)
    assert api.post(f"{path}/adopt", {"service_id": service.pk}, format="json").status_code == 409
    assert api.delete(path).status_code == 409  # it runs
    server.agent.kill9()
    assert api.post(f"{path}/stop").status_code == 504
    assert Service.objects.count() == 1 and "stranger" in {row.key for row in unknown.described()}


def test_it_is_stopped_and_forgotten_by_a_person(server: Server, api: APIClient) -> None:
    pid = server.agent.deploy("stranger", "exec sleep 301")["pid"]
    look(server)
    path = f"/api/servers/{server.pk}/unknown-instances/stranger"
    assert api.post(f"{path}/stop").json()["phase"] == "stopped" and not is_running(pid)
    assert api.delete(path).status_code == 204
    assert not look(server) and server.agent.request("GET", "/services")[1]["services"] == []
    kinds = Event.objects.filter(kind__startswith="server.unknown_").order_by("pk").values_list("kind", flat=True)
    assert list(kinds) == ["server.unknown_found", "server.unknown_stopped", "server.unknown_forgotten"]


def test_a_report_older_than_a_forgotten_instance_shows_nothing(server: Server, make_service: Make) -> None:
    service = make_service("sleep 300", server)
    turn(lifecycle.deploy(service, by=None))
    old = Report(server.pk, timezone.now(), server.agent.request("GET", "/report")[1])
    turn(lifecycle.delete(service, by=None))
    unknown.note_unknown([old])
    assert UnknownInstance.objects.count() == 1 and not unknown.described()
    unknown.describe(server.pk)
    assert not UnknownInstance.objects.exists() and not Event.objects.filter(kind="server.unknown_found").exists()


def test_an_agent_too_old_to_tell_is_shown_without_a_command(server: Server, api: APIClient, monkeypatch: Any) -> None:
    server.agent.deploy("stranger", "exec sleep 301")
    missing = AgentRejects("There is no such path.", code="not_found", status=404)
    monkeypatch.setattr(unknown, "ask_each", lambda asks: [(ask, missing) for ask in asks])
    assert look(server)["stranger"].command == ""
    answer = api.post(f"/api/servers/{server.pk}/unknown-instances/stranger/adopt", {"name": "x"}, format="json")
    assert answer.status_code == 409 and "upgrade the agent" in answer.json()["error"]["message"]


def test_queries_do_not_grow_with_what_is_unknown(server: Server) -> None:
    def queries() -> int:
        report = Report(server.pk, timezone.now(), server.agent.request("GET", "/report")[1])
        with CaptureQueriesContext(connection) as captured:
            unknown.note_unknown([report])
        return len(captured)

    server.agent.deploy("one", "exec sleep 301")
    look(server)
    wait_until(lambda: queries() == 3)  # one more write while it is still starting
    for n in range(3):
        server.agent.deploy(f"more-{n}", "exec sleep 301")
    look(server)
    wait_until(lambda: queries() == 3)


def test_the_pages_show_it_and_adopt_by_post_alone(server: Server, operator: User, viewer: User) -> None:
    server.agent.deploy("stranger", "exec sleep 301", env={"TOKEN": "s3cr3t"})
    row = look(server)["stranger"]
    browser, watching = Client(), Client()
    browser.force_login(operator)
    watching.force_login(viewer)
    assert b"stranger" in watching.get(f"/admin/inventory/server/{server.pk}/?tab=instances").content
    page = f"/admin/deployments/unknowninstance/{row.pk}/"
    shown = browser.get(page).content.decode()
    assert "exec sleep 301" in shown and "TOKEN" in shown and "s3cr3t" not in shown and "adopt/" in shown
    assert "adopt/" not in watching.get(page).content.decode()
    assert watching.post(f"{page}adopt/", {"name": "x"}).status_code == 403
    assert browser.get(f"{page}adopt/").status_code == 405
    assert browser.post(f"{page}adopt/", {}).url == page
    gone_on = browser.post(f"{page}adopt/", {"name": "mine"})
    assert gone_on.url == f"/admin/deployments/service/{Service.objects.get().pk}/"
