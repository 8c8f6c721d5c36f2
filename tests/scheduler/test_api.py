"""Tasks, runs and saved commands over HTTP: the contract, what is refused at which field, what lists cost."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from infini.models import Event
from inventory.models import Server
from scheduler import hosting, library, runs
from scheduler.models import Run, RunResult, SavedCommand, Task

pytestmark = pytest.mark.django_db

SCHEDULES: list[dict[str, Any]] = [
    {"schedule_type": "once", "run_at": "2099-01-01T00:00:00Z"},
    {"schedule_type": "interval", "interval_seconds": 60},
    {"schedule_type": "daily", "time_of_day": "03:00"},
    {"schedule_type": "weekly", "time_of_day": "03:00:05", "weekday": 6},
    {"schedule_type": "cron", "cron": "*/5 * * * 1-5"},
]


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    return make_server("gpu-1")


@pytest.fixture
def body(server: Server) -> Callable[..., dict[str, Any]]:
    def make(**values: Any) -> dict[str, Any]:
        base = {"name": "backup", "command": "true", "server_ids": [server.pk], "timezone": "Europe/Berlin"}
        return {**base, **({} if "schedule_type" in values else SCHEDULES[2]), **values}

    return make


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s["schedule_type"])
def test_a_task_of_each_kind(api: APIClient, body: Callable[..., dict], schedule: dict[str, Any]) -> None:
    made = api.post("/api/tasks", body(**schedule), format="json")
    assert made.status_code == 201, made.content
    task = made.json()
    assert task.items() >= {**body(**schedule), "status": "idle", "enabled": True, "version": 1}.items()
    assert task["next_run_at"] > timezone.now().isoformat()
    assert api.get(f"/api/tasks/{task['id']}").json() == task and api.get("/api/tasks/").json() == [task]
    result = api.get(f"/api/tasks/{task['id']}/result").json()
    assert result["run_id"] is None and result["state"] == "idle" and result["results"] == []
    assert api.delete(f"/api/tasks/{task['id']}").status_code == 204
    assert not Task.objects.exists()


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"name": " "}, "name", "blank"),
        ({"command": "  "}, "command", "Write the command"),
        ({"command": "x" * 65_537}, "command", "64 kB"),
        ({"command": "a\0b"}, "command", ""),
        ({"server_ids": []}, "server_ids", "Name a server"),
        ({"server_ids": [987654]}, "server_ids", "does not exist"),
        ({"selector": "a=b=c"}, "selector", "no condition"),
        ({"timezone": "Mars/Olympus"}, "timezone", "no time zone"),
        ({"schedule_type": "hourly"}, "schedule_type", ""),
        ({"schedule_type": "once"}, "run_at", "needs it"),
        ({"schedule_type": "once", "run_at": "2020-01-01T00:00:00Z"}, "run_at", "past"),
        ({"schedule_type": "interval"}, "interval_seconds", "needs it"),
        ({"schedule_type": "interval", "interval_seconds": 0}, "interval_seconds", ""),
        ({"schedule_type": "daily"}, "time_of_day", "needs it"),
        ({"schedule_type": "daily", "time_of_day": "25:00"}, "time_of_day", ""),
        ({"schedule_type": "weekly", "time_of_day": "03:00"}, "weekday", "Monday"),
        ({"schedule_type": "weekly", "time_of_day": "03:00", "weekday": 7}, "weekday", ""),
        ({"schedule_type": "cron"}, "cron", "needs it"),
        ({"schedule_type": "cron", "cron": "0 0 30 2 *"}, "cron", "never comes true"),
        ({"window_opens": "01:00"}, "window_closes", "both"),
        ({"window_opens": "05:00", "window_closes": "06:00"}, "time_of_day", "within the window"),
        (
            {
                **{"schedule_type": "once", "run_at": "2099-01-01T12:00:00Z"},
                **{"window_opens": "22:00", "window_closes": "06:00"},
            },
            "run_at",
            "within the window",
        ),
        ({"environment": {"1A": "x"}}, "environment", "no name of a variable"),
        ({"environment": {"A": 1, "B": ["x"]}}, "environment.B", ""),
        ({"retries": 21}, "retries", ""),
        ({"width": 0}, "width", ""),
        ({"stop_after_percent": 101}, "stop_after_percent", ""),
        ({"overlap": "maybe"}, "overlap", ""),
    ],
)
def test_what_is_wrong_is_said_at_its_field(
    api: APIClient, body: Callable[..., dict], values: dict[str, Any], field: str, says: str
) -> None:
    answer = api.post("/api/tasks", body(**values), format="json")
    assert answer.status_code == 400, answer.content
    fields = answer.json()["error"]["fields"]
    assert field in fields and says in " ".join(fields[field]), fields
    assert not Task.objects.exists() and not Event.objects.filter(subject_kind="task").exists()


def test_a_name_is_taken_whatever_its_case(api: APIClient, body: Callable[..., dict]) -> None:
    assert api.post("/api/tasks", body(), format="json").status_code == 201
    answer = api.post("/api/tasks", body(name="BackUp"), format="json")
    assert answer.status_code == 400 and "taken" in answer.json()["error"]["fields"]["name"][0]


def test_changing_a_task(api: APIClient, body: Callable[..., dict], make_server: Callable[..., Server]) -> None:
    task = api.post("/api/tasks", body(), format="json").json()
    path = f"/api/tasks/{task['id']}"
    hourly = api.patch(path, {"schedule_type": "interval", "interval_seconds": 3600, "version": 1}, format="json")
    assert hourly.json().items() >= {"time_of_day": None, "interval_seconds": 3600, "version": 2}.items()
    assert hourly.json()["next_run_at"] != task["next_run_at"]
    assert api.patch(path, {"name": "other", "version": 1}, format="json").status_code == 409
    other = make_server("gpu-2")
    moved = api.put(path, body(server_ids=[other.pk], name="moved"), format="json").json()
    assert (moved["server_ids"], moved["name"], moved["version"]) == ([other.pk], "moved", 3)
    off = api.patch(path, {"enabled": False}, format="json").json()
    assert off["next_run_at"] is None
    assert api.patch(path, {"server_ids": []}, format="json").status_code == 400
    kinds = [event.kind for event in Event.objects.filter(subject_kind="task").order_by("id")]
    assert kinds == ["task.created", *["task.changed"] * 3]


def test_renaming_keeps_the_next_time(api: APIClient, body: Callable[..., dict]) -> None:
    made = body(schedule_type="interval", interval_seconds=3600)
    task = api.post("/api/tasks", made, format="json").json()
    renamed = api.put(f"/api/tasks/{task['id']}", {**made, "name": "other"}, format="json").json()
    assert renamed["next_run_at"] == task["next_run_at"]


def test_a_once_that_has_run_may_be_renamed(api: APIClient, body: Callable[..., dict]) -> None:
    at = (timezone.now() + timedelta(seconds=30)).isoformat()
    task = api.post("/api/tasks", body(schedule_type="once", run_at=at), format="json").json()
    Task.objects.update(run_at=timezone.now() - timedelta(days=1), next_run_at=None)
    answer = api.patch(f"/api/tasks/{task['id']}", {"name": "done"}, format="json")
    assert answer.status_code == 200 and answer.json()["next_run_at"] is None


def test_execute_dry_and_for_real(api: APIClient, body: Callable[..., dict], server: Server) -> None:
    task = api.post("/api/tasks", body(account="deploy", environment={"A": "1"}), format="json").json()
    path = f"/api/tasks/{task['id']}"
    dry = api.post(f"{path}/execute", {"dry_run": True}, format="json")
    aim = {"server_id": server.pk, "server": "gpu-1", "host": "127.0.0.1", "account": "deploy", "maintenance": False}
    assert dry.status_code == 200
    assert dry.json() == {"command": "true", "environment": {"A": "1"}, "targets": [{**aim, "obstacle": ""}]}
    assert not Run.objects.exists()
    begun = api.post(f"{path}/execute", format="json")
    assert begun.status_code == 202 and begun.json() == {"run_id": Run.objects.get().pk}
    assert api.get(path).json()["status"] == "running"
    assert api.get(f"{path}/result").json()["state"] == "queued"
    refused = api.post(f"{path}/execute", format="json")
    assert refused.status_code == 409 and "is running" in refused.json()["error"]["message"]
    assert api.delete(path).status_code == 409
    assert api.post(f"/api/runs/{begun.json()['run_id']}/cancel").status_code == 202
    assert api.post(f"/api/runs/{begun.json()['run_id']}/cancel").status_code == 409
    assert api.delete(path).status_code == 204
    kept = api.get("/api/runs").json()[0]
    assert kept.items() >= {"task_id": None, "name": "backup", "state": "cancelled", "by": "operator"}.items()


def test_the_result_of_a_run(api: APIClient, make_task: Callable[..., Task], fleet: Callable[..., list]) -> None:
    task = make_task(servers=fleet(2), command="echo out; echo err >&2; exit 4")
    run_id = api.post(f"/api/tasks/{task.pk}/execute").json()["run_id"]
    hosting.carry_out_due(linger_seconds=0)
    result = api.get(f"/api/tasks/{task.pk}/result").json()
    assert result.keys() >= {"run_id", "state", "started_at", "finished_at", "results"}
    assert (result["run_id"], result["state"]) == (run_id, "failed")
    row = result["results"][0]
    assert row.items() >= {"state": "failed", "exit_status": 4, "output": "out\n", "error": "err\n"}.items()
    assert row["truncated"] is False and row["started_at"] < row["finished_at"]
    assert api.get(f"/api/runs/{run_id}").json() == result
    text = api.get(f"/api/runs/{run_id}/output")
    assert b"==> gpu-01 (failed, exit 4)" in b"".join(text) and "attachment" in text["Content-Disposition"]
    one = api.get(f"/api/runs/{run_id}/output?server_id={row['server_id']}")
    assert one.content == b"out\n\n--- error output ---\nerr\n"
    assert api.get(f"/api/runs/{run_id}/output?server_id=77").status_code == 404
    again = api.post(f"/api/runs/{run_id}/retry-failed")
    assert again.status_code == 202
    assert api.get(f"/api/runs/{run_id}").json()["state"] == "failed"
    listed = api.get(f"/api/runs?task_id={task.pk}&state=queued").json()
    assert [one["id"] for one in listed] == [again.json()["run_id"]] and listed[0]["retry_of_id"] == run_id
    assert api.get("/api/runs?task_id=x").status_code == 400
    assert "queued" in api.get("/api/runs?state=waiting").json()["error"]["fields"]["state"][0]


def test_a_command_without_a_task(api: APIClient, server: Server) -> None:
    limits = {"width": 1, "retries": 2, "stagger_seconds": 0.5, "stop_after_percent": 50, "run_timeout_seconds": 60}
    begun = api.post("/api/runs", {"command": "uptime", "server_ids": [server.pk], **limits}, format="json")
    assert begun.status_code == 202, begun.content
    run = Run.objects.get()
    assert (run.task, run.command, run.policy["timeout_seconds"]) == (None, "uptime", 300)
    assert run.policy.items() >= limits.items()
    assert "server_ids" in api.post("/api/runs", {"command": "uptime"}, format="json").json()["error"]["fields"]
    assert "command" in api.post("/api/runs", {"server_ids": [server.pk]}, format="json").json()["error"]["fields"]


def test_preview_of_what_is_being_written(api: APIClient, body: Callable[..., dict], server: Server) -> None:
    draft = body(schedule_type="cron", cron="0 9 * * 1", selector="name=none")
    del draft["name"]
    shown = api.post("/api/tasks/preview", draft, format="json").json()
    assert len(shown["next"]) == 5 and [aim["server"] for aim in shown["targets"]] == ["gpu-1"]
    assert shown["idle_terms"] == ["name=none"]
    Server.objects.create(name="gpu-2", host_ip="127.0.0.1", labels={"rack": "a1", "name": "none"})
    draft["selector"] = "rack=a1, !rack, name!=gpu-1, rack = b2, gpu, name=none"
    shown = api.post("/api/tasks/preview", draft, format="json").json()
    assert shown["idle_terms"] == ["rack=b2", "gpu", "name=none"]
    once = {**draft, "schedule_type": "once", "run_local": "2099-03-29T02:30", "timezone": "Europe/Berlin"}
    assert api.post("/api/tasks/preview", once, format="json").json()["next"] == ["2099-03-29T01:00:00Z"], "in the gap"
    past = api.post("/api/tasks/preview", {**once, "run_local": "2020-03-29T02:30"}, format="json").json()
    assert "past" in past["error"]["fields"]["run_at"][0]
    wrong = api.post("/api/tasks/preview", {**draft, "cron": "0 0 31 2 *"}, format="json")
    assert "never comes true" in wrong.json()["error"]["fields"]["cron"][0]
    assert not Task.objects.exists()


def test_saved_commands(api: APIClient) -> None:
    parameter = {"name": "LEVEL", "default": "low", "allowed": ["low", "high"]}
    made = api.post("/api/commands", {"name": "a", "command": "echo $LEVEL", "parameters": [parameter]}, format="json")
    assert made.status_code == 201, made.content
    path = f"/api/commands/{made.json()['id']}"
    assert made.json()["parameters"] == [{**parameter, "label": "", "required": False}]
    assert api.patch(path, {"command": "true", "version": 1}, format="json").json()["version"] == 2
    assert api.patch(path, {"command": "true false", "version": 1}, format="json").status_code == 409
    wrong = {"parameters": [{"name": "LEVEL", "default": "none", "allowed": ["low"]}]}
    assert "parameters" in api.patch(path, wrong, format="json").json()["error"]["fields"]
    twice = {"parameters": [parameter, parameter]}
    assert "parameters" in api.patch(path, twice, format="json").json()["error"]["fields"]
    assert api.delete(path).status_code == 204


def test_a_saved_command_is_used_with_what_its_parameters_allow(api: APIClient, server: Server) -> None:
    parameters = [
        {"name": "LEVEL", "default": "low", "allowed": ["low", "high"]},
        {"name": "WHERE", "required": True},
    ]
    saved = {"name": "a", "command": "echo $LEVEL $WHERE", "parameters": parameters}
    use = {"command_id": api.post("/api/commands", saved, format="json").json()["id"], "server_ids": [server.pk]}
    task = {**use, "name": "t", "schedule_type": "interval", "interval_seconds": 60}
    for values, says in [({}, "WHERE is needed"), ({"WHERE": "x", "LEVEL": "odd"}, "one of: low, high")]:
        for path, body in (("/api/runs", use), ("/api/tasks", task), ("/api/tasks/preview", task)):
            wrong = api.post(path, {**body, "environment": values}, format="json")
            assert wrong.status_code == 400 and says in wrong.json()["error"]["fields"]["environment"][0]
    both = api.post("/api/runs", {**use, "command": "true"}, format="json")
    neither = api.post("/api/runs", {"server_ids": [server.pk]}, format="json")
    assert both.json()["error"]["fields"].keys() == {"command_id"}
    assert neither.json()["error"]["fields"].keys() == {"command"}
    assert not Run.objects.exists() and not Task.objects.exists()
    wanted = {"LEVEL": "low", "WHERE": "x; true", "MORE": "1"}
    given = {"WHERE": "x; true", "MORE": "1"}
    assert api.post("/api/runs", {**use, "environment": given}, format="json").status_code == 202
    made = api.post("/api/tasks", {**task, "environment": given}, format="json").json()
    assert made["command"] == Run.objects.get().command == "echo $LEVEL $WHERE"
    assert made["environment"] == Run.objects.get().environment == wanted and "command_id" not in made


def test_the_examples_are_whole_and_load_once(api: APIClient, fleet: Callable[..., list]) -> None:
    assert library.load_examples() >= 4 and library.load_examples() == 0
    assert SavedCommand.objects.filter(key="disk-check").exists()
    for saved in SavedCommand.objects.all():
        environment = {one["name"]: one["default"] for one in saved.parameters}
        task = Task(name=saved.name, command=saved.command, environment=environment, timeout_seconds=30)
        server = Server.objects.first() or fleet(1)[0]
        runs.run_once(task, named=[server.pk], by=None)
    hosting.carry_out_due(linger_seconds=0)
    for result in RunResult.objects.all():
        assert result.exit_status in (0, 1) and result.output and not result.error, (result.run.name, result.error)


def test_lists_cost_the_same_however_long(
    api: APIClient, make_task: Callable[..., Task], make_server: Callable[..., Server]
) -> None:
    servers = [make_server(f"s{n}") for n in range(4)]

    def cost() -> list[int]:
        counted = []
        for path in ("/api/tasks", "/api/runs", f"/api/tasks/{first.pk}/result"):
            with CaptureQueriesContext(connection) as queries:
                assert api.get(path).status_code == 200
            counted.append(len(queries))
        return counted

    first = make_task("t0", servers=servers)
    runs.execute(first, by=None)
    before = cost()
    for n in range(1, 8):
        runs.execute(make_task(f"t{n}", servers=servers), by=None)
    assert cost() == before


def test_stats_count_tasks(api: APIClient, make_task: Callable[..., Task]) -> None:
    make_task()
    assert api.get("/api/stats").json()["task_count"] == 1
