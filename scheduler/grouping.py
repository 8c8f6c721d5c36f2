"""The servers of a run put together by what they answered: alike where state, exit status and all output are equal."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Count, Min, Q, QuerySet

from scheduler.models import Run, RunResult
from scheduler.states import BAD_RESULTS, ResultState

NAMES_SHOWN = 5
DIFF_MOST_LINES = 2000
# The order on the page: what needs somebody first.
_ORDER = [
    *(ResultState.FAILED, ResultState.TIMED_OUT, ResultState.LOST, ResultState.RUNNING, ResultState.SUCCESS),
    *(ResultState.WAITING, ResultState.SKIPPED, ResultState.CANCELLED),
]
ENDED = (ResultState.SUCCESS, *BAD_RESULTS)


@dataclass(frozen=True)
class Group:
    """Results that are alike; ``first_id`` stands for all. ``key`` names the group in addresses."""

    state: str
    exit_status: int | None
    digest: str
    count: int
    first_id: int
    is_reference: bool = False

    @property
    def key(self) -> str:
        return "-".join([self.state, "" if self.exit_status is None else str(self.exit_status), self.digest[:16]])

    def members(self, run: Run) -> QuerySet[RunResult]:
        rows = RunResult.objects.filter(run=run, state=self.state, exit_status=self.exit_status, digest=self.digest)
        return rows.order_by("server_name", "pk")


def groups_of(run: Run) -> list[Group]:
    """All groups, what needs somebody first, larger ones before smaller; one query. The largest of those that ended is
    the reference the others are compared with.
    """
    rows = RunResult.objects.filter(run=run).order_by().values("state", "exit_status", "digest")
    counted = [Group(**row) for row in rows.annotate(count=Count("pk"), first_id=Min("pk"))]
    ended = [group for group in counted if group.state in ENDED and group.digest]
    reference = max(ended, key=lambda group: (group.count, group.state == ResultState.SUCCESS), default=None)
    marked = [Group(**{**vars(group), "is_reference": group is reference}) for group in counted]
    return sorted(marked, key=lambda group: (_ORDER.index(ResultState(group.state)), -group.count, group.first_id))


def found(run: Run, text: str) -> QuerySet[RunResult]:
    """The results whose server's name, output or reason holds ``text``, whatever its case; all without it."""
    rows = RunResult.objects.filter(run=run)
    if not text:
        return rows
    said = Q(output__icontains=text) | Q(error__icontains=text) | Q(reason__icontains=text)
    return rows.filter(Q(server_name__icontains=text) | said)


@dataclass(frozen=True)
class DiffLine:
    """``sign`` is + for what only this group printed, - for what only the reference did, a blank for both."""

    sign: str
    text: str


def difference(reference: RunResult, other: RunResult) -> list[DiffLine]:
    """What ``other`` printed against ``reference``, with three lines around each difference.

    Of very long outputs the first lines are compared: comparing takes time that grows faster than they do.
    """
    return list(_difference(_lines(reference), _lines(other)))


def _lines(result: RunResult) -> list[str]:
    return [*result.output.splitlines(), *result.error.splitlines()][:DIFF_MOST_LINES]


def _difference(before: list[str], after: list[str]) -> Iterator[DiffLine]:
    for line in difflib.unified_diff(before, after, lineterm="", n=3):
        if line.startswith(("---", "+++")) and len(line.strip()) == 3:
            continue
        yield DiffLine("@" if line.startswith("@@") else line[:1], line if line.startswith("@@") else line[1:])
