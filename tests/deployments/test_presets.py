"""Presets: what they hold, how the API offers and takes them, and the ones that can be run here really run."""

import dataclasses
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from rest_framework.test import APIClient

from deployments import lifecycle
from deployments.commands import deploy_body, fill
from deployments.models import Instance, Operation, Revision, Service
from deployments.presets import NEVER_RUN, Preset, preset, presets
from deployments.specs import check_spec
from infini.errors import Invalid, NotFound
from inventory.models import Server
from tests.deployments.conftest import status_of, turn

pytestmark = pytest.mark.django_db(transaction=True)
VALUES = {"port": "10001", "host": "10.0.0.7", "service": "my chat; rm -rf /", "model": "Qwen/Qwen 2'5"}
EXPECTED = {"vllm", "sglang", "llama-cpp", "ollama", "tgi", "lmdeploy", "mindie", "xinference", "demo"}
CONTAINERS = [one for one in presets() if one.key.endswith("-container")]


def test_every_engine_is_there() -> None:
    assert {one.key for one in presets()} == EXPECTED | {f"{key}-container" for key in ("vllm", "tgi", "mindie")}


@pytest.mark.parametrize("one", presets(), ids=lambda one: one.key)
def test_each_is_whole_and_fills(one: Preset) -> None:
    check_spec({"command": one.command, "stop_command": one.stop_command, "probes": one.probes, "port": one.port})
    filled = fill(one.command, VALUES)
    assert not re.search(r"\{\w+\}", filled)
    assert "{port}" in one.command or one.port
    assert "'Qwen/Qwen 2'\"'\"'5'" in filled or "{model}" not in one.command
    assert one.probes["type"] == "http" and one.probes["path"].startswith("/")
    assert one.note.endswith(".") and one.source and one.name
    assert one.evidence == ("run by the tests" if one.key == "demo" else NEVER_RUN)


def test_a_preset_cannot_be_changed_by_who_takes_it() -> None:
    preset("vllm").fills()["probes"]["path"] = "/other"
    assert preset("vllm").probes["path"] == "/health"
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("vllm").name = "x"  # type: ignore[misc]
    with pytest.raises(NotFound, match="there are vllm, "):
        preset("vlm")


@pytest.mark.parametrize("one", CONTAINERS, ids=lambda one: one.key)
def test_a_container_is_run_and_removed_by_one_name(
    one: Preset, tmp_path: Path, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    """On a real agent, with a docker that writes down what it was asked; the name holds nothing it would refuse."""
    docker, told = tmp_path / "bin" / "docker", tmp_path / "told"
    docker.parent.mkdir()
    script = f'#!/bin/sh\nprintf "%s\\037" "$@" >> {told}\necho >> {told}\n[ "$1" = run ] && exec sleep 300\nexit 0\n'
    docker.write_text(script)
    docker.chmod(0o755)
    service = make_service(
        f'PATH="{docker.parent}:$PATH"\n{one.command}',
        make_server("one"),
        name='My "chat"; 模型',
        stop_command=f'PATH="{docker.parent}:$PATH"\n{one.stop_command}',
        probes={"type": "none"},
        port=one.port,
    )
    turn(lifecycle.deploy(service, by=None))
    assert status_of(service) == "deployed"
    turn(lifecycle.stop(service, by=None))

    before, run, stopped = [line.split("\037")[:-1] for line in told.read_text().splitlines()]
    name = f"infini-{Instance.objects.get().key}"
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name)
    assert before == stopped == ["rm", "-f", name]
    assert run[run.index("--name") + 1] == name
    assert 'My "chat"; 模型' in run or "--model" not in run and "--model-id" not in run


def test_the_demo_really_runs_and_answers(api: APIClient, server: Server) -> None:
    made = api.post("/api/services", {"name": "my demo", "server_ids": [server.pk], "preset": "demo"}, format="json")
    assert made.status_code == 201, made.content
    turn(Operation.objects.get())

    now = api.get(f"/api/services/{made.json()['id']}").json()
    assert (now["deploy_status"], now["ready"]) == ("deployed", "1/1")
    with urllib.request.urlopen(f"http://127.0.0.1:{now['instances'][0]['port']}/v1/models") as answer:
        assert b"my demo" in answer.read()
    body = deploy_body(Instance.objects.get(), Service.objects.get())
    assert body["probes"] == preset("demo").probes | {"host": "127.0.0.1"}


