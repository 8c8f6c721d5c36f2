"""The counts of ``/api/stats``: each app registers its own, so that none has to know the others."""

from collections.abc import Callable

Counts = Callable[[], dict[str, int]]
_sources: list[Counts] = []


def register(source: Counts) -> None:
    """Add a function that returns ``{name: count}``; called once per app at start."""
    if source not in _sources:
        _sources.append(source)


def counts() -> dict[str, int]:
    merged: dict[str, int] = {}
    for source in _sources:
        merged |= source()
    return merged
