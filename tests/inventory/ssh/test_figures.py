"""Figures of a server without an agent: from a real sshd, and from what vendors' tools are known to print."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from django.test import Client
from rest_framework.test import APIClient

from infini.models import User
from inventory import resources
from inventory.models import Server
from inventory.ssh import figures
from inventory.ssh.access import SshAccess
from inventory.ssh.figures import read
from tests.real_sshd import FakeServer, RealSshd, refused_port, says_nothing

SAMPLES = Path(__file__).parents[2] / "agent" / "device_samples"


def sample(name: str) -> str:
    """What a tool printed, without the line that tells of the sample."""
    return "\n".join(line for line in (SAMPLES / name).read_text().splitlines() if not line.startswith("# "))


def test_figures_are_those_of_the_machine(access: SshAccess) -> None:
    found = figures.measure(access, 10)
    assert found.errors == {} == found.device_errors and found.devices == []
    values = found.values
    assert abs(values["memory_total_bytes"] - psutil.virtual_memory().total) < 1024 * 1024
    assert abs(values["memory_percent"] - psutil.virtual_memory().percent) < 10
    assert abs(values["disk_percent"] - psutil.disk_usage("/").percent) < 2
    assert values["cpu_count"] == psutil.cpu_count() and 0 <= values["cpu_percent"] <= 100


STAT = "=== before\ncpu  100 0 100 800 0 0 0 0 0 0\n=== after\ncpu  150 0 110 830 10 0 0 0 0 0\n"
MEMORY = "=== memory\nMemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\n"
DISK = "=== disk\nFilesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda 1000 300 600 34% /\n"


def test_the_processors_figure_is_a_rate_over_the_interval() -> None:
    found = read(MEMORY + DISK + "=== cores\n8\n" + STAT + "=== all\n")
    assert (found.values["cpu_percent"], found.values["memory_percent"], found.values["disk_percent"]) == (
        60.0,
        75.0,
        33.3,
    )
    assert found.values["cpu_count"] == 8 and not found.errors


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("", {"cpu_percent", "memory_percent", "disk_percent", "accelerators"}),
        ("garbage\n\x00\xff ===\n=== \n", {"cpu_percent", "memory_percent", "disk_percent", "accelerators"}),
        (MEMORY + DISK + "=== all\n", {"cpu_percent"}),
        (MEMORY + STAT + "=== all\n", {"disk_percent"}),
        (DISK + STAT + "=== memory\nMemTotal: 0 kB\nMemAvailable: 0 kB\n=== all\n", {"memory_percent"}),
        (MEMORY + DISK + STAT.replace("150 0 110 830 10", "100 0 100 800 0") + "=== all\n", {"cpu_percent"}),
        (MEMORY + DISK + STAT, {"accelerators"}),
    ],
)
def test_each_figure_fails_alone_with_a_sentence(text: str, missing: set[str]) -> None:
    found = read(text)
    assert set(found.errors) == missing
    assert all(reason.endswith(".") for reason in found.errors.values())
    for name in missing - {"accelerators"}:
        assert found.values[name] is None


def tool(name: str, text: str, status: int = 0) -> str:
    return f"{MEMORY}{DISK}{STAT}=== {name}\n{text}\n=== end {name} {status}\n=== all\n"


def test_nvidia_cards_and_what_their_tool_does_not_tell() -> None:
    line = "0, GPU-6c1f, NVIDIA H100 80GB HBM3, 81559, 19818, 100, 59, 631.95"
    odd = "1, GPU-2b6d, NVIDIA A100-SXM4-40GB, 40960, 1234, [Unknown Error], 35, [N/A]"
    found = read(tool("nvidia-smi", f"{line}\n{odd}"))
    first, second = found.devices
    assert first == {
        "vendor": "nvidia",
        "index": 0,
        "uuid": "GPU-6c1f",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 81559 * 2**20,
        "memory_used_bytes": 19818 * 2**20,
        "utilization_percent": 100.0,
        "temperature_celsius": 59.0,
        "power_watts": 631.95,
        "verified": False,
    }
    assert second["utilization_percent"] is None is second["power_watts"] and second["temperature_celsius"] == 35
    assert not found.errors


def test_ascend_chips() -> None:
    found = read(tool("npu-smi", sample("ascend/table-910b-busy.txt")))
    assert [(d["index"], d["name"], d["utilization_percent"], d["power_watts"]) for d in found.devices] == [
        (0, "Ascend 910B2C", 74.0, 188.6),
        (1, "Ascend 910B2C", 0.0, 99.6),
    ]
    assert found.devices[0]["memory_used_bytes"] == 20701 * 2**20
    assert found.devices[0]["memory_total_bytes"] == 65536 * 2**20
    assert found.devices[0]["uuid"] == "ascend-0000:5a:00.0-0"


@pytest.mark.parametrize("name", ["table-310p-idle", "table-310b-alarm", "table-a3"])
def test_other_tables_of_ascend_are_understood(name: str) -> None:
    found = read(tool("npu-smi", sample(f"ascend/{name}.txt")))
    assert found.devices and not found.errors
    assert len({d["uuid"] for d in found.devices}) == len(found.devices)


@pytest.mark.parametrize(
    ("text", "status", "what"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "failed: NVIDIA-SMI has"),
        ("", 124, "did not answer within 4 s"),
        ("", 1, "failed: it says nothing"),
        ("what is this", 0, "not understood"),
    ],
)
def test_a_vendors_tool_that_fails_says_so_and_harms_no_other_figure(text: str, status: int, what: str) -> None:
    found = read(tool("nvidia-smi", text, status))
    assert what in found.errors["accelerators"] and what in found.device_errors["nvidia"]
    assert found.values["memory_percent"] == 75.0 and found.devices == []


def test_a_card_less_driver_is_no_error() -> None:
    assert read(tool("nvidia-smi", "No devices were found")).errors == {}


# Over the API and on the page

FAKE_TOOL = """#!/bin/sh
echo "0, GPU-6c1f, NVIDIA H100 80GB HBM3, 81559, 19818, 100, 59, 631.95"
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[RealSshd]:
    """A server with a vendor's tool that answers as the real one does."""
    (tmp_path / "nvidia-smi").write_text(FAKE_TOOL)
    (tmp_path / "nvidia-smi").chmod(0o755)
    with RealSshd(f"SetEnv HOME={tmp_path}") as server:
        (tmp_path / ".bash_profile").write_text(f"export PATH=$PATH:{tmp_path}\n")
        yield server


