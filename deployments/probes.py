"""Health checks as a revision keeps them: the fields of docs/agent-protocol.md, checked before an agent sees them."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

STARTUP_MAX_SECONDS = 7 * 86400
STARTUP_SECONDS = 1800  # an agent's own, where a revision names none
_Check = tuple[Callable[[Any], bool], Any]  # what holds, and what is said when it does not


def _is_number(value: Any, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and _is_number(value, least, most)


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"/[!-~]*", value) is not None


def _is_address(value: Any) -> bool:
    try:
        ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return "%" not in value


# What the agent takes; what it would refuse is said when a service is saved, not when it is deployed.
_FIELDS: dict[str, _Check] = {
    "type": (lambda v: v in ("http", "tcp", "none"), gettext_lazy("Give http, tcp or none.")),
    "path": (
        _is_path,
        gettext_lazy("Give a path that begins with / and holds neither spaces nor letters beyond ASCII."),
    ),
    "expected_status": (lambda v: _is_whole(v, 100, 599), gettext_lazy("Give an HTTP status from 100 to 599.")),
    "host": (_is_address, gettext_lazy("Give an IP address of the server.")),
    "startup_seconds": (
        lambda v: _is_number(v, 0.1, STARTUP_MAX_SECONDS),
        gettext_lazy("Give seconds from 0.1 to 604800, a week."),  # STARTUP_MAX_SECONDS
    ),
    "period_seconds": (lambda v: _is_number(v, 0.1, 3600), gettext_lazy("Give seconds from 0.1 to 3600.")),
    "timeout_seconds": (lambda v: _is_number(v, 0.1, 60), gettext_lazy("Give seconds from 0.1 to 60.")),
    "failure_threshold": (lambda v: _is_whole(v, 1, 100), gettext_lazy("Give a whole number from 1 to 100.")),
}


def probe_problems(probes: Any) -> dict[str, str]:
    """A sentence for each field that the agent would refuse; null counts as left out. "" is about the whole."""
    if not isinstance(probes, Mapping):
        return {"": _("A health check is an object of fields.")}
    problems: dict[str, str] = {}
    for name, value in probes.items():
        if name not in _FIELDS:
            problems[name] = _("There is no such field; there are %(fields)s.") % {"fields": ", ".join(_FIELDS)}
        elif value is not None and not _FIELDS[name][0](value):
            problems[name] = str(_FIELDS[name][1])
    return problems


def port_problem(probes: Mapping[str, Any], *, command: str, port: int | None) -> str | None:
    """What keeps ``probes`` from asking anything: a check over the network needs a port."""
    if probes.get("type") not in ("http", "tcp") or port is not None or "{port}" in command:
        return None
    return _("This check needs a port: write {port} in the command, or give the service a fixed one.")


def sentences(problems: Mapping[str, str]) -> list[str]:
    """As an API says them under one name: each with its field before it."""
    return [f"{name}: {sentence}" if name else sentence for name, sentence in problems.items()]
