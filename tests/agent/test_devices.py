"""The accelerator readers: each vendor's output, odd cases, and tools that misbehave. The tools are scripts."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.real_agent import AGENT_FILE, RealAgent, wait_until

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("infini_agent", AGENT_FILE)
assert _spec and _spec.loader
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)
MIB = 1024**2
FIGURES = ("memory_total_bytes", "memory_used_bytes", "utilization_percent", "temperature_celsius", "power_watts")


def sample(name: str) -> str:
    """Return a sample's text without the line that tells where it comes from."""
    return (HERE / "device_samples" / (name + ".txt")).read_text().partition("\n")[2]


def columns(name: str, *wanted: str) -> str:
    """Return a CSV sample as the tool prints it for other columns than those of the sample."""
    first = (HERE / "device_samples" / (name + ".txt")).read_text().partition("\n")[0]
    asked = re.search(r"(?:--query-gpu=|-Q )(\S+)", first).group(1).split(",")
    rows = [dict(zip(asked, line.split(", "), strict=True)) for line in sample(name).splitlines()]
    return "".join(", ".join(row.get(key, "[N/A]") for key in wanted) + "\n" for row in rows)


class Bench:
    """A folder that stands for PATH, with scripts for tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = 0

    def script(self, name: str, body: str) -> None:
        file = self.folder / name
        file.write_text("#!/bin/sh\n" + body)
        file.chmod(0o755)

    def tool(self, name: str, answers: dict[str, str | tuple[str, int]]) -> None:
        """Make a tool that answers by the first shell pattern that its arguments match."""
        asked = shlex.quote(str(self.folder / (name + ".asked")))
        body = f'echo "$*" >> {asked}\ncase "$*" in\n'
        for pattern, answer in answers.items():
            text, status = answer if isinstance(answer, tuple) else (answer, 0)
            self.made += 1
            file = self.folder / f"answer{self.made}"
            file.write_text(text)
            shown = re.sub(r"([^*]+)", lambda match: shlex.quote(match.group(1)), pattern) or '""'
            body += f"{shown}) cat {shlex.quote(str(file))}; exit {status};;\n"
        self.script(name, body + "esac\necho unknown option >&2\nexit 2\n")

    def asked(self, name: str) -> list[str]:
        return (self.folder / (name + ".asked")).read_text().splitlines()

    def read(self, timeout: float = 5.0) -> tuple[list[dict], dict[str, str]]:
        return devices.read_devices(timeout, str(self.folder))


@pytest.fixture(autouse=True)
def pci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what is in this machine out of the tests."""
    folder = tmp_path / "pci"
    folder.mkdir()
    monkeypatch.setattr(devices, "PCI_FOLDER", str(folder))
    monkeypatch.setattr(devices, "INTEL_MEMORY", {})
    return folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "bin"
    folder.mkdir()
    return Bench(folder)