def test_an_operation_waits_as_long_as_the_check_it_waits_for(
    server: Server, make_service: Callable[..., Service], settings: object
) -> None:
    settings.DEPLOY_DEADLINE_SECONDS = 10  # type: ignore[attr-defined]
    service = make_service("sleep 300", server, probes={"type": "none", "startup_seconds": 7200})
    for verb, least in ((lifecycle.deploy, 7260), (lifecycle.stop, 10)):
        operation = verb(service, by=None)
        assert (operation.deadline_at - operation.created_at).total_seconds() == pytest.approx(least, abs=2)
        turn(operation)


# The API


@pytest.mark.parametrize("path", ["/api/presets", "/api/presets/"])
def test_they_are_listed_as_a_plain_array(path: str, api_as: Callable, viewer: object) -> None:
    listed = api_as(viewer).get(path).json()
    assert [one["key"] for one in listed] == [one.key for one in presets()]
    assert listed[0]["deploy_command"] == preset("vllm").command and listed[0]["probes"]["path"] == "/health"
    assert not next(one for one in listed if one["key"] == "mindie")["verified"]


def test_a_preset_fills_what_the_request_does_not_give(api: APIClient) -> None:
    one = preset("tgi-container")
    made = api.post("/api/services", {"name": "s", "preset": one.key}, format="json").json()
    assert (made["deploy_command"], made["stop_command"]) == (one.command, one.stop_command)
    assert (made["probes"], made["path_prefix"], made["port"]) == (one.probes, "/v1", None)
    assert "preset" not in made

    own = {"deploy_command": "mine {port}", "stop_command": "", "probes": {}, "path_prefix": "", "port": 10500}
    made = api.post("/api/services", {"name": "t", "preset": one.key, **own}, format="json").json()
    assert {name: made[name] for name in own} == own

    assert api.post("/api/services", {"name": "u", "preset": "mindie"}, format="json").json()["port"] == 1025
    assert api.post("/api/services", {"name": "v", "preset": ""}, format="json").json()["deploy_command"] == ""


def test_an_unknown_preset_is_400(api: APIClient) -> None:
    answer = api.post("/api/services", {"name": "s", "preset": "vlm"}, format="json")
    assert answer.status_code == 400 and "there are vllm" in answer.json()["error"]["fields"]["preset"][0]
    assert not Service.objects.exists()


def test_only_a_new_service_starts_from_one(api: APIClient) -> None:
    made = api.post("/api/services", {"name": "s", "preset": "vllm"}, format="json").json()
    answer = api.patch(f"/api/services/{made['id']}", {"preset": "tgi"}, format="json")
    assert answer.status_code == 400 and "preset" in answer.json()["error"]["fields"]
    assert Revision.objects.count() == 1


# Health checks


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "https"),
        ("type", ""),
        ("path", "health"),
        ("path", "/with space"),
        ("path", 5),
        ("expected_status", 99),
        ("expected_status", "200"),
        ("expected_status", True),
        ("startup_seconds", 0),
        ("startup_seconds", 604801),
        ("period_seconds", 3601),
        ("timeout_seconds", "1"),
        ("failure_threshold", 1.5),
        ("host", "localhost"),
        ("host", "fe80::1%eth0"),
        ("url", "/health"),
    ],
)
def test_a_probe_the_agent_would_refuse_is_said_by_its_name(name: str, value: object, api: APIClient) -> None:
    body = {"name": "s", "deploy_command": "x {port}", "probes": {name: value}}
    answer = api.post("/api/services", body, format="json")
    assert answer.status_code == 400
    [sentence] = answer.json()["error"]["fields"]["probes"]
    assert sentence.startswith(f"{name}: ") and sentence.endswith(".")
    assert not Service.objects.exists()


def test_every_field_of_the_protocol_is_taken(api: APIClient) -> None:
    probes = {"type": "http", "path": "/up?x=1", "expected_status": 204, "host": "::1", "startup_seconds": 0.5}
    probes |= {"period_seconds": 2, "timeout_seconds": 3.5, "failure_threshold": 4}
    made = api.post("/api/services", {"name": "s", "deploy_command": "x {port}", "probes": probes}, format="json")
    assert made.status_code == 201 and made.json()["probes"] == probes
    page = (Path(__file__).parents[2] / "docs" / "agent-protocol.md").read_text()
    assert all(f"| `{name}` |" in page for name in probes)


def test_a_check_over_the_network_needs_a_port(api: APIClient) -> None:
    body = {"name": "s", "deploy_command": "serve", "probes": {"type": "http"}}
    answer = api.post("/api/services", body, format="json")
    assert answer.status_code == 400 and "needs a port" in answer.json()["error"]["fields"]["probes"][0]
    assert api.post("/api/services", body | {"port": 8000}, format="json").status_code == 201


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(Invalid, match="object of fields"):
        check_spec({"probes": ["http"]})
