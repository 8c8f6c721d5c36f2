"""Pages of commands: who may do what, what forms refuse, groups and differences, queries that do not grow."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone, translation
from django.utils.translation import gettext

from infini.models import User
from infini.said import said
from inventory.models import Server
from scheduler import grouping, library, planning, runs
from scheduler.fanout import TOLD
from scheduler.models import Run, RunResult, SavedCommand, Task
from scheduler.selectors import durations, statistics
from tests.admin.conftest import count_queries, form_data, messages_of
from tests.admin.test_confirmation import word_in
from tests.admin.test_csv import read

pytestmark = pytest.mark.django_db

ADD = "/admin/scheduler/task/add/"
MakeTask = Callable[..., Task]


@pytest.fixture
def browser(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


@pytest.fixture
def reading(viewer: User) -> Client:
    client = Client()
    client.force_login(viewer)
    return client


def ended_run(task: Task, outputs: dict[str, tuple[str, str, int | None]]) -> Run:
    """A run that ended with (output, state, exit status) on each server."""
    run = runs.snapshot(task, trigger="person")  # type: ignore[arg-type]
    run.state, run.started_at, run.finished_at = "failed", timezone.now(), timezone.now()
    run.save()
    for name, (output, state, status) in outputs.items():
        columns = {
            "state": state,
            "exit_status": status,
            "output": output,
            "digest": sha256(output.encode()).hexdigest(),
        }
        RunResult.objects.create(run=run, server_name=name, started_at=timezone.now(), **columns)
    return run


# The form


def test_a_task_is_made_with_the_form(browser: Client, make_server: Callable[..., Server]) -> None:
    server = make_server("gpu-1")
    page = browser.get(ADD)
    assert b"Europe/Berlin" in page.content and b'data-url="/api/tasks/preview"' in page.content
    data = form_data(page) | {
        "name": "backup",
        "command": "tar c /etc |\r\n  wc -c",
        "environment": "A=1\r\nB=x=y",
        "on_servers": [server.pk],
        "schedule_type": "weekly",
        "weekday": "6",
        "time_of_day": "02:30",
        "timezone": "Europe/Berlin",
        "enabled": "on",
    }
    answer = browser.post(ADD, data)
    task = Task.objects.get()
    assert answer.status_code == 302 and answer["Location"] == f"/admin/scheduler/task/{task.pk}/"
    assert (task.command, task.environment) == ("tar c /etc |\n  wc -c", {"A": "1", "B": "x=y"})
    assert (task.weekday, task.time_of_day, task.timezone) == (6, datetime(1, 1, 1, 2, 30).time(), "Europe/Berlin")
    assert [target.server_name for target in task.targets.all()] == ["gpu-1"]
    shown = browser.get(answer["Location"]).content.decode()
    assert "Sunday at 02:30 (Europe/Berlin)" in shown and "Would run on 1 server now" in shown


@pytest.mark.parametrize(
    ("values", "field", "says"),
    [
        ({"schedule_type": "cron", "cron": "0 0 30 2 *"}, "cron", "never comes true"),
        ({"timezone": "Mars/Olympus"}, "timezone", "no time zone"),
        ({"on_servers": [], "selector": ""}, "on_servers", "Name a server"),
        ({"schedule_type": "once", "run_at": "2020-01-01T00:00"}, "run_at", "past"),
        ({"environment": "no equals sign"}, "environment", "Line 1"),
        ({"command": "x" * 70_000}, "command", "64 kB"),
        ({"schedule_type": "weekly", "weekday": ""}, "weekday", "Monday"),
    ],
)
def test_the_form_says_what_is_wrong_where(
    browser: Client, make_server: Callable[..., Server], values: dict[str, Any], field: str, says: str
) -> None:
    data = form_data(browser.get(ADD)) | {"name": "n", "command": "true", "on_servers": [make_server("gpu-1").pk]}
    page = browser.post(ADD, data | {"time_of_day": "03:00", "enabled": "on"} | values)
    assert page.status_code == 200 and not Task.objects.exists()
    errors = page.context["adminform"].form.errors
    assert says in " ".join(errors[field]), errors


def test_once_is_written_in_the_task_s_zone(browser: Client, make_server: Callable[..., Server]) -> None:
    data = form_data(browser.get(ADD)) | {"name": "n", "command": "true", "on_servers": [make_server("gpu-1").pk]}
    data |= {"schedule_type": "once", "run_at": "2099-07-01T12:00", "timezone": "America/New_York", "enabled": "on"}
    browser.post(ADD, data)
    task = Task.objects.get()
    assert task.run_at == task.next_run_at == datetime(2099, 7, 1, 16, tzinfo=UTC)
    form = browser.get(f"/admin/scheduler/task/{task.pk}/change/")
    assert b'value="2099-07-01T12:00"' in form.content
    browser.post(f"/admin/scheduler/task/{task.pk}/change/", form_data(form) | {"name": "other", "enabled": "on"})
    task.refresh_from_db()
    assert (task.name, task.run_at) == ("other", datetime(2099, 7, 1, 16, tzinfo=UTC))


def test_a_stale_form_is_refused_and_keeps_its_input(browser: Client, make_task: MakeTask) -> None:
    task = make_task()
    url = f"/admin/scheduler/task/{task.pk}/change/"
    data = form_data(browser.get(url))
    task.command = "other"
    planning.change_task(task, {"command"}, by=None)
    page = browser.post(url, data | {"name": "mine", "enabled": "on"})
    assert page.status_code == 200 and "was changed meanwhile" in page.content.decode()
    assert "mine" in page.content.decode() and Task.objects.get().name == "backup"


def test_a_saved_command_asks_for_its_parameters(browser: Client, make_server: Callable[..., Server]) -> None:
    library.load_examples()
    saved = SavedCommand.objects.get(key="disk-check")
    server = make_server("gpu-1")
    url = f"/admin/scheduler/run/add/?saved={saved.pk}"
    page = browser.get(url)
    assert "Limit in percent" in page.content.decode() and 'value="90"' in page.content.decode()
    data = form_data(page) | {"on_servers": [server.pk], "param_LIMIT_PERCENT": "75; rm -rf /"}
    answer = browser.post(url, data)
    run = Run.objects.get()
    assert answer["Location"] == f"/admin/scheduler/run/{run.pk}/"
    assert run.environment == {"LIMIT_PERCENT": "75; rm -rf /"} and run.command == saved.command.rstrip("\n")
    page = browser.get(f"{ADD}?saved={saved.pk}")
    assert "Limit in percent" in page.content.decode()
    nobody = browser.post(url, form_data(browser.get(url)) | {"on_servers": []})
    assert nobody.status_code == 200 and "No server is left" in nobody.content.decode()


def test_what_is_written_by_hand_does_not_get_around_what_a_parameter_allows(
    browser: Client, make_server: Callable[..., Server]
) -> None:
    level = {"name": "LEVEL", "label": "", "default": "low", "allowed": ["low", "high"], "required": False}
    saved = SavedCommand.objects.create(name="a", command="echo $LEVEL", parameters=[level])
    server = make_server("gpu-1")
    for url in (f"/admin/scheduler/run/add/?saved={saved.pk}", f"{ADD}?saved={saved.pk}"):
        data = form_data(browser.get(url)) | {"on_servers": [server.pk], "environment": "LEVEL=odd"}
        refused = browser.post(url, data)
        assert refused.status_code == 200 and "LEVEL must be one of: low, high." in refused.content.decode()
    assert not Run.objects.exists() and not Task.objects.exists()
    assert browser.post(url, data | {"environment": "MORE=1"}).status_code == 302
    assert Task.objects.get().environment == {"LEVEL": "low", "MORE": "1"}


# Verbs


def test_run_now_is_confirmed_and_posted(browser: Client, reading: Client, make_task: MakeTask) -> None:
    task = make_task()
    url = f"/admin/scheduler/task/{task.pk}/do/run/"
    assert browser.get(url).status_code == 405
    assert reading.post(url, {"confirmed": "1"}).status_code == 403
    assert "Run now" in browser.post(url).content.decode() and not Run.objects.exists()
    answer = browser.post(url, {"confirmed": "1"}, follow=True)
    assert "Begun: backup." in messages_of(answer) and Run.objects.get().by_name == "operator"
    again = browser.post(url, {"confirmed": "1"}, follow=True)
    assert "is running" in messages_of(again)


def test_the_switch(browser: Client, reading: Client, make_task: MakeTask) -> None:
    task = make_task()
    assert reading.post(f"/admin/scheduler/task/{task.pk}/do/disable/").status_code == 403
    browser.post(f"/admin/scheduler/task/{task.pk}/do/disable/")
    task.refresh_from_db()
    assert (task.enabled, task.next_run_at) == (False, None)
    assert 'aria-checked="false"' in browser.get("/admin/scheduler/task/").content.decode()
    browser.post(f"/admin/scheduler/task/{task.pk}/do/enable/")
    task.refresh_from_db()
    assert task.enabled and task.next_run_at


def test_viewers_read_and_change_nothing(reading: Client, make_task: MakeTask) -> None:
    task = make_task()
    run = ended_run(task, {"a": ("x\n", "failed", 1)})
    for path in ("task/", f"task/{task.pk}/", "run/", f"run/{run.pk}/", "savedcommand/"):
        assert reading.get(f"/admin/scheduler/{path}").status_code == 200, path
    assert reading.get(ADD).status_code == 403
    assert reading.get("/admin/scheduler/run/add/").status_code == 403
    page = reading.get(f"/admin/scheduler/run/{run.pk}/").content.decode()
    assert "do/retry" not in page and "do/cancel" not in page
    for verb in ("cancel", "retry"):
        assert reading.post(f"/admin/scheduler/run/{run.pk}/do/{verb}/", {"confirmed": "1"}).status_code == 403


# What goes to many servers


def on_paper(count: int, prefix: str = "gpu") -> list[Server]:
    access = {"host_ip": "127.0.0.1", "username": "root", "password": "x", "labels": {"fleet": "yes"}}
    return Server.objects.bulk_create(Server(name=f"{prefix}-{n:03}", **access) for n in range(count))


def test_from_fifty_servers_on_a_command_takes_their_number(browser: Client, make_task: MakeTask) -> None:
    servers = on_paper(50)
    few, many = make_task("few", servers=servers[:49]), make_task("many", servers=servers[:1], selector="fleet=yes")
    assert word_in(browser.post(f"/admin/scheduler/task/{few.pk}/do/run/")) is None
    url = f"/admin/scheduler/task/{many.pk}/do/run/"
    asked = browser.post(url)
    assert word_in(asked) == "50" and b"run on 50 servers, at once" in asked.content
    for answer in ({"confirmed": "1"}, {"confirmed": "1", "word": "49"}):
        assert browser.post(url, answer).status_code == 409 and not Run.objects.exists()
    listed = {"action": "run", "_selected_action": [few.pk, many.pk]}
    assert word_in(browser.post("/admin/scheduler/task/", listed)) == "99"
    browser.post("/admin/scheduler/task/", listed | {"confirmed": "1", "word": "50"})
    assert not Run.objects.exists()
    browser.post(url, {"confirmed": "1", "word": "50"})
    assert Run.objects.get().results.count() == 50


def test_retrying_fifty_failed_servers_takes_their_number(browser: Client, make_task: MakeTask) -> None:
    task = make_task("many", servers=on_paper(60))
    run = ended_run(task, {})
    states = ["failed"] * 40 + ["lost"] * 10 + ["success"] * 10
    for server, state in zip(Server.objects.order_by("pk"), states, strict=True):
        RunResult.objects.create(run=run, server=server, server_name=server.name, state=state)
    url = f"/admin/scheduler/run/{run.pk}/do/retry/"
    assert word_in(browser.post(url)) == "50"
    assert browser.post(url, {"confirmed": "1"}).status_code == 409 and Run.objects.count() == 1
    browser.post(url, {"confirmed": "1", "word": "50"})
    assert Run.objects.first().results.count() == 50  # type: ignore[union-attr]


def test_a_command_once_on_many_servers_is_asked_about_and_keeps_its_input(browser: Client) -> None:
    on_paper(62)
    url = "/admin/scheduler/run/add/"
    page = browser.get(url)
    assert b'data-url="/api/tasks/preview"' in page.content and b"js/task.js" in page.content
    assert b">Run now<" in page.content.replace(b"</span>", b">") and b"_addanother" not in page.content
    data = form_data(page) | {"name": "look", "command": "uptime\r\n", "environment": "A=1", "selector": "fleet=yes"}
    asked = browser.post(url, data)
    assert word_in(asked) == "62" and not Run.objects.exists()
    assert b'name="command" value="uptime' in asked.content and b'name="environment" value="A=1"' in asked.content
    dialog = browser.post(url, data, headers={"X-Dialog": "1"})
    assert word_in(dialog) == "62" and b"<html" not in dialog.content
    bad = browser.post(url, data | {"command": ""}, headers={"X-Dialog": "1"})
    few = browser.post(url, data | {"selector": "name=gpu-001"}, headers={"X-Dialog": "1"})
    assert (bad.status_code, few.status_code) == (204, 204) and not Run.objects.exists()
    assert browser.post(url, data | {"confirmed": "1", "word": "6"}).status_code == 409
    browser.post(url, data | {"confirmed": "1", "word": "62"})
    run = Run.objects.get()
    assert (run.name, run.command, run.environment, run.results.count()) == ("look", "uptime\n", {"A": "1"}, 62)
    browser.post(url, data | {"name": "few", "selector": "name=gpu-001"})
    assert Run.objects.get(name="few").results.count() == 1


def test_the_figures_of_a_task_and_its_chart(browser: Client, make_task: MakeTask) -> None:
    task = make_task("nightly")
    took = [("success", 10), ("failed", 20), ("success", 0), ("timed_out", 40)]
    for state, seconds in took:
        run = ended_run(task, {})
        Run.objects.filter(pk=run.pk).update(state=state, finished_at=run.started_at + timedelta(seconds=seconds))
    Run.objects.filter(pk=ended_run(task, {}).pk).update(state="missed", started_at=None, finished_at=None)

    figures = statistics(task)
    assert (figures["success_percent"], figures["mean_seconds"]) == (50, 17.5)  # what never ran counts for neither
    assert figures["by_state"] == {"success": 2, "failed": 1, "timed_out": 1, "missed": 1}
    assert [(bar.seconds, bar.height, bar.left) for bar in durations(task)] == [
        (10, 25.0, 0),
        (20, 50.0, 10),
        (0, 2.0, 20),  # what took no time is seen too
        (40, 100.0, 30),
    ]
    html = browser.get(f"/admin/scheduler/task/{task.pk}/").content.decode()
    bars = re.findall(r'<rect class="share-(\w+)" x="(\d+)" y="0" width="8" height="([\d.]+)"', html)
    assert bars == [("busy", "0", "25.0"), ("bad", "10", "50.0"), ("busy", "20", "2.0"), ("bad", "30", "100.0")]
    assert "Durations of the last 4 runs" in html


# A run's page


@pytest.fixture
def run(make_task: MakeTask) -> Run:
    outputs: dict[str, tuple[str, str, int | None]] = {f"ok-{n}": ("one\ntwo\nthree\n", "success", 0) for n in range(4)}
    outputs |= {f"odd-{n}": ("one\n2\nthree\n", "success", 0) for n in range(2)}
    outputs |= {"bad": ("No space left\n", "failed", 1), "gone": ("", "lost", None)}
    return ended_run(make_task(), outputs)


def test_servers_that_answered_alike_stand_together(run: Run) -> None:
    groups = grouping.groups_of(run)
    assert [(g.state, g.count, g.is_reference) for g in groups] == [
        ("failed", 1, False),
        ("lost", 1, False),
        ("success", 4, True),
        ("success", 2, False),
    ]
    reference, odd = (group.members(run).first() for group in groups[2:])
    signs = [(line.sign, line.text) for line in grouping.difference(reference, odd)]  # type: ignore[arg-type]
    assert signs[1:] == [(" ", "one"), ("-", "two"), ("+", "2"), (" ", "three")]


def test_a_group_is_opened_by_its_address(browser: Client, run: Run) -> None:
    url = f"/admin/scheduler/run/{run.pk}/"
    closed = browser.get(url).content.decode()
    assert "No space left" not in closed  # what is not open is not sent
    key = grouping.groups_of(run)[3].key
    page = browser.get(f"{url}?open={key}").content.decode()
    assert '<span class="added">+2</span>' in page and "odd-0, odd-1" in page and "against the largest group" in page
    result = run.results.get(server_name="bad")
    assert "No space left" in browser.get(f"{url}?server={result.pk}").content.decode()


def test_search_and_pages_of_fifty(browser: Client, make_task: MakeTask) -> None:
    run = ended_run(make_task(), {f"s-{n:03}": (f"{n}\n", "success", 0) for n in range(120)})
    url = f"/admin/scheduler/run/{run.pk}/"
    page = browser.get(url).content.decode()
    assert "s-049" in page and "s-050" not in page and "1–50 / 120" in page
    assert "s-050" in browser.get(f"{url}?page=2").content.decode()
    found = browser.get(f"{url}?q=119").context["lines"]
    assert [line["result"].server_name for line in found] == ["s-119"]
    assert not browser.get(f"{url}?state=failed").context["lines"]
    assert browser.get(f"{url}?page=zzz&server=xx&open=%00&state=nope").status_code == 200


def test_a_run_is_read_and_not_edited(browser: Client, reading: Client, run: Run) -> None:
    for client in (browser, reading):
        answer = client.get(f"/admin/scheduler/run/{run.pk}/change/")
        assert answer.status_code == 302 and answer["Location"] == f"/admin/scheduler/run/{run.pk}/"
        assert client.post(f"/admin/scheduler/run/{run.pk}/change/", {"command": "other"}).status_code == 403


def test_the_live_part_alone(browser: Client, run: Run) -> None:
    url = f"/admin/scheduler/run/{run.pk}/"
    whole, part = browser.get(url), browser.get(url, headers={"X-Live": "1"})
    assert b"<html" in whole.content and b"<html" not in part.content and b'id="live"' in part.content
    assert len(part.content) < len(whole.content) / 2


def test_markup_in_output_is_text(browser: Client, make_task: MakeTask) -> None:
    run = ended_run(make_task(), {"<i>a": ("<script>alert(1)</script>", "failed", 1)})
    key = grouping.groups_of(run)[0].key
    page = browser.get(f"/admin/scheduler/run/{run.pk}/?open={key}&q=<script>").content.decode()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_beside_output_that_is_no_text_the_errors_are_read(browser: Client, run: Run) -> None:
    result = run.results.get(server_name="bad")
    RunResult.objects.filter(pk=result.pk).update(raw=b"\0\1", output="\1", error="it went wrong")
    text = browser.get(f"/admin/scheduler/run/{run.pk}/?server={result.pk}").content.decode()
    assert "This is no text." in text and "it went wrong" in text and "Download the output of bad" in text


def test_downloads(browser: Client, reading: Client, run: Run) -> None:
    url = f"/admin/scheduler/run/{run.pk}/output/"
    text = b"".join(reading.get(url)).decode()
    assert text.startswith("==> ok-0 (success, exit 0)\none\ntwo\nthree\n") and "==> gone (lost)" in text
    bad = run.results.get(server_name="bad")
    RunResult.objects.filter(pk=bad.pk).update(raw=b"\0\xff")
    one = browser.get(f"{url}?result={bad.pk}")
    assert one.content == b"\0\xff" and one["Content-Type"] == "application/octet-stream"
    assert "This is no text." in browser.get(f"/admin/scheduler/run/{run.pk}/?server={bad.pk}").content.decode()
    assert browser.get(f"{url}?result=99999").status_code == 404
    assert Client().get(url).status_code == 302


# As files


def test_the_list_of_runs_as_it_is_filtered(reading: Client, make_task: MakeTask) -> None:
    run = ended_run(make_task(), {"a": ("x\n", "failed", 1), "b": ("", "success", 0)})
    ended_run(make_task("other"), {"a": ("x\n", "success", 0)})
    [row] = read(reading, f"/admin/scheduler/run/csv/?task__id__exact={run.task_id}&p=2")
    assert (row["id"], row["task_id"], row["name"], row["state"]) == (str(run.pk), str(run.task_id), "backup", "failed")
    assert (row["server_count"], row["ok_count"], row["bad_count"]) == ("2", "1", "1") and float(row["seconds"]) >= 0
    assert datetime.fromisoformat(row["started_at"]) and row["fire_at"] == ""
    assert {row["name"] for row in read(reading, "/admin/scheduler/task/csv/")} == {"backup", "other"}
    assert 'href="csv/' in reading.get("/admin/scheduler/run/").content.decode()


def test_the_results_of_a_run_as_they_are_searched(reading: Client, run: Run) -> None:
    url = f"/admin/scheduler/run/{run.pk}/results.csv"
    rows = read(reading, url)
    assert [row["server"] for row in rows][:4] == ["ok-0", "ok-1", "ok-2", "ok-3"] and len(rows) == 8
    [bad] = read(reading, f"{url}?state=failed&q=space")
    assert (bad["server"], bad["exit_status"], bad["output"]) == ("bad", "1", "No space left\n")
    assert (bad["truncated"], bad["error"]) == ("false", "")
    page = reading.get(f"/admin/scheduler/run/{run.pk}/?state=failed&q=space").content.decode()
    assert "results.csv?q=space&amp;state=failed" in page
    assert (
        Client().get(url).status_code == 302 and reading.get("/admin/scheduler/run/99/results.csv").status_code == 404
    )


# Cost


def test_lists_and_pages_cost_the_same_however_long(browser: Client, make_task: MakeTask) -> None:
    def outputs(count: int) -> dict[str, tuple[str, str, int | None]]:
        return {f"s-{n}": (f"{n}\n", "success", 0) for n in range(count)}

    run = ended_run(make_task("first"), outputs(2))
    library.load_examples()
    urls = ["task/", "run/", "savedcommand/", f"run/{run.pk}/", f"task/{run.task_id}/"]
    before = {url: count_queries(browser, f"/admin/scheduler/{url}") for url in urls}
    for n in range(6):
        task = make_task(f"t{n}")
        for _run in range(3):
            ended_run(task, outputs(5))
    for n in range(2, 30):
        RunResult.objects.create(run=run, server_name=f"s-{n}", state="success", digest=sha256(b"%d" % n).hexdigest())
    for _run in range(10):
        ended_run(run.task, outputs(3))  # type: ignore[arg-type]
    assert {url: count_queries(browser, f"/admin/scheduler/{url}") for url in urls} == before


def test_the_overview_names_what_failed(browser: Client, make_task: MakeTask) -> None:
    ended_run(make_task(), {"a": ("", "failed", 1)})
    page = browser.get("/admin/").content.decode()
    assert "Runs open" in page and "backup" in page


@pytest.mark.parametrize("told", TOLD.values())
def test_what_went_badly_is_said_in_the_readers_language(told: str) -> None:
    stored = told % {"failed": 2, "timed_out": 3, "lost": 1}
    with translation.override("zh-hans"):
        assert said(stored) == gettext(told) % {"failed": 2, "timed_out": 3, "lost": 1} != stored
