"""What every measurement shares: a table on the terminal, and how figures are taken."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The client's own share is in every figure: the less, the truer. The peers' benchmarks measure with it too."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Table:
    """Rows of one benchmark: what was measured, the figure, its reference of the same run, the bar."""

    title: str
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, what: str, figure: str, reference: str = "", bar: str = "") -> None:
        self.rows.append((what, figure, reference, bar))

    def text(self) -> str:
        rows = [("", "measured", "reference, same run", "bar"), *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(["", self.title, *lines])


@pytest.fixture
def table(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture) -> Iterator[Table]:
    """Printed when the benchmark ends, also when a bar was missed."""
    made = Table((request.function.__doc__ or request.node.name).strip().splitlines()[0])
    yield made
    with capsys.disabled():
        print(made.text())


def milliseconds(work: Callable[[], object], times: int) -> list[float]:
    """How long each of ``times`` calls took, after one that does not count."""
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]
