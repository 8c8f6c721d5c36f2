"""Many agents in one process, each on a loopback address of its own, over TLS as installed ones: the same certificate
for all of them.

`python -m tests.benchmarks.simulated_agents AGENTS SILENT PORT CERTIFICATE` listens on the addresses of `address_of`;
the last SILENT of them accept connections and never say a word. A line on stdin `fail N` makes the first instance of
agent N fail, `heal N` run again; `counts` prints `{"requests": ..., "connections": ...}` so far.
"""

import asyncio
import json
import random
import ssl
import sys
from typing import Any

INSTANCES, DEVICES = 4, 8
BOOT = "00000000-0000-4000-8000-000000000000"


def address_of(number: int) -> str:
    return f"127.{10 + number // 62500}.{number // 250 % 250}.{1 + number % 250}"


def key_of(number: int, instance: int) -> str:
    return f"sim-{number}-{instance}"


def device(number: int, index: int) -> dict[str, Any]:
    """A busy card: what it is stays, how it does changes with each report."""
    return {
        "vendor": "nvidia", "index": index, "uuid": f"GPU-{number:08x}-{index:04x}-4000-8000-000000000000",
        "parent_uuid": None, "bus_id": f"00000000:{index:02X}:00.0", "name": "NVIDIA H100 80GB HBM3",
        "memory_total_bytes": 85520809984, "memory_used_bytes": 70000000000 + random.randrange(10**9),
        "utilization_percent": random.randrange(60, 100), "temperature_celsius": random.randrange(50, 70),
        "power_watts": random.randrange(300, 690) + 0.5, "health": "ok", "health_reason": "",
        "processes": [{"pid": 1000 + index, "memory_used_bytes": 70000000000, "instance": key_of(number, index // 2)}],
        "slots": 1, "visible_variable": "CUDA_VISIBLE_DEVICES", "visible_value": str(index), "visible_also": [],
        "environment": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, "verified": False,
    }  # fmt: skip


def service(number: int, index: int, failed: bool) -> dict[str, Any]:
    end = {"phase": "failed", "ready": False, "pid": None, "exit_code": 1, "reason": "Exit 1."} if failed else {}
    return {
        "id": key_of(number, index), "status": "running", "phase": "running", "ready": True, "pid": 1000 + index,
        "port": 10001 + index, "generation": 1, "started_at": "2026-01-01T00:00:00.000000Z", "finished_at": None,
        "exit_code": None, "restarts": 0, "reason": "", "restart_history": [],
    } | end  # fmt: skip


def report(number: int, failed: bool) -> bytes:
    document = {
        "agent": {"version": "0.4.0", "protocol": 1, "boot_id": BOOT, "pid": 99, "hostname": f"sim-{number}",
                  "started_at": "2026-01-01T00:00:00.000000Z"},
        "host": {"cpu_percent": random.randrange(100), "cpu_count": 128, "memory_total_bytes": 2**40,
                 "memory_used_bytes": 2**39 + random.randrange(10**9), "memory_percent": 50.1,
                 "disk_total_bytes": 2**42, "disk_used_bytes": 2**41, "disk_percent": 50.0, "load_1m": 12.5,
                 "load_5m": 12.0, "load_15m": 11.5, "uptime_seconds": random.randrange(10**6),
                 "network_in_bytes_per_second": random.randrange(10**9),
                 "network_out_bytes_per_second": random.randrange(10**9), "errors": {}},
        "devices": [device(number, index) for index in range(DEVICES)],
        "device_errors": {}, "devices_observed_at": "2026-01-01T00:00:00.000000Z",
        "services": [service(number, index, failed and index == 0) for index in range(INSTANCES)],
        "observed_at": "2026-01-01T00:00:00.000000Z",
    }  # fmt: skip
    return json.dumps(document).encode()


class Fleet:
    def __init__(self) -> None:
        self.failed: set[int] = set()
        self.requests = self.connections = 0

    async def serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                body = report(number, number in self.failed)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def obey(self, line: str) -> str:
        verb, *rest = line.split()
        if verb == "fail":
            self.failed.add(int(rest[0]))
        elif verb == "heal":
            self.failed.discard(int(rest[0]))
        return json.dumps({"requests": self.requests, "connections": self.connections})


async def main(agents: int, silent: int, port: int, certificate: str) -> None:
    fleet = Fleet()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    held: list[Any] = []
    for number in range(agents):
        if number < agents - silent:
            server = await asyncio.start_server(
                lambda reader, writer, number=number: fleet.serve(number, reader, writer),
                address_of(number), port, ssl=tls,
            )  # fmt: skip
        else:
            server = await asyncio.start_server(
                lambda reader, writer: held.append((reader, writer)), address_of(number), port
            )
        held.append(server)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(fleet.obey(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
