"""The form of a service: presets without scripts, the health check as fields, variables one per line."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from deployments.models import Revision, Service
from deployments.presets import preset
from inventory.models import Server
from tests.admin.conftest import form_data
from tests.admin.test_forms import ADD, CANARY, change_url, errors_of


@pytest.fixture
def blank(make_server: Callable[..., Server]) -> dict[str, Any]:
    return {"name": "new", "placed_on": [make_server().pk], "deploy_command": "", "path_prefix": "/v1"}


# Presets


def test_without_scripts_the_server_fills_what_is_empty(operating: Client, blank: dict[str, Any]) -> None:
    one = preset("vllm-container")
    response = operating.post(ADD, {**blank, "preset": one.key})
    assert response.status_code == 302, errors_of(response)
    revision = Revision.objects.get()
    assert (revision.command, revision.stop_command, revision.port) == (one.command, one.stop_command, None)
    assert revision.probes == one.probes and Service.objects.get().path_prefix == "/v1"


def test_what_was_entered_stays(operating: Client, blank: dict[str, Any]) -> None:
    mine = {"deploy_command": "mine {port}", "probe_type": "tcp", "port": "1026", "path_prefix": ""}
    operating.post(ADD, {**blank, "preset": "mindie-container", **mine})
    revision = Revision.objects.get()
    assert (revision.command, revision.port, revision.probes) == ("mine {port}", 1026, {"type": "tcp"})
    assert revision.stop_command == preset("mindie-container").stop_command
    assert Service.objects.get().path_prefix == ""


def test_a_change_fills_only_what_is_empty_and_keeps_the_rest(
    operating: Client, make_service: Callable[..., Service]
) -> None:
    service = make_service(command="mine {port}", probes={"period_seconds": 2})
    data = form_data(operating.get(change_url(service)))
    response = operating.post(change_url(service), {**data, "preset": "vllm-container"})
    assert response.status_code == 302, errors_of(response)
    revision = service.revisions.first()
    assert revision.number == 2 and revision.command == "mine {port}"
    assert revision.stop_command == preset("vllm-container").stop_command
    assert revision.probes == preset("vllm").probes | {"period_seconds": 2}


def test_a_refused_form_keeps_choice_and_input(operating: Client, blank: dict[str, Any]) -> None:
    response = operating.post(ADD, {**blank, "name": "", "preset": "tgi", "env": "A=b=c"})
    assert set(errors_of(response)) == {"name"}
    html = response.content.decode()
    assert '<option value="tgi" selected>' in html and "A=b=c" in html
    assert "preset" in errors_of(operating.post(ADD, {**blank, "preset": "nonsense"}))


def test_the_page_carries_the_presets_and_no_script_of_its_own(operating: Client, blank: dict[str, Any]) -> None:
    html = operating.get(ADD).content.decode()
    text = html.split('<script id="presets" type="application/json">')[1].split("</script>")[0]
    told = json.loads(text)
    assert told["vllm"]["fields"]["deploy_command"] == preset("vllm").command
    assert told["mindie"]["sure"] is False and told["mindie"]["fields"]["probe_path"] == "/v1/models"
    assert "js/deploy.js" in html


def test_saving_unchanged_makes_no_revision(operating: Client, make_service: Callable[..., Service]) -> None:
    service = make_service(env={"A": "x=y", "B": "two\nlines"}, probes=preset("vllm").probes | {"timeout_seconds": 2})
    operating.post(change_url(service), form_data(operating.get(change_url(service))))
    assert service.revisions.count() == 1


# The health check


def test_a_health_check_becomes_probes_and_comes_back(operating: Client, blank: dict[str, Any]) -> None:
    check = {"probe_type": "http", "probe_path": "/up", "probe_expected_status": "204", "probe_startup_seconds": "0.5"}
    operating.post(ADD, {**blank, "deploy_command": "x {port}", **check})
    probes = {"type": "http", "path": "/up", "expected_status": 204, "startup_seconds": 0.5}
    assert Revision.objects.get().probes == probes
    service = Service.objects.get()
    data = form_data(operating.get(change_url(service)))
    assert (data["probe_type"], data["probe_path"], data["probe_startup_seconds"]) == ("http", "/up", 0.5)
    operating.post(change_url(service), {**data, "probe_startup_seconds": "7200", "probe_expected_status": ""})
    assert service.revisions.first().probes == {"type": "http", "path": "/up", "startup_seconds": 7200}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probe_type", "https"),
        ("probe_path", "up"),
        ("probe_path", "/a b"),
        ("probe_expected_status", "20"),
        ("probe_startup_seconds", "0"),
        ("probe_startup_seconds", "999999"),
    ],
)
def test_a_wrong_check_is_said_at_its_field(field: str, value: str, operating: Client, blank: dict[str, Any]) -> None:
    response = operating.post(ADD, {**blank, "deploy_command": "x {port}", field: value})
    assert list(errors_of(response)) == [field]
    assert not Service.objects.exists()


def test_a_check_without_a_port_is_said_at_its_kind(operating: Client, blank: dict[str, Any]) -> None:
    response = operating.post(ADD, {**blank, "deploy_command": "x", "probe_type": "http"})
    assert "needs a port" in errors_of(response)["probe_type"][0]


# Environment variables


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("A=1\r\nB=x=y==\r\n\r\n  \r\n C =  two words \r\n", {"A": "1", "B": "x=y==", "C": "  two words "}),
        ("EMPTY=", {"EMPTY": ""}),
        ('Q="as it stands" # so', {"Q": '"as it stands" # so'}),
        ('{"A": "1"}', {"A": "1"}),
        ("", {}),
    ],
)
def test_variables_are_read_line_by_line(text: str, env: dict, operating: Client, blank: dict[str, Any]) -> None:
    response = operating.post(ADD, {**blank, "deploy_command": "x", "env": text, "secret_env": text})
    assert response.status_code == 302, errors_of(response)
    revision = Revision.objects.get()
    assert revision.env == env and json.loads(revision.secret_env or "{}") == env


def test_they_come_back_as_lines_and_values_with_line_breaks_as_json(
    operating: Client, make_service: Callable[..., Service]
) -> None:
    shown = form_data(operating.get(change_url(make_service("a", env={"B": "x=y", "A": ""}))))["env"]
    assert sorted(shown.splitlines()) == ["A=", "B=x=y"]
    shown = form_data(operating.get(change_url(make_service("b", env={"B": "x\ny"}))))["env"]
    assert json.loads(shown) == {"B": "x\ny"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"A=1\n{CANARY}", "Line 2 has no ="),
        (f"1A={CANARY}", "Line 1: a name has"),
        (f"A-{CANARY}=1", "Line 1: a name has"),
        (f"={CANARY}", "Line 1: a name has"),
        (f"A=1\n\nA={CANARY}", "Line 3 gives a name for the second time"),
        (f'{{"A": "{CANARY}"', "no JSON"),
        ("[1]", "object of names and texts"),
    ],
)
def test_bad_lines_are_said_by_number_and_never_shown(
    text: str, said: str, operating: Client, blank: dict[str, Any]
) -> None:
    response = operating.post(ADD, {**blank, "deploy_command": "x", "secret_env": text})
    assert said in errors_of(response)["secret_env"][0]
    assert CANARY not in response.content.decode()
    assert said in errors_of(operating.post(ADD, {**blank, "deploy_command": "x", "env": text}))["env"][0]
    assert not Service.objects.exists()


def test_who_may_only_look_sees_no_form_to_fill(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    response = viewing.get(change_url(service))
    assert response.status_code == 302 and response["Location"].endswith(f"/service/{service.pk}/")
