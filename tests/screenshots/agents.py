"""Agents of a small fleet in one thread, each on a loopback address of its own: what is deployed on them "runs".

They speak the agent's protocol as far as the site asks here: reports, deploy, stop, restart and delete. No process is
started. One of the servers never answers, and a command that says `fail` ends by itself.
"""

import asyncio
import json
import random
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

TOKEN = "t" * 43


VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Kind:
    """One sort of machine; memory in GiB."""

    vendor: str
    name: str
    memory: int
    devices: int
    watts: int


H100 = Kind("nvidia", "NVIDIA H100 80GB HBM3", 80, 8, 620)
L40S = Kind("nvidia", "NVIDIA L40S", 48, 4, 290)
ASCEND = Kind("ascend", "910B2", 64, 8, 300)
P800 = Kind("kunlunxin", "P800", 96, 8, 340)


@dataclass
class Agent:
    """What one server tells; ``busy`` is about how many percent its devices do while something holds them."""

    number: int
    kind: Kind
    disk: float
    busy: int
    silent: bool = False
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.20.0.{self.number}"

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path.startswith("/report"):
            return 200, self.report()
        _, _, key, *rest = path.partition("?")[0].split("/")
        verb = rest[0] if rest else ""
        if verb == "deploy":
            self.instances[key] = self._started(key, body)
            return 201, self.instances[key]
        row = self.instances.get(key)
        if row is None:
            return 404, {"error": {"code": "unknown_instance", "message": "There is no such instance."}}
        if verb == "stop":
            row |= {"status": "stopped", "phase": "stopped", "ready": False, "pid": None, "finished_at": _now()}
            row |= {"generation": body.get("generation", row["generation"]), "reason": "Stopped on request."}
        elif method == "DELETE":
            del self.instances[key]
        return 200, row | {"log_tail": row.get("log", [])}

    def _started(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        row = {
            "id": key, "status": "running", "phase": "running", "ready": True, "pid": random.randrange(3000, 60000),
            "port": body.get("port"), "generation": body.get("generation", 1), "started_at": _now(),
            "finished_at": None, "exit_code": None, "restarts": 0, "restart_streak": 0, "restart_history": [],
            "reason": "", "devices": body.get("env", {}),
        }  # fmt: skip
        if "--fail" in body["command"]:
            log = ["Loading weights: 61%", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]
            row |= {"status": "stopped", "phase": "failed", "ready": False, "pid": None, "finished_at": _now()}
            row |= {"exit_code": 1, "reason": "Exited with code 1.", "log": log}
        return row

    def report(self) -> dict[str, Any]:
        now = _now()
        return {
            "agent": {"version": "0.4.0", "protocol": 1, "boot_id": f"00000000-0000-4000-8000-{self.number:012}",
                      "pid": 812, "hostname": f"gpu-{self.number:02}", "started_at": now},
            "host": {"cpu_percent": _about(self.busy * 0.4), "cpu_count": 128, "memory_total_bytes": 2**40,
                     "memory_used_bytes": int(2**40 * 0.31), "memory_percent": _about(31.0),
                     "disk_total_bytes": 2**43, "disk_used_bytes": int(2**43 * self.disk / 100),
                     "disk_percent": self.disk, "load_1m": 22.4, "load_5m": 21.9, "load_15m": 20.2,
                     "uptime_seconds": 1_901_000, "network_in_bytes_per_second": 41_000_000,
                     "network_out_bytes_per_second": 97_000_000, "errors": {}},
            "devices": [self._device(index) for index in range(self.kind.devices)],
            "device_errors": {}, "devices_observed_at": now,
            "services": list(self.instances.values()), "observed_at": now,
        }  # fmt: skip

    def _device(self, index: int) -> dict[str, Any]:
        running = [row for row in self.instances.values() if row["status"] == "running"]
        held = next((row for row in running if str(index) in row["devices"].get(VISIBLE, "").split(",")), None)
        total = self.kind.memory * 2**30
        return {
            "vendor": self.kind.vendor, "index": index, "uuid": f"{self.kind.vendor}-{self.number}-{index}",
            "parent_uuid": None, "bus_id": f"0000:{index * 16 + 1:02x}:00.0", "name": self.kind.name,
            "memory_total_bytes": total, "memory_used_bytes": int(total * (0.91 if held else 0.01)),
            "utilization_percent": _about(self.busy) if held else 0.0,
            "temperature_celsius": _about(68 if held else 34),
            "power_watts": _about(self.kind.watts * (0.9 if held else 0.2)),
            "health": "ok", "health_reason": "", "processes": [_process(held, total)] if held else [], "slots": 1,
            "visible_variable": VISIBLE, "visible_value": str(index), "visible_also": [],
            "environment": {}, "verified": self.kind.vendor == "nvidia",
        }  # fmt: skip


def _process(row: dict[str, Any], total: int) -> dict[str, Any]:
    return {"pid": row["pid"], "memory_used_bytes": int(total * 0.9), "command": "vllm", "instance": row["id"]}


class Agents:
    """All of them, listening from ``start`` to the end of this process."""

    def __init__(self, agents: list[Agent], port: int) -> None:
        self.agents, self.port = agents, port

    def start(self) -> None:
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True).start()
        assert ready.wait(10), "the simulated agents do not listen"

    async def _serve(self, ready: threading.Event) -> None:
        for agent in self.agents:
            if not agent.silent:
                await asyncio.start_server(lambda r, w, a=agent: _talk(a, r, w), agent.address, self.port)  # type: ignore[misc]
        ready.set()
        await asyncio.Event().wait()


async def _talk(agent: Agent, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            method, path, _version = head.split(" ", 2)
            lengths = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length:")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b""
            status, document = agent.answer(method, path, json.loads(body or b"{}"))
            text = json.dumps(document).encode()
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode()
                + text
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def _about(figure: float) -> float:
    return round(
        min(100.0, figure * random.uniform(0.94, 1.06)) if figure <= 100 else figure * random.uniform(0.94, 1.06), 1
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
