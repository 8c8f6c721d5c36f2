"""How busy a server is, asked over SSH where no agent tells it: one command, and what its answer means.

Processor, memory and disk come from Linux itself, accelerators from nvidia-smi and npu-smi where they are there (both
read from documentation and sample output, never run on hardware). What is missing fails alone, with a sentence.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext_noop

from inventory.ssh.access import SshAccess
from inventory.ssh.commands import run

INTERVAL_SECONDS = 1
TOOL_TIMEOUT_SECONDS = 4
_MIB = 1024 * 1024

_NVIDIA_FIELDS = "index,uuid,name,memory.total,memory.used,utilization.gpu,temperature.gpu,power.draw"
# What is slow stands last: what was answered by then counts.
_SCRIPT = f"""
export LC_ALL=C PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
limited() {{ if command -v timeout >/dev/null 2>&1; then timeout {TOOL_TIMEOUT_SECONDS} "$@"; else "$@"; fi; }}
ask() {{ command -v "$1" >/dev/null 2>&1 || return; echo "=== $1"; limited "$@" 2>&1; echo "=== end $1 $?"; }}
echo "=== memory"; cat /proc/meminfo
echo "=== disk"; limited df -P -k /
echo "=== cores"; grep -c "^cpu[0-9]" /proc/stat
echo "=== before"; head -n 1 /proc/stat
sleep {INTERVAL_SECONDS}
echo "=== after"; head -n 1 /proc/stat
ask nvidia-smi --query-gpu={_NVIDIA_FIELDS} --format=csv,noheader,nounits
ask npu-smi info
echo "=== all"
"""


@dataclass
class SshFigures:
    """What was measured: ``values`` as an agent's report names them, ``errors`` for what is missing."""

    values: dict[str, Any] = field(default_factory=dict)
    devices: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    device_errors: dict[str, str] = field(default_factory=dict)


def measure(access: SshAccess, timeout_seconds: float) -> SshFigures:
    """Ask the server now; takes a little over INTERVAL_SECONDS. Raises SshError."""
    result = run(
        access, _SCRIPT, timeout_seconds=timeout_seconds, connect_timeout_seconds=timeout_seconds, output_max_bytes=_MIB
    )
    return read(result.output)


def read(text: str) -> SshFigures:
    """The figures in what the script wrote, cut off or not."""
    sections = _sections(text)
    figures = SshFigures()
    parts: tuple[tuple[str, Callable[[dict[str, str]], dict[str, Any]], str], ...] = (
        (
            "cpu_percent",
            _cpu,
            gettext_noop("The server does not tell how busy its processors are; that is read from /proc/stat."),
        ),
        (
            "memory_percent",
            _memory,
            gettext_noop("The server does not tell its memory; that is read from /proc/meminfo."),
        ),
        (
            "disk_percent",
            _disk,
            gettext_noop("The server does not tell how full its root file system is; df answered nothing."),
        ),
    )
    for name, part, otherwise in parts:
        try:
            figures.values |= part(sections)
        except (LookupError, ValueError, ZeroDivisionError):
            figures.values[name] = None
            figures.errors[name] = otherwise
    for vendor, tool, reader in (("nvidia", "nvidia-smi", _nvidia), ("ascend", "npu-smi", _ascend)):
        if tool in sections:
            devices, problem = _devices(sections, tool, reader)
            figures.devices += devices
            if problem:
                figures.device_errors[vendor] = problem
    if figures.device_errors:
        figures.errors["accelerators"] = " ".join(figures.device_errors.values())
    elif "all" not in sections:
        figures.errors["accelerators"] = gettext_noop(
            "The server was not done with asking for its accelerators in time."
        )
    return figures


