"""Where a terminal that was opened for a service begins: its directory and plain variables.

Services belong to an app above this one, which registers how they are found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Surroundings:
    """A service as seen from one of its servers. Secret variables are not among ``environment``: a shell shows all."""

    service_name: str
    directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


Find = Callable[[int, int], Surroundings | None]
_find: Find = lambda service_id, server_id: None  # noqa: E731


def register(find: Find) -> None:
    """``find(service_id, server_id)`` is None when that service has no place on that server."""
    global _find
    _find = find


def surroundings_of(service_id: int, server_id: int) -> Surroundings | None:
    return _find(service_id, server_id)
