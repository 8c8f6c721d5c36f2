"""What the agent may cost, and what its one file may use."""

from __future__ import annotations

import ast
import statistics
import sys
import time
from pathlib import Path

from tests.real_agent import AGENT_FILE, RealAgent, wait_until

MB = 1_000_000


def kilobytes(path: Path, *fields: str) -> int:
    """Return the sum of such fields of a /proc file, in bytes."""
    lines = path.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields)


def test_memory_and_report_time_with_fifty_instances(agent: RealAgent) -> None:
    for number in range(50):
        agent.deploy(f"i{number}", "exec sleep 600")
    wait_until(lambda: all(entry["ready"] for entry in agent.request("GET", "/services")[1]["services"]))
    took = []
    for _ in range(20):
        began = time.perf_counter()
        status, report = agent.request("GET", "/report")
        took.append(time.perf_counter() - began)
        assert (status, len(report["services"])) == (200, 50)
    resident = kilobytes(Path(f"/proc/{agent.pid}/status"), "VmRSS")
    private = [
        kilobytes(Path(f"/proc/{agent.shim_pid(f'i{n}')}/smaps_rollup"), "Private_Clean", "Private_Dirty")
        for n in range(50)
    ]
    report_ms = statistics.median(took) * 1000
    print(f"report {report_ms:.1f} ms, agent {resident / MB:.1f} MB, shim {max(private) / MB:.1f} MB")
    assert report_ms < 50
    assert resident < 40 * MB
    assert max(private) < 5 * MB


def test_the_file_is_python_3_8() -> None:
    ast.parse(AGENT_FILE.read_text(), feature_version=(3, 8))


def test_the_file_needs_the_standard_library_only() -> None:
    names = set()
    for node in ast.walk(ast.parse(AGENT_FILE.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add((node.module or "").split(".")[0])
    assert names <= set(sys.stdlib_module_names)
