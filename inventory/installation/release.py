"""The agent as this site has it: the file that is installed and sent, and which version it is."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from inventory.models import Server

_VERSION_LINE = re.compile(r'^VERSION = "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Release:
    version: str
    source: str
    sha256: str


def own_release() -> Release:
    """Read from the file itself, anew when it has changed: an update of the site takes effect without a restart."""
    path = settings.BASE_DIR / "agent" / "infini_agent.py"
    return _read(path, path.stat().st_mtime_ns)


def installer() -> str:
    """The program that does the work on the server."""
    return (settings.BASE_DIR / "agent" / "install_agent.py").read_text()


@lru_cache(maxsize=4)
def _read(path: Path, _changed: int) -> Release:
    source = path.read_text()
    found = _VERSION_LINE.search(source)
    if found is None:
        raise ValueError(f"{path} names no version")
    return Release(found.group(1), source, hashlib.sha256(source.encode()).hexdigest())


def is_older(version: str, than: str) -> bool:
    """Whether ``version`` precedes ``than``; what is no number counts as 0."""
    return _parts(version) < _parts(than)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def outdated_versions() -> list[str]:
    """The versions on servers that this site has a newer file for; a handful, whatever the number of servers."""
    own = own_release().version
    known = Server.objects.with_agent().exclude(agent_version="").order_by()
    return [v for v in known.values_list("agent_version", flat=True).distinct() if is_older(v, own)]