def make(name: str, sshd: RealSshd, **columns: object) -> Server:
    values = {"host_ip": sshd.host, "port": sshd.port, "username": sshd.username, "private_key": sshd.private_key}
    return Server.objects.create(name=name, **{**values, "host_key": sshd.host_key, **columns})


@pytest.mark.django_db(transaction=True)
def test_resources_of_servers_without_agents(
    machine: RealSshd,
    sshd: RealSshd,
    api: APIClient,
    operator: User,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resources, "ANSWER_WITHIN_SECONDS", 4.0)
    good, plain = make("good", machine), make("plain", sshd)
    unknown = make("unknown", sshd, host_key="")
    refused = make("refused", sshd, port=refused_port())
    with FakeServer(says_nothing) as silent:
        hangs = make("hangs", sshd, port=silent.port)
        began = time.monotonic()
        asked = api.post("/api/servers/resources", {}, format="json", headers={"Accept-Language": "zh-hans"})
        answers = {a["server_id"]: a for a in asked.json()}
        assert time.monotonic() - began < 6
    assert {answer["source"] for answer in answers.values()} == {"ssh"}
    one = answers[good.pk]
    assert one["errors"] == {} and one["observed_at"] and 0 <= one["cpu_percent"] <= 100
    assert [a["name"] for a in one["accelerators"]] == ["NVIDIA H100 80GB HBM3"]
    assert answers[plain.pk]["accelerators"] == [] and answers[plain.pk]["errors"] == {}
    for server, what, stored in (
        (unknown, "尚未确认", "not confirmed"),
        (refused, "拒绝连接", "refuses the connection"),
        (hangs, "4 秒", "within 4 s"),
    ):
        answer = answers[server.pk]
        server.refresh_from_db()
        assert stored in server.figures["ssh_error"], "whoever asked, it is said in the language of who reads it"
        assert answer["cpu_percent"] is None is answer["observed_at"]
        assert all(what in answer["errors"][name] for name in ("cpu_percent", "disk_percent", "accelerators"))

    client.force_login(operator)
    page = client.get(f"/admin/inventory/server/{good.pk}/").content.decode()
    assert "SSH, " in page and "No agent" in page and "NVIDIA H100 80GB HBM3" in page
    assert "is not confirmed yet" in client.get(f"/admin/inventory/server/{unknown.pk}/").content.decode()
    assert client.get("/admin/inventory/server/").content.decode().count(">No agent</span>") == 5


@pytest.mark.django_db(transaction=True)
def test_measuring_from_the_page_tells_what_came_of_it(sshd: RealSshd, operator: User, client: Client) -> None:
    server = make("plain", sshd)
    client.force_login(operator)
    answer = client.post(f"/admin/inventory/server/{server.pk}/do/resources/", follow=True)
    assert "Measured plain." in answer.content.decode()
    mute = Server.objects.create(name="mute", host_ip="127.0.0.1", agent_port=refused_port(), agent_token="t")
    chosen = {"action": "resources", "_selected_action": [server.pk, mute.pk]}
    answer = client.post("/admin/inventory/server/", chosen, follow=True)
    assert "Measured 1. mute: The agent on mute cannot be reached" in answer.content.decode()
    mute.delete()
    Server.objects.update(port=refused_port())
    answer = client.post(f"/admin/inventory/server/{server.pk}/do/resources/", follow=True)
    page = answer.content.decode()
    assert page.count("refuses the connection") >= 2 and "SSH, " in page, "what was measured before stays, dated"


@pytest.mark.django_db(transaction=True)
def test_figures_over_ssh_never_replace_an_agents(sshd: RealSshd, api: APIClient) -> None:
    server = make("both", sshd, agent_token="t", agent_port=refused_port())
    answer = api.get(f"/api/servers/{server.pk}/resources").json()
    assert answer["source"] == "agent" and answer["errors"]
    server.refresh_from_db()
    assert server.figures == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("count", [40])
def test_many_servers_are_measured_in_the_time_of_one(
    sshd: RealSshd, api: APIClient, count: int, access_to: Callable[..., SshAccess]
) -> None:
    for number in range(count):
        make(f"server-{number}", sshd)
    began = time.monotonic()
    answers = api.post("/api/servers/resources", {}, format="json").json()
    took = time.monotonic() - began
    assert [a["errors"] for a in answers] == [{}] * count and took < 9
