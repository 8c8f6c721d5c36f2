"""How installations are shown: a chip for each and for each step, and which of a batch come first."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from infini.display import BAD, BUSY, GOOD, QUIET, Chip
from infini.said import said
from inventory.installation.plans import label_of
from inventory.installation.states import Kind, State, StepState
from inventory.models import Installation

_STATES: dict[str, tuple[str, str]] = {
    State.QUEUED: (QUIET, "schedule"),
    State.RUNNING: (BUSY, "progress_activity"),
    State.DONE: (GOOD, "task_alt"),
    State.FAILED: (BAD, "error"),
    State.CANCELLED: (QUIET, "block"),
}
_STEPS: dict[str, tuple[str, str]] = {
    StepState.WAITING: (QUIET, "hourglass_empty"),
    StepState.RUNNING: (BUSY, "progress_activity"),
    StepState.DONE: (GOOD, "check_circle"),
    StepState.UNCHANGED: (QUIET, "check"),
    StepState.PLANNED: (BUSY, "edit_note"),
    StepState.FAILED: (BAD, "error"),
    StepState.CANCELLED: (QUIET, "block"),
    StepState.SKIPPED: (QUIET, "remove"),
}
_WORST_FIRST = [State.FAILED, State.RUNNING, State.QUEUED, State.CANCELLED, State.DONE]


@dataclass(frozen=True)
class StepRow:
    label: str
    chip: Chip
    text: str
    output: str
    failed: bool
    seconds: str


@dataclass(frozen=True)
class InstallationRow:
    row: Installation
    chip: Chip
    steps: list[StepRow]
    open: bool


def installation_chip(row: Installation) -> Chip:
    if row.state == State.QUEUED:
        return Chip(_("Queued"), QUIET, "schedule", _("Waits for a worker"))
    if row.state == State.DONE and row.dry_run:
        return Chip(_("Looked at"), GOOD, "task_alt", _("Nothing was changed"))
    role, icon = _STATES[row.state]
    done = sum(step["state"] in (StepState.DONE, StepState.UNCHANGED, StepState.PLANNED) for step in row.steps)
    title = said(row.reason) or _("%(done)d of %(all)d steps") % {"done": done, "all": len(row.steps)}
    return Chip(str(State(row.state).label), role, icon, title)


def installation_rows(rows: Iterable[Installation], *, all_open: bool = False) -> list[InstallationRow]:
    """Failed ones first; those under way and failed, and of a dry run all, show their steps."""
    ordered = sorted(rows, key=lambda row: (_WORST_FIRST.index(State(row.state)), row.server_name))
    return [
        InstallationRow(
            row,
            installation_chip(row),
            step_rows(row),
            all_open or row.dry_run or row.state in (State.FAILED, State.RUNNING),
        )
        for row in ordered
    ]


def step_rows(row: Installation) -> list[StepRow]:
    return [_step_row(row.kind, step) for step in row.steps]


def _step_row(kind: str, step: dict[str, Any]) -> StepRow:
    state = StepState(step["state"])
    role, icon = _STEPS[state]
    chip = Chip(str(state.label), role, icon)
    return StepRow(
        label_of(kind, step["name"]), chip, said(step["text"]), step["output"], state == StepState.FAILED, _took(step)
    )


def _took(step: dict[str, Any]) -> str:
    if not step["started_at"] or not step["finished_at"]:
        return ""
    begun, ended = (datetime.fromisoformat(step[name]) for name in ("started_at", "finished_at"))
    seconds = (ended - begun).total_seconds()
    return f"{seconds:.1f} s" if seconds >= 0.05 else ""


@dataclass(frozen=True)
class Progress:
    """How far a batch has come, in numbers and a sentence."""

    total: int
    done: int
    failed: int
    open: int
    cancelled: int

    @classmethod
    def of(cls, states: Iterable[str]) -> "Progress":
        by_state = Counter(states)
        open_ones = by_state[State.QUEUED] + by_state[State.RUNNING]
        return cls(by_state.total(), by_state[State.DONE], by_state[State.FAILED], open_ones, by_state[State.CANCELLED])

    @property
    def ended(self) -> int:
        return self.total - self.open

    @property
    def again(self) -> int:
        """How many a retry would take up."""
        return self.failed + self.cancelled

    def __str__(self) -> str:
        parts = [_("%(done)d of %(total)d done") % {"done": self.done, "total": self.total}]
        if self.failed:
            parts.append(_("%(n)d failed") % {"n": self.failed})
        if self.cancelled:
            parts.append(_("%(n)d cancelled") % {"n": self.cancelled})
        if self.open:
            parts.append(_("%(n)d under way") % {"n": self.open})
        return ", ".join(parts)


def title_of(kind: str, dry_run: bool = False) -> str:
    title = {
        Kind.INSTALL: _("Install the agent"),
        Kind.UPGRADE: _("Upgrade the agent"),
        Kind.REMOVE: _("Remove the agent"),
    }[Kind(kind)]
    return _("%(title)s: dry run") % {"title": title} if dry_run else title