def figures(device: dict) -> list:
    """Return the figures in the order of FIGURES, memory in MiB."""
    values = [device[name] for name in FIGURES]
    return [None if value is None else value // MIB for value in values[:2]] + values[2:]


def one(bench: Bench) -> dict:
    found, errors = bench.read()
    assert errors == {}
    assert len(found) == 1
    return found[0]


def pids(device: dict) -> dict | None:
    listed = device["processes"]
    return None if listed is None else {entry["pid"]: entry["memory_used_bytes"] for entry in listed}


# --- NVIDIA ---


def nvidia(bench: Bench, query: str, apps: str = "nvidia/compute-apps-idle", **more: str) -> None:
    bench.tool(
        "nvidia-smi",
        {
            "--query-gpu=index*": columns(query, *devices.NVIDIA_FIELDS.values()),
            "--query-compute-apps*": sample(apps),
            "--query-gpu=uuid,gpu_recovery_action*": more.get("advice", sample("nvidia/fail-unknown-field")),
            "-L": more.get("listed", ""),
            "-q -x": more.get("xml", ""),
        },
    )


def test_nvidia_normal(bench: Bench) -> None:
    nvidia(bench, "nvidia/query-gpu-normal", "nvidia/compute-apps-busy")
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [[81559, 19818, 100.0, 59.0, 631.95], [81559, 0, 0.0, 41.0, 69.85]]
    assert found[0] == {
        **dict.fromkeys(FIGURES, None),
        **{name: found[0][name] for name in FIGURES},
        "vendor": "nvidia",
        "index": 0,
        "uuid": "GPU-6c1f0a52-3b7e-4d19-9a60-51e2c7d80b34",
        "parent_uuid": None,
        "bus_id": "0000:1b:00.0",
        "name": "NVIDIA H100 80GB HBM3",
        "health": "ok",
        "health_reason": "",
        "processes": [
            {"pid": 11327, "memory_used_bytes": 2566 * MIB},
            {"pid": 11345, "memory_used_bytes": 15690 * MIB},
        ],
        "slots": 1,
        "visible_variable": "CUDA_VISIBLE_DEVICES",
        "visible_value": "0",
        "visible_also": [],
        "environment": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        "verified": True,
    }
    assert pids(found[1]) == {20037: None}
    assert found[1]["visible_value"] == "1"


@pytest.mark.parametrize(
    ("name", "expected", "health"),
    [
        ("geforce-idle", [8192, 211, 0.0, 33.0, 39.17], None),
        ("idle-persistence-off", [46068, 0, 100.0, 63.0, 144.97], "ok"),
        ("odd-cells", [40960, 1234, None, 35.0, None], None),
        ("unified-memory", [None, None, 0.0, 38.0, 4.72], None),
    ],
)
def test_nvidia_cells(bench: Bench, name: str, expected: list, health: str | None) -> None:
    nvidia(bench, "nvidia/query-gpu-" + name)
    found = one(bench)
    assert (figures(found), found["health"], found["processes"]) == (expected, health, [])


def test_nvidia_lost_card_beside_a_good_one(bench: Bench) -> None:
    nvidia(bench, "nvidia/query-gpu-one-lost")
    good, lost = bench.read()[0]
    assert good["health"] == "ok"
    assert figures(lost) == [None] * 5
    assert (lost["health"], lost["health_reason"]) == ("unhealthy", "nvidia-smi says: GPU is lost.")


@pytest.mark.parametrize(("action", "health"), [("None", "ok"), ("Drain and Reset", "unhealthy"), ("[N/A]", None)])
def test_nvidia_recovery_action(bench: Bench, action: str, health: str | None) -> None:
    advice = f"GPU-41a7f93c-05de-4b62-97c3-e8d1205b6fa9, {action}\n"
    nvidia(bench, "nvidia/query-gpu-geforce-idle", advice=advice)
    assert one(bench)["health"] == health


def test_nvidia_ecc_errors(bench: Bench) -> None:
    nvidia(bench, "nvidia/query-gpu-normal")
    text = columns("nvidia/query-gpu-normal", *devices.NVIDIA_FIELDS.values()).replace("Disabled, 0", "Disabled, 7")
    bench.tool("nvidia-smi", {"--query-gpu=index*": text})
    assert [(entry["health"], entry["health_reason"]) for entry in bench.read()[0]] == [
        ("unhealthy", "Uncorrected memory errors: 7.")
    ] * 2


def test_nvidia_field_unknown_to_an_old_driver(bench: Bench) -> None:
    kept = [field for field in devices.NVIDIA_FIELDS.values() if field != "mig.mode.current"]
    bench.tool(
        "nvidia-smi",
        {
            "--query-gpu=*mig.mode.current*": ('Field "mig.mode.current" is not a valid field to query.\n\n', 2),
            "--query-gpu=index*": columns("nvidia/query-gpu-normal", *kept),
            "--query-compute-apps*": "",
        },
    )
    assert [figures(entry)[0] for entry in bench.read()[0]] == [81559, 81559]


XML_PROCESSES = """<processes>
  <process_info><gpu_instance_id>2</gpu_instance_id><compute_instance_id>0</compute_instance_id>
    <pid>21180</pid><used_memory>2296 MiB</used_memory></process_info>
</processes>"""


def mig_xml() -> str:
    """Return the sample's card under the uuid of the other samples, with a second instance and a process."""
    text = sample("nvidia/xml-v12-mig").replace("<processes />", XML_PROCESSES)
    text = text.replace("GPU-d81f5b36-0ca9-4e72-8b5d-6f93e0a2c417", "GPU-9d20c6e4-1f58-4a73-b6e9-730c81fd2a45")
    first = re.search(r"<mig_device>.*?</mig_device>", text, re.DOTALL).group(0)
    second = first.replace("<index>0<", "<index>1<").replace("_id>3<", "_id>2<").replace("12 MiB", "2310 MiB")
    return text.replace(first, first + second)


def test_nvidia_mig(bench: Bench) -> None:
    nvidia(
        bench,
        "nvidia/query-gpu-mig-busy",
        "nvidia/compute-apps-mig",
        listed=sample("nvidia/list-mig"),
        xml=mig_xml(),
    )
    found, errors = bench.read()
    assert errors == {}
    assert [entry["visible_value"] for entry in found] == [
        "MIG-3f0c9a71-5d28-5be4-a6f1-08c27e4b91d3",
        "MIG-8a14e6b2-90f7-5c03-b258-d1697c3f0ae4",
        "MIG-c5720d9e-3b46-5f81-9e07-462a8bd31f5c",
    ]
    assert [entry["uuid"] for entry in found] == [entry["visible_value"] for entry in found]
    assert [figures(entry) for entry in found] == [
        [19968, 12, None, 53.0, None],
        [19968, 2310, None, 53.0, None],
        [None, None, None, 53.0, None],
    ]
    assert found[0]["name"] == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert {entry["parent_uuid"] for entry in found} == {"GPU-9d20c6e4-1f58-4a73-b6e9-730c81fd2a45"}
    assert [pids(entry) for entry in found] == [{}, {21180: 2296 * MIB}, None]
    assert {(entry["slots"], entry["health"]) for entry in found} == {(1, "ok")}


def test_nvidia_mig_named_by_the_process_list(bench: Bench) -> None:
    nvidia(bench, "nvidia/query-gpu-mig-busy", listed=sample("nvidia/list-mig"), xml="half <a tree")
    apps = sample("nvidia/compute-apps-mig").replace("GPU-9d20c6e4-1f58-4a73-b6e9-730c81fd2a45", "MIG-c5720d9e-3b46")
    assert devices.nvidia_processes(apps) == {"MIG-c5720d9e-3b46": [("21180", "2296"), ("21198", "7484")]}
    card = {"uuid": "GPU-1", "name": "x"}
    rows = devices.mig_devices(card, [("0", "1g", "MIG-c5720d9e-3b46")], {}, devices.nvidia_processes(apps))
    assert pids(rows[0]) == {21180: 2296 * MIB, 21198: 7484 * MIB}
    assert [entry["memory_total_bytes"] for entry in bench.read()[0]] == [None] * 3


def test_nvidia_mig_card_without_instances_cannot_be_claimed(bench: Bench) -> None:
    nvidia(bench, "nvidia/query-gpu-mig-busy")
    found = one(bench)
    assert (found["slots"], found["visible_value"], figures(found)[0]) == (0, None, 81559)


def test_nvidia_xml_without_mig() -> None:
    details = devices.mig_details(sample("nvidia/xml-v13-normal"))
    assert details == {
        "GPU-e06b92f4-7c15-4d83-a29e-38f1c5d7b062": {"processes": {("N/A", "N/A"): [("1842", "410 MiB")]}}
    }


def test_nvidia_process_names_with_commas() -> None:
    assert devices.nvidia_processes("GPU-1, 7, a, b, c, 12\n") == {"GPU-1": [("7", "12")]}
    assert devices.nvidia_processes("Failed to initialize NVML: Unknown Error\n") is None


@pytest.mark.parametrize(
    ("name", "status", "part"),
    [
        ("driver-not-loaded", 9, "couldn't communicate with the NVIDIA driver"),
        ("library-missing", 12, "couldn't find libnvidia-ml.so"),
        ("nvml-container", 255, "Failed to initialize NVML: Unknown Error (exit status 255)"),
        ("version-mismatch", 18, "Driver/library version mismatch"),
        ("handle", 15, "Unable to determine the device handle for GPU0000:61:00.0"),
    ],
)
def test_nvidia_failures(bench: Bench, name: str, status: int, part: str) -> None:
    bench.tool("nvidia-smi", {"*": (sample("nvidia/fail-" + name), status)})
    found, errors = bench.read()
    assert found == []
    assert errors["nvidia"].startswith("nvidia-smi gave no device: ")
    assert part in errors["nvidia"]
    assert len(bench.asked("nvidia-smi")) == 1


# --- AMD and Hygon ---


def test_amd_smi(bench: Bench) -> None:
    bench.tool(
        "amd-smi",
        {
            "static*": sample("amd/amd-smi-static-rocm7"),
            "metric*": sample("amd/amd-smi-metric-rocm6-busy"),
            "process*": sample("amd/amd-smi-process"),
        },
    )
    bench.tool("rocm-smi", {"*": sample("amd/rocm-smi-mi300-odd")})
    found = one(bench)
    assert figures(found) == [196592, 171204, 97.0, 74.0, 698.0]
    assert (found["name"], found["uuid"], found["health"]) == ("AMD Instinct MI300X", "amd-7e5a1c03d9b24f68", "ok")
    assert (found["visible_variable"], found["visible_value"]) == ("HIP_VISIBLE_DEVICES", "0")
    assert pids(found) == {420157: 170910875648}
    assert not (bench.folder / "rocm-smi.asked").exists()


def test_amd_smi_absent_sections(bench: Bench) -> None:
    bench.tool(
        "amd-smi",
        {"static*": sample("amd/amd-smi-static-rocm7"), "metric*": sample("amd/amd-smi-metric-rocm7-odd")},
    )
    found = one(bench)
    assert figures(found) == [196592, 287, None, None, None]
    assert (found["health"], found["processes"]) == (None, None)


def test_amd_processes() -> None:
    listed = devices.amd_processes(sample("amd/amd-smi-process"))
    assert listed == {"0": [(420157, "170910875648 B")], "1": [(1693982, "0 B")]}
    assert devices.process_list(listed, "2") == []


@pytest.mark.parametrize(
    ("name", "uuids", "names", "expected"),
    [
        (
            "rocm61-normal",
            ["amd-3f90a16c52e7bd08"],
            ["Navi 32 [Radeon RX 7700 XT / 7800 XT]"],
            [[16368, 11077, 100.0, 45.0, 53.0]],
        ),
        (
            "rocm57-old-keys",
            ["amd-0000:83:00.0"],
            ["Arcturus GL-XL [Instinct MI100]"],
            [[32752, 6, 0.0, 53.0, 36.0]],
        ),
        (
            "mi300-odd",
            ["amd-7e5a1c03d9b24f68", "amd-9c2be8f0146d7a35"],
            ["AMD Instinct MI300X", "AMD INSTINCT MI250"],
            [[196592, 283, 0.0, 41.0, 141.0], [65520, 10, 0.0, 38.0, None]],
        ),
    ],
)
def test_rocm_smi(bench: Bench, name: str, uuids: list, names: list, expected: list) -> None:
    bench.script("amd-smi", "cat >&2 <<'EOF'\n" + sample("amd/amd-smi-fail-no-driver") + "EOF\nexit 255\n")
    bench.tool("rocm-smi", {"*": sample("amd/rocm-smi-" + name)})
    found, errors = bench.read()
    assert errors == {}
    assert [entry["uuid"] for entry in found] == uuids
    assert [entry["name"] for entry in found] == names
    assert [figures(entry) for entry in found] == expected
    assert [entry["visible_value"] for entry in found] == [str(place) for place in range(len(found))]
    assert {str(entry["processes"]) for entry in found} == {"None"}


def test_amd_failures(bench: Bench) -> None:
    bench.script("amd-smi", "cat >&2 <<'EOF'\n" + sample("amd/amd-smi-fail-no-driver") + "EOF\nexit 255\n")
    assert "driver not initialized" in bench.read()[1]["amd"]
    (bench.folder / "amd-smi").unlink()
    bench.script("rocm-smi", "cat >&2 <<'EOF'\n" + sample("amd/rocm-smi-fail-no-driver") + "EOF\n")
    assert "Driver not initialized" in bench.read()[1]["amd"]
    bench.tool("rocm-smi", {"*": sample("amd/rocm-smi-fail-no-json")})
    assert bench.read() == ([], {"amd": "rocm-smi gave no device: WARNING: No JSON data to report"})


def test_hygon(bench: Bench) -> None:
    bench.tool("hy-smi", {"--showpids": sample("hygon/showpids-busy"), "*--json": sample("hygon/json-dtk2504-hcu")})
    found = one(bench)
    assert figures(found) == [65520, 3276, 3.0, 70.0, 108.0]
    assert (found["uuid"], found["name"], found["bus_id"]) == ("TRCW390019990401", "BW", "0000:06:00.0")
    assert pids(found) == {48213: None}  # on two cards, with one figure for both
    assert found["visible_variable"] == "HIP_VISIBLE_DEVICES"


def test_hygon_older(bench: Bench) -> None:
    bench.tool("hy-smi", {"--showpids": sample("hygon/showpids-busy"), "*--json": sample("hygon/json-dtk24-dcu")})
    found = one(bench)
    assert figures(found) == [65520, 2, 0.0, 41.0, 80.0]
    assert (found["uuid"], found["processes"]) == ("71c0fa88669a4061", None)
    text = "PID: 7\n\tPCI BUS: ['0000:06:00.0']\n\tVRAM USED(MiB): 512\n"
    assert devices.hygon_processes(text) == {"0000:06:00.0": [("7", "512")]}


def test_hygons_rocm_smi_is_not_amd(bench: Bench) -> None:
    bench.tool("rocm-smi", {"*": sample("hygon/json-dtk24-dcu")})
    assert bench.read() == ([], {})


# --- Intel and Kunlunxin ---


def intel(bench: Bench, dump: str) -> None:
    bench.tool(
        "xpu-smi",
        {
            "discovery -j": sample("intel/discovery-v1"),
            "discovery -d 0 -j": sample("intel/discovery-device-v1"),
            "dump*": sample(dump),
            "ps -j": sample("intel/ps-json-v1"),
        },
    )


def test_intel_version_1(bench: Bench) -> None:
    intel(bench, "intel/dump-v1-normal")
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [
        [49136, 28, 0.0, None, 106.6],
        [None, 28, 0.01, None, 105.25],
    ]
    assert found[0]["uuid"] == "00000000-0000-0029-0000-002f0bda8086"
    assert [pids(entry) for entry in found] == [{}, {30417: 41870336 * 1024}]
    assert (found[1]["visible_variable"], found[1]["visible_value"]) == ("ZE_AFFINITY_MASK", "1")
    assert figures(bench.read()[0][0])[0] == 49136
    assert bench.asked("xpu-smi").count("discovery -d 0 -j") == 1  # remembered


def test_intel_empty_cells(bench: Bench) -> None:
    intel(bench, "intel/dump-v1-empty-cells")
    assert [figures(entry) for entry in bench.read()[0]] == [[49136, 17, None, None, None], [None] * 5]


def test_intel_version_2(bench: Bench) -> None:
    bench.tool("xpu-smi", {"--query-gpu*": columns("intel/query-gpu-v2", *devices.INTEL_FIELDS.values())})
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [[24480, 512, 0.0, 41.0, 27.5], [24480, None, None, None, None]]
    assert found[1]["name"] == "Intel(R) Arc(TM) Pro B60 Graphics"


@pytest.mark.parametrize("name", ["noise", "none-v2"])
def test_intel_without_cards(bench: Bench, name: str) -> None:
    bench.tool("xpu-smi", {"discovery -j": sample("intel/discovery-" + name)})
    found, errors = bench.read()
    assert (found, list(errors)) == ([], ["intel"])


def test_noise_before_json() -> None:
    noise, _, _ = sample("intel/discovery-noise").partition("{")
    assert len(devices.objects(devices.json_in(noise + sample("intel/discovery-v1")), "device_list")) == 2


@pytest.mark.parametrize("on_bus", [False, True])
def test_kunlunxin(bench: Bench, pci: Path, on_bus: bool) -> None:
    if on_bus:
        (pci / "0000:01:00.0").mkdir()
        (pci / "0000:01:00.0" / "class").write_text("0x120000\n")
        (pci / "0000:01:00.0" / "vendor").write_text("0x2057\n")
    bench.tool("xpu-smi", {"-q": sample("kunlunxin/q-p800-idle"), "*": sample("kunlunxin/q-p800-idle")})
    found = one(bench)
    assert found["vendor"] == "kunlunxin"
    assert figures(found) == [98304, 0, 0.0, 46.0, 76.0]
    assert (found["uuid"], found["name"]) == ("GPU-7b1e05c4-3f6a-5d92-8c40-e19d2ab57f63", "P800 PCIe")
    assert (found["health"], found["processes"], found["visible_variable"]) == ("ok", [], "XPU_VISIBLE_DEVICES")


def test_kunlunxin_busy(bench: Bench) -> None:
    bench.tool("xpu-smi", {"-q": sample("kunlunxin/q-p800-busy")})
    found, errors = bench.read()
    assert "intel" in errors  # neither the bus nor the answer to Intel's questions tells whose the tool is
    assert figures(found[0]) == [98304, 61440, 87.0, 63.0, None]
    assert (found[0]["uuid"], pids(found[0])) == ("kunlunxin-0000:4e:00.0", {51877: None})


def test_one_tool_name_for_two_vendors(bench: Bench, pci: Path) -> None:
    for place, vendor in enumerate(["0x8086", "0x1a03"]):
        (pci / str(place)).mkdir()
        (pci / str(place) / "class").write_text("0x038000\n")
        (pci / str(place) / "vendor").write_text(vendor + "\n")
    assert devices.accelerator_makers() == {"0x8086", "0x1a03"}
    intel(bench, "intel/dump-v1-normal")
    assert {entry["vendor"] for entry in bench.read()[0]} == {"intel"}
    assert "-q" not in bench.asked("xpu-smi")


def test_kunlunxin_older_tool(bench: Bench) -> None:
    bench.tool("xpu_smi", {"": sample("kunlunxin/xpu_smi-4-idle")})
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [[32768, 0, 0.0, None, None]] * 2
    assert [entry["uuid"] for entry in found] == ["kunlunxin-0000:53:00.0", "kunlunxin-0000:56:00.0"]
    assert [entry["processes"] for entry in found] == [[], []]


# --- Ascend ---


def ascend(bench: Bench, table: str, mapping: str) -> tuple[list[dict], dict[str, str]]:
    bench.tool("npu-smi", {"info -m": sample("ascend/" + mapping) if mapping else ("", 1), "info": table})
    return bench.read()


def test_ascend_910b(bench: Bench) -> None:
    found, errors = ascend(bench, sample("ascend/table-910b-busy"), "info-m-910b")
    assert errors == {}
    assert [figures(entry) for entry in found] == [[65536, 20701, 74.0, 51.0, 188.6], [65536, 3316, 0.0, 50.0, 99.6]]
    assert [entry["uuid"] for entry in found] == ["ascend-0000:5a:00.0-0", "ascend-0000:19:00.0-0"]
    assert [entry["visible_value"] for entry in found] == ["0", "1"]
    assert found[0]["visible_variable"] == "ASCEND_RT_VISIBLE_DEVICES"
    assert [(entry["health"], entry["health_reason"]) for entry in found] == [
        ("ok", ""),
        ("ok", "npu-smi says: Warning."),
    ]
    assert [pids(entry) for entry in found] == [{124528: 17400 * MIB}, {}]
    assert found[0]["name"] == "Ascend 910B2C"


def test_ascend_310p(bench: Bench) -> None:
    found, _ = ascend(bench, sample("ascend/table-310p-idle"), "info-m-310p")
    assert [figures(entry) for entry in found] == [[44278, 1448, 0.0, 49.0, None], [43693, 1511, 0.0, 45.0, None]]
    assert [entry["uuid"] for entry in found] == ["ascend-0000:01:00.0-0", "ascend-0000:01:00.0-1"]
    assert {entry["processes"] is None for entry in found} == {True}


def test_ascend_310b(bench: Bench) -> None:
    found, errors = ascend(bench, sample("ascend/table-310b-alarm"), "")
    assert errors == {}
    assert figures(found[0]) == [15609, 3628, 0.0, 65.0, 0.0]
    assert (found[0]["health"], found[0]["health_reason"]) == ("unhealthy", "npu-smi says: Alarm.")
    # Without the logic id nobody can be given this chip.
    assert (found[0]["uuid"], found[0]["slots"], found[0]["visible_value"]) == ("ascend-0-0", 0, None)


def test_ascend_a3(bench: Bench) -> None:
    mapping = sample("ascend/info-m-a3").replace("\n\t0 ", "\n\t1 ")
    bench.tool("npu-smi", {"info -m": mapping, "info": sample("ascend/table-a3")})
    found, _ = bench.read()
    assert [figures(entry) for entry in found] == [[65536, 3116, 0.0, 38.0, 167.1], [65536, 10568, 0.0, 38.0, None]]
    assert [entry["visible_value"] for entry in found] == ["0", "1"]
    assert [pids(entry) for entry in found] == [{}, {990711: 7746 * MIB}]
    assert found[0]["name"] == "Ascend910"


def test_ascend_950() -> None:
    assert devices.ascend_logic_ids(sample("ascend/info-m-950")) == {(0, 0): "0", (1, 0): "1"}
    listed = devices.ascend_processes(sample("ascend/table-950-processes"))
    assert listed == {(0, 0): [("2018733", "30212")], (1, 0): [("2018734", "30212")]}


def test_ascend_chip_with_two_kinds_of_memory(bench: Bench) -> None:
    table = sample("ascend/table-910b-busy").replace("0    / 0          20701/ 65536", "901  / 15171      20701/ 65536")
    assert figures(ascend(bench, table, "info-m-910b")[0][0])[:2] == [65536, 20701]


def test_ascend_logic_ids() -> None:
    expected = {(1, 0): "0", (1, 1): "1", (4, 0): "2", (4, 1): "3"}
    assert devices.ascend_logic_ids(sample("ascend/info-m-310p")) == expected


@pytest.mark.parametrize("code", ["8005", "8020"])
def test_ascend_failures(bench: Bench, code: str) -> None:
    found, errors = ascend(bench, sample("ascend/fail-dcmi-" + code), "info-m-910b")
    assert found == []
    assert f"ret is -{code}" in errors["ascend"]


# --- The others ---


def test_cambricon(bench: Bench) -> None:
    bench.tool("cnmon", {"": sample("cambricon/table-5.10-busy")})
    found = one(bench)
    assert figures(found) == [23374, 18820, 93.0, 61.0, 214.0]
    assert (found["name"], found["uuid"], found["health"]) == ("MLU370-X8", "cambricon-0000:39:00.0", "ok")
    assert (pids(found), found["visible_variable"]) == ({48213: 18602 * MIB}, "MLU_VISIBLE_DEVICES")
    bench.tool("cnmon", {"": sample("cambricon/table-5.10-idle")})
    found, _ = bench.read()
    assert [figures(entry) for entry in found] == [[23374, 0, 0.0, 32.0, 106.0], [23374, 0, 0.0, 39.0, 106.0]]
    assert [(entry["health"], entry["processes"]) for entry in found] == [(None, [])] * 2
    bench.tool("cnmon", {"": sample("cambricon/table-5.10-idle").replace("N/A |\n|  0%   32C", "  3 |\n|  0%   32C")})
    assert [entry["health_reason"] for entry in bench.read()[0]] == ["cnmon counts memory errors.", ""]


@pytest.mark.parametrize(
    ("tool", "name", "expected", "called", "health", "listed"),
    [
        ("mx-smi", "table-2.2.8-busy", [65536, 32000, 42.0, 55.0, 180.0], "MetaX C500", "ok", {77120: 31180 * MIB}),
        ("mx-smi", "table-2.1.12", [65536, 826, 0.0, 35.0, 54.0], "MetaX C500", None, None),
        ("ht-smi", "ht-smi-2.3.1-idle", [65536, 858, 0.0, 44.0, 38.0], "Mars X201", "ok", {}),
    ],
)
def test_metax(
    bench: Bench, tool: str, name: str, expected: list, called: str, health: str | None, listed: dict | None
) -> None:
    bench.tool(tool, {"": sample("metax/" + name)})
    found = one(bench)
    assert (figures(found), found["name"], found["health"], pids(found)) == (expected, called, health, listed)
    assert (found["visible_variable"], found["visible_also"]) == ("CUDA_VISIBLE_DEVICES", ["MACA_VISIBLE_DEVICES"])


def test_metax_two_cards_one_of_them_bad(bench: Bench) -> None:
    text = sample("metax/table-2.2.8-idle")
    place = text.rindex("Available")
    bench.tool("mx-smi", {"": text[:place] + "Fault    " + text[place + 9 :]})
    found, _ = bench.read()
    assert [figures(entry) for entry in found] == [[65536, 666, 0.0, 37.0, 29.0], [65536, 666, 0.0, 37.0, 33.0]]
    assert [entry["health_reason"] for entry in found] == ["", "mx-smi says: Fault."]
    assert [entry["visible_value"] for entry in found] == ["0", "1"]


def test_mthreads(bench: Bench) -> None:
    bench.tool("mthreads-gmi", {"-q --json": sample("mthreads/q-json-idle")})
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [[81920, 0, 0.0, 27.0, 96.66], [81920, 0, 0.0, 26.0, 97.09]]
    assert [entry["bus_id"] for entry in found] == ["0000:2a:00.0", None]
    assert found[1]["uuid"] == "e84b2f06-17d3-5c90-a52e-39c6d01b7f4a"
    assert (found[1]["processes"], found[1]["visible_variable"]) == (None, "MUSA_VISIBLE_DEVICES")
    bench.tool("mthreads-gmi", {"-q --json": sample("mthreads/q-json-odd")})
    assert figures(one(bench)) == [48 * 1024, None, None, 45.0, None]  # more used than there is: not believed


def test_iluvatar(bench: Bench) -> None:
    rows = (
        "0, GPU-1f7d, Iluvatar MR-V100 DUO, 00000000:35:00.0, 32768 MiB, 68 MiB, 0 %, 37 C\n"
        "1, GPU-a802, Iluvatar MR-V100 DUO, 00000000:38:00.0, 32768, 68, 0, 36\n"
    )
    table = sample("iluvatar/table-4.4-duo-idle")
    bench.tool("ixsmi", {"--query-gpu*": rows, "": table})
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [[32768, 68, 0.0, 37.0, None], [32768, 68, 0.0, 36.0, 40.0]]
    assert [entry["uuid"] for entry in found] == ["GPU-1f7d", "GPU-a802"]
    assert [entry["processes"] for entry in found] == [[], []]


def test_iluvatar_cells() -> None:
    rows = devices.csv_rows(sample("iluvatar/query-units-idle"), ("index", "name", "total", "used", "use", "heat"))
    assert [figures(devices.device("iluvatar", **row)) for row in rows] == [
        [16384, 116, 0.0, 30.0, None],
        [16384, 116, 0.0, 31.0, None],
    ]
    names = ("power", "heat", "use", "memory_use", "index", "bus", "serial")
    rows = devices.csv_rows(sample("iluvatar/query-nounits-busy"), names)
    found = [devices.device("iluvatar", **row) for row in rows]
    assert [figures(entry) for entry in found] == [[None, None, 97.0, 68.0, 231.0], [None, None, 95.0, 66.0, None]]
    assert [entry["uuid"] for entry in found] == ["iluvatar-0000:35:00.0", "iluvatar-0000:38:00.0"]
    assert len(devices.csv_rows(sample("iluvatar/query-header"), ("index", "uuid"))) == 2


def test_gaudi(bench: Bench) -> None:
    bench.tool(
        "hl-smi",
        {
            "-Q*": columns("gaudi/query-module-id", *devices.GAUDI_FIELDS.values()),
            "": sample("gaudi/table-1.18-processes"),
        },
    )
    found, errors = bench.read()
    assert errors == {}
    assert [figures(entry) for entry in found] == [[None, 768, None, 33.0, None], [None, 768, None, 30.0, None]]
    assert [entry["visible_value"] for entry in found] == ["3", "7"]
    assert [entry["uuid"] for entry in found] == ["gaudi-0000:b3:00.0", "gaudi-0000:b4:00.0"]
    assert [pids(entry) for entry in found] == [{10: 1024 * MIB}, {}]
    bench.tool("hl-smi", {"-Q*": columns("gaudi/query-1.22-idle", *devices.GAUDI_FIELDS.values())})
    found, _ = bench.read()
    assert figures(found[1]) == [131072, 672, 0.0, 39.0, 230.0]
    assert (found[1]["uuid"], found[1]["slots"]) == ("01P4-HL3090A0-18-QX7T44-06-02-09", 0)


@pytest.mark.parametrize(
    ("name", "expected", "uuid", "health"),
    [
        ("q-1.2-idle", [42976, 1129, 0.0, 41.0, 102.0], "TR1V57199501", "ok"),
        ("q-1.4-loaded", [42976, 38934, 0.0, 35.0, 99.0], "TPUH90299803", "ok"),
        ("q-1.4-unhealthy", [None] * 5, "TPUH90299811", "unhealthy"),
    ],
)
def test_enflame(bench: Bench, name: str, expected: list, uuid: str, health: str) -> None:
    bench.tool("efsmi", {"-q*": sample("enflame/" + name)})
    found = one(bench)
    assert (figures(found), found["uuid"], found["health"]) == (expected, uuid, health)
    if name == "q-1.2-idle":
        assert (found["index"], found["bus_id"]) == (7, "0000:b1:00.0")


# --- Words and numbers ---


@pytest.mark.parametrize(
    "value",
    ["", "-", "N/A", "[N/A]", "NA", "None", "ERR!", "[Not Supported]", "[Unknown Error]", "[GPU is lost]", "unknown"]
    + ["0xff", "0xffffffff", "0xFFFF MiB", "4294967295", "Requested functionality has been deprecated", "1.2.3", None]
    + ["N/A (Secondary die)", "-1", "nan", "inf", "1e999", [], {}, True],
)
def test_absent_figures(value: object) -> None:
    assert devices.number(value, 0, 1000) is None


def test_figures_that_cannot_be_true() -> None:
    found = devices.device("nvidia", 0, total="0", used="5", use="101", heat="255", power="65535")
    assert figures(found) == [None, 5, None, None, None]
    assert devices.size("18446744073709551615") is None
    assert [devices.size(text) for text in ("1", "1 KB", "2kB", "1MiB", "1 GiB", "5 B")] == [
        MIB,
        1024,
        2048,
        MIB,
        1024**3,
        5,
    ]


def test_identity_is_never_empty() -> None:
    assert devices.device("nvidia", 3)["uuid"] == "nvidia-3"
    assert devices.device("amd", 3, bus="0000000F:3B:00.0", uuid="N/A")["uuid"] == "amd-000f:3b:00.0"


# --- Tools that misbehave ---


def test_no_tool(bench: Bench) -> None:
    began = threading.active_count()
    assert bench.read() == ([], {})
    assert threading.active_count() == began
    (bench.folder / "nvidia-smi").write_text("not executable")
    assert bench.read() == ([], {})


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_for(condition: object, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_hanging_tools_are_killed_with_their_children(bench: Bench) -> None:
    body = "trap '' TERM\nsleep 600 &\necho $! >> {0}/pids\necho $$ >> {0}/pids\necho 0, half a row\nwait\n"
    for name in ("nvidia-smi", "npu-smi", "cnmon"):
        bench.script(name, body.format(bench.folder))
    bench.tool("mthreads-gmi", {"-q --json": sample("mthreads/q-json-idle")})
    began = time.monotonic()
    found, errors = bench.read(timeout=0.7)
    assert time.monotonic() - began < 1.6
    assert len(found) == 2
    assert errors == {
        "nvidia": "nvidia-smi did not answer within 0.7 s and was stopped.",
        "ascend": "npu-smi did not answer within 0.7 s and was stopped.",
        "cambricon": "cnmon did not answer within 0.7 s and was stopped.",
    }
    started = [int(line) for line in (bench.folder / "pids").read_text().split()]
    assert len(started) == 6
    wait_for(lambda: all(gone(pid) for pid in started))
    wait_for(lambda: not devices.busy_vendors)


def test_second_question_hanging_keeps_the_devices(bench: Bench) -> None:
    nvidia(bench, "nvidia/query-gpu-normal")
    script = bench.folder / "nvidia-smi"
    script.write_text(
        script.read_text()
        .replace("esac", "esac", 1)
        .replace("case", 'case "$*" in --query-c*) sleep 60;; esac\ncase', 1)
    )
    found, errors = bench.read(timeout=0.7)
    assert [(entry["memory_total_bytes"] is None, entry["processes"]) for entry in found] == [(False, None)] * 2
    assert "nvidia" in errors


def test_tool_that_leaves_a_child_with_the_pipe(bench: Bench) -> None:
    file = bench.folder / "text"
    file.write_text(sample("mthreads/q-json-idle"))
    bench.script("mthreads-gmi", f"sleep 600 &\necho $! > {bench.folder}/pid\ncat {file}\n")
    began = time.monotonic()
    found, errors = bench.read()
    assert (len(found), errors) == (2, {})
    assert time.monotonic() - began < 2
    wait_for(lambda: gone(int((bench.folder / "pid").read_text())))


def test_stuck_tool_is_not_started_again(bench: Bench) -> None:
    bench.tool("nvidia-smi", {"*": "never asked"})
    devices.busy_vendors.add("nvidia")
    try:
        assert bench.read() == ([], {"nvidia": "Its tool is stuck since an earlier reading."})
    finally:
        devices.busy_vendors.discard("nvidia")
    assert not (bench.folder / "nvidia-smi.asked").exists()


class Immortal:
    """Stands for a process that no signal ends."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def wait(self) -> None:
        self.ended.wait()


def test_answer_does_not_wait_for_a_process_that_cannot_be_killed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Immortal()

    def read(tool: devices.Tool) -> list:
        tool.unkillable.append(stuck)
        raise devices.ToolFailed("stopped")

    entry = devices.VENDORS["nvidia"]
    monkeypatch.setitem(devices.VENDORS, "nvidia", entry._replace(tools=(("nvidia-smi", read),)))
    bench.tool("nvidia-smi", {})
    assert bench.read() == ([], {"nvidia": "stopped"})
    assert bench.read() == ([], {"nvidia": "Its tool is stuck since an earlier reading."})
    stuck.ended.set()
    wait_for(lambda: not devices.busy_vendors)
    assert bench.read()[1] == {"nvidia": "stopped"}


def test_flood(bench: Bench) -> None:
    bench.script("nvidia-smi", "exec yes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10\n")
    bench.script("cnmon", "exec cat /dev/zero >&2\n")
    began = time.monotonic()
    found, errors = bench.read()
    assert time.monotonic() - began < 3
    assert found == []
    assert set(errors) == {"nvidia", "cambricon"}
    assert all("printed more than 4194304 bytes" in text for text in errors.values())


GARBAGE = [
    "NVIDIA-SMI 失败：无法与驱动程序通信。\n",
    "\x1b[31mERROR\x1b[0m\x00\x07 \x7f\n",
    "{" * 5000,
    "[{" * 5000,
    '{"GPU": [1, null, {"Index": {}}, {"Index": "x"}], "gpu_data": "N/A", "card0": 5, "device_list": {"a": []}}',
    '{"GPU": {"Index": "0"}, "card0": {"Unique ID": [1]}, "device_list": [{"device_id": {"value": []}}]}',
    "|\n||\n| |\n| 0 | 0000:01:00.0 | 1 |\n| 0 |\n| | 0000:01:00.0 | |\n",
    "0, , , , , , , , , , \n0,1\nindex, uuid\n",
    "XPUSMI LOG\nXPU 00000000:01:00.0\n : \n  : 5\nDEV ID 3\n",
    "+" * 3_000_000 + "\n" + "| 0 " * 500_000,
]


@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_garbage(bench: Bench, number: int) -> None:
    names = {name for entry in devices.VENDORS.values() for name, _ in entry.tools}
    for name in names:
        bench.tool(name, {"*": GARBAGE[number]})
    began = time.monotonic()
    found, errors = bench.read()
    assert time.monotonic() - began < 5
    assert {entry["vendor"] for entry in found} | set(errors) <= set(devices.VENDORS)
    assert all(figures(entry) == [None] * 5 and entry["uuid"] for entry in found)
    assert all(len(text) < 500 and text.isprintable() for text in errors.values())


def test_overlong_lines_are_left_out() -> None:
    assert list(devices.lines_of("x" * devices.TOOL_LINE_LIMIT + "x\ny\n\n")) == ["y"]


def test_binary_output(bench: Bench) -> None:
    bench.script("nvidia-smi", "head -c 100000 /dev/urandom\nhead -c 1000 /dev/urandom >&2\n")
    found, errors = bench.read()
    assert found == []
    assert list(errors) == ["nvidia"]


@pytest.mark.parametrize("vendor", ["ascend", "cambricon", "metax"])
def test_half_a_table(bench: Bench, vendor: str) -> None:
    tool, name = {
        "ascend": ("npu-smi", "ascend/table-910b-busy"),
        "cambricon": ("cnmon", "cambricon/table-5.10-idle"),
        "metax": ("mx-smi", "metax/table-2.2.8-idle"),
    }[vendor]
    text = sample(name)
    for length in range(0, len(text), 37):
        bench.made = 0
        (bench.folder / "text").write_text(text[:length])
        found = {"ascend": devices.read_ascend, "cambricon": devices.read_cambricon, "metax": devices.read_metax}[
            vendor
        ](Scripted(text[:length], tool))
        assert len(found) <= 2
        assert all(entry["uuid"] and entry["vendor"] == vendor for entry in found)


class Scripted:
    """A tool that gives one answer to all questions, without a process."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name

    def ask(self, *arguments: str) -> str:
        return self.text

    ask_also = ask


def test_duplicates(bench: Bench) -> None:
    row = columns("nvidia/query-gpu-normal", *devices.NVIDIA_FIELDS.values()).splitlines()[0] + "\n"
    apps = "GPU-6c1f0a52-3b7e-4d19-9a60-51e2c7d80b34, 7, a, {}\n"
    bench.tool(
        "nvidia-smi",
        {
            "--query-gpu=index*": row * 3,
            "--query-compute-apps*": apps.format("[N/A]") + apps.format(5) + apps.format(3),
        },
    )
    assert pids(one(bench)) == {7: 5 * MIB}


def test_parts_of_a_card_with_one_serial_number(bench: Bench) -> None:
    card = json.loads(sample("amd/amd-smi-static-rocm7"))["gpu_data"][0]
    parts = [dict(card, gpu=index) for index in range(3)]
    bench.tool("amd-smi", {"static*": json.dumps(parts)})
    expected = ["amd-7e5a1c03d9b24f68", "amd-7e5a1c03d9b24f68-1", "amd-7e5a1c03d9b24f68-2"]
    assert [entry["uuid"] for entry in bench.read()[0]] == expected


def test_how_a_tool_is_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    bench.script("cnmon", "echo $LC_ALL; pwd; cat; ps -o pgid= -p $$; echo $$\n")
    words = bench.read()[1]["cambricon"].split()[4:]
    assert words[:2] == ["C", "/"]
    assert words[2] == words[3] != str(os.getpgid(0))


def test_tool_that_cannot_be_run(bench: Bench) -> None:
    (bench.folder / "cnmon").write_text("#!/no/such/interpreter\n")
    (bench.folder / "cnmon").chmod(0o755)
    assert bench.read() == ([], {"cambricon": "cnmon cannot be run: No such file or directory."})


# --- The watch ---


def test_watch(bench: Bench) -> None:
    bench.tool("mthreads-gmi", {"-q --json": sample("mthreads/q-json-idle")})
    watch = devices.DeviceWatch(period=0.05, look=0.05, path=str(bench.folder))
    assert watch.snapshot() == ([], {}, None)
    watch.start()
    try:
        wait_for(lambda: len(watch.snapshot()[0]) == 2)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", watch.snapshot()[2])
        (bench.folder / "mthreads-gmi").unlink()
        wait_for(lambda: watch.snapshot()[0] == [])
        bench.tool("mthreads-gmi", {"-q --json": ("", 1)})
        wait_for(lambda: "mthreads" in watch.snapshot()[1])
    finally:
        watch.stop()


def test_watch_without_tools_only_looks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "read_devices", lambda *_: pytest.fail("nothing to read"))
    watch = devices.DeviceWatch(path=str(bench.folder))
    assert watch.read() == devices.DEVICE_LOOK
    assert watch.snapshot()[:2] == ([], {})


def test_watch_never_blocks_and_never_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.script("cnmon", "sleep 600\n")
    watch = devices.DeviceWatch(timeout=0.5, path=str(bench.folder))
    watch.start()
    began = time.monotonic()
    assert watch.snapshot() == ([], {}, None)
    assert time.monotonic() - began < 0.1
    wait_for(lambda: "cambricon" in watch.snapshot()[1])
    watch.stop()
    monkeypatch.setattr(devices, "find_tools", lambda _: 1 / 0)
    assert watch.read() == devices.DEVICE_PERIOD
    assert watch.snapshot()[1] == {"agent": "Reading devices failed: ZeroDivisionError."}


def test_each_process_on_a_device_is_told_with_its_instance(bench: Bench, agent: RealAgent) -> None:
    """Also for what an engine forked with a clean environment; a stranger is told as one."""
    agent.deploy("a", "env -i sleep 600 & echo $!; exec sleep 601")
    own = agent.wait_for_phase("a", "running")["pid"]
    child = int(wait_until(lambda: agent.status("a")["log_tail"])[0])
    with subprocess.Popen(["sleep", "602"]) as stranger:
        try:
            for pid in (own, child, stranger.pid):
                name = Path(f"/proc/{pid}/comm")
                wait_until(lambda name=name: name.read_text() == "sleep\n", what="it has become its command")
            apps = "".join(f"GPU-1, {pid}, x, 512\n" for pid in (own, child, stranger.pid, 2**22 + 1))
            processes = devices.process_list(devices.nvidia_processes(apps), "GPU-1")
            devices.tell_whose([{"processes": processes}, {"processes": None}], mark(agent))
        finally:
            stranger.kill()
    told = {entry["pid"]: (entry["instance"], entry["command"]) for entry in processes}
    assert told == {
        own: ("a", "sleep"),
        child: ("a", "sleep"),
        stranger.pid: (None, "sleep"),
        2**22 + 1: (None, None),
    }


def mark(agent: RealAgent) -> str:
    return (agent.state_dir / "id").read_text().strip()