def _sections(text: str) -> dict[str, str]:
    """``=== name`` begins a section; "=== end tool 0" is one that holds the status of the tool."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("=== end "):
            tool, _, status = line.removeprefix("=== end ").rpartition(" ")
            found[f"{tool} status"] = status
            name = ""
        elif line.startswith("=== "):
            name = line.removeprefix("=== ").strip()
            found[name] = ""
        elif name:
            found[name] += line + "\n"
    return found


def _cpu(sections: dict[str, str]) -> dict[str, Any]:
    """The share of time the processors were busy over the interval."""
    before, after = ([int(tick) for tick in sections[name].split()[1:9]] for name in ("before", "after"))
    total = sum(after) - sum(before)
    idle = (after[3] + after[4]) - (before[3] + before[4])
    cores = sections.get("cores", "").strip()
    return {
        "cpu_percent": min(100.0, max(0.0, round(100 * (total - idle) / total, 1))),
        "cpu_count": int(cores) if cores.isdigit() else None,
    }


def _memory(sections: dict[str, str]) -> dict[str, Any]:
    lines = dict(line.split(":", 1) for line in sections["memory"].splitlines() if ":" in line)
    total, available = (1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return {
        "memory_percent": round(100 * (total - available) / total, 1),
        "memory_total_bytes": total,
        "memory_used_bytes": total - available,
    }


def _disk(sections: dict[str, str]) -> dict[str, Any]:
    """As df counts it: of what an ordinary account may use."""
    total, used, free = (1024 * int(cell) for cell in sections["disk"].splitlines()[1].split()[1:4])
    return {
        "disk_percent": round(100 * used / (used + free), 1),
        "disk_total_bytes": total,
        "disk_used_bytes": used,
    }


def _devices(
    sections: dict[str, str], tool: str, reader: Callable[[str], list[dict[str, Any]]]
) -> tuple[list[dict[str, Any]], str]:
    """What a vendor's tool lists, and what is wrong with its answer."""
    text, status = sections[tool], sections.get(f"{tool} status")
    if status in (None, "124", "143"):
        return [], gettext_noop("%(tool)s did not answer within %(n)s s.") % {
            "tool": tool,
            "n": TOOL_TIMEOUT_SECONDS,
        }
    if status != "0":
        said = next((line.strip() for line in text.splitlines() if line.strip()), gettext_noop("it says nothing"))
        return [], f"{tool} failed: {said[:200]}"
    devices = reader(text)
    if not devices and text.strip() and "No devices" not in text:
        return [], gettext_noop("%(tool)s answered something that is not understood.") % {"tool": tool}
    return devices, ""


def _nvidia(text: str) -> list[dict[str, Any]]:
    devices = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(_NVIDIA_FIELDS.split(",")) or not cells[0].isdigit():
            continue
        index, uuid, name, total, used, busy, heat, power = cells
        devices.append(_device("nvidia", index, uuid, name, total, used, busy, heat, power))
    return devices


def _ascend(text: str) -> list[dict[str, Any]]:
    """Two rows of three cells for each chip: NPU, name, health, power and heat; then chip, bus, load and memory."""
    devices: list[dict[str, Any]] = []
    first: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) != 3 or not re.match(r"\d+\b", cells[0]):
            first = []
        elif not first:
            first = cells
        else:
            memory = [pair for pair in re.findall(r"(\d+)\s*/\s*(\d+)", cells[2]) if int(pair[1])]
            used, total = memory[-1] if memory else ("", "")
            power, heat = [*first[2].split(), "", ""][:2]
            name = first[0].partition(" ")[2].strip()
            name = name if name.startswith("Ascend") else f"Ascend {name}"
            # Both chips of a board may share an address, hence the chip's number behind it.
            uuid = f"ascend-{cells[1].lower()}-{cells[0].split()[0]}"
            index, busy = str(len(devices)), cells[2].partition(" ")[0]
            devices.append(_device("ascend", index, uuid, name, total, used, busy, heat, power))
            first = []
    return devices


def _device(
    vendor: str, index: str, uuid: str, name: str, total: str, used: str, busy: str, heat: str, power: str
) -> dict[str, Any]:
    """As in an agent's report; what a tool does not tell is None, never zero."""
    return {
        "vendor": vendor,
        "index": int(index),
        "uuid": uuid or f"{vendor}-{index}",
        "name": name,
        "memory_total_bytes": _bytes(total),
        "memory_used_bytes": _bytes(used),
        "utilization_percent": _number(busy, 100),
        "temperature_celsius": _number(heat, 200),
        "power_watts": _number(power, 100_000),
        "verified": False,
    }


def _bytes(mib: str) -> int | None:
    number = _number(mib, 2**40)
    return None if number is None else int(number * _MIB)


def _number(text: str, most: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= most else None
