"""What runs on a device, as the last report tells: of an instance, or of somebody whom nobody here has asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from infini.display import gib


@dataclass(frozen=True)
class DeviceProcess:
    """A process on a device; ``instance`` is a key, None for one that was not started from here."""

    pid: int
    command: str
    memory_used_bytes: int | None
    instance: str | None

    def __str__(self) -> str:
        memory = f", {gib(self.memory_used_bytes)} GiB" if self.memory_used_bytes is not None else ""
        return f"{self.command or '?'} ({self.pid}{memory})"


def processes_on(live: Mapping[str, Any]) -> list[DeviceProcess]:
    """Those that the tool lists, by PID; ``live`` is a device of a report. None listed and none told are alike here."""
    listed = live.get("processes")
    rows = [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []
    return [_process(row) for row in rows if isinstance(row.get("pid"), int)]


def strangers_on(live: Mapping[str, Any]) -> list[DeviceProcess]:
    """Those that no instance has started. Agents before 0.4 do not tell: then nobody is called a stranger."""
    listed = live.get("processes")
    rows = [p for p in listed if isinstance(p, dict) and "instance" in p] if isinstance(listed, list) else []
    return [process for process in processes_on({"processes": rows}) if process.instance is None]


def in_words(processes: list[DeviceProcess]) -> str:
    """For a tooltip: each with its memory, and whose it is."""
    stranger = _("not started from here")
    return "; ".join(f"{process}: {process.instance or stranger}" for process in processes)


def _process(row: Mapping[str, Any]) -> DeviceProcess:
    memory, command, instance = row.get("memory_used_bytes"), row.get("command"), row.get("instance")
    return DeviceProcess(
        row["pid"],
        command if isinstance(command, str) else "",
        memory if isinstance(memory, int) else None,
        instance if isinstance(instance, str) else None,
    )
