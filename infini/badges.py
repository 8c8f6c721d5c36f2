"""Counts beside the navigation's items: what needs somebody, and what is under way. Each app registers its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

DANGER, WARNING, INFO = "danger", "warning", "info"


@dataclass(frozen=True)
class Badge:
    """``count`` of something; ``role`` is danger for what fails, warning for what was missed, info for work."""

    count: int
    role: str


Badges = Callable[[Any], Mapping[str, Badge]]  # for a user, by the label of the list's model
_sources: list[Badges] = []


def register(source: Badges) -> None:
    """Add a function that takes one query at most; it is asked for every page of the admin."""
    if source not in _sources:
        _sources.append(source)


def badges_for(user: Any) -> dict[str, Badge]:
    """None at zero."""
    found: dict[str, Badge] = {}
    for source in _sources:
        found |= {label: badge for label, badge in source(user).items() if badge.count}
    return found
