"""The overview: each app registers what it has to say, so that none has to know the others."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.utils.translation import gettext as _

from infini.charts import HistoryCard
from infini.display import Chip
from infini.extras import Part
from infini.models import Event
from infini.timeline import visible_events

RECENT_EVENTS = 12


@dataclass(frozen=True)
class Tile:
    """One figure; it opens the list it counts. ``source`` and ``at`` say who told it, and when last."""

    title: str
    value: str
    url: str
    icon: str
    detail: str = ""
    role: str = "quiet"
    source: str = ""
    at: datetime | None = None


@dataclass(frozen=True)
class State:
    """How many stand so; ``url`` opens the list of them."""

    chip: Chip
    count: int
    url: str


@dataclass(frozen=True)
class States:
    """All of a kind by state, what is wrong first; those of which there is none are left out."""

    title: str
    url: str
    states: list[State]
    source: str
    at: datetime | None
    none: str


@dataclass(frozen=True)
class Problem:
    """Something that needs a person: what, in which state, why, since when, and where to go."""

    name: str
    chip: Chip
    reason: str
    url: str
    severity: int = 1
    since: datetime | None = None


@dataclass(frozen=True)
class Step:
    """A step of the first-run guide; facts tick it."""

    title: str
    text: str
    url: str | None
    button: str
    done: bool


@dataclass
class Section:
    """One app's part of the overview."""

    tiles: list[Tile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    states: list[States] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    charts: list[HistoryCard] = field(default_factory=list)


MakeSection = Callable[[HttpRequest], Section]
_sources: list[MakeSection] = []


def register(source: MakeSection) -> None:
    """Add a function that makes an app's section for the one who asks; called once per app at start."""
    if source not in _sources:
        _sources.append(source)


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """unfold's DASHBOARD_CALLBACK: what the overview shows to the one who asks."""
    sections = [source(request) for source in _sources]
    problems = sorted((p for s in sections for p in s.problems), key=lambda p: (-p.severity, p.name))
    steps = [step for section in sections for step in section.steps]
    may_see_events = request.user.has_perm("infini.view_event")
    events: list[Event] = list(visible_events(request.user)[:RECENT_EVENTS]) if may_see_events else []
    return context | {
        "title": _("Overview"),
        "tiles": [tile for section in sections for tile in section.tiles],
        "problems": problems,
        "steps": steps,
        "next_step": next((step for step in steps if not step.done), None),
        "steps_open": bool(steps) and not steps[-1].done,  # who got there has been through the others
        "states": [states for section in sections for states in section.states],
        "parts": [part for section in sections for part in section.parts],
        "charts": [chart for section in sections for chart in section.charts],
        "events": events,
        "may_see_events": may_see_events,
    }
