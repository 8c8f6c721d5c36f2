"""The counts of ``/api/stats``: each app registers its own, so that none has to know the others."""

from collections.abc import Callable
from typing import Any

Counts = Callable[[Any], dict[str, int]]  # of what this person may see
_sources: list[Counts] = []

# What clients may rely on. Of what no app registers there is none on this site.
NAMES = (
    *("server_count", "online_server_count", "service_count", "deployed_service_count"),
    *("instance_count", "device_count", "device_in_use_count", "task_count"),
)


def register(source: Counts) -> None:
    """Add a function that returns ``{name: count}`` for a person; called once per app at start."""
    if source not in _sources:
        _sources.append(source)


def counts(user: Any) -> dict[str, int]:
    merged = dict.fromkeys(NAMES, 0)
    for source in _sources:
        merged |= source(user)
    return merged
