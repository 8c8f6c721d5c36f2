"""Engine presets: what a new service may start from. The data are in ``data/presets.json``.

``verified`` says that flags and health path were found in the vendor's documentation or source; ``evidence`` says
whether anybody ever ran it. Commands follow one rule: ``{model}`` is the weights' name at Hugging Face.

A container is named after ``$INFINI_INSTANCE``, which the agent sets for the command and its stop command alike: a
service's name may hold what Docker refuses, and two instances of a service may share a server. Ending the
``docker run`` client can leave the container alive, hence the stop command, and the removal before each start.
"""

import json
import re
import shlex
import sys
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import get_language, gettext_noop
from django.utils.translation import gettext as _

from deployments.probes import port_problem
from deployments.specs import check_spec
from infini.errors import NotFound

FILE = Path(__file__).parent / "data" / "presets.json"
DEMO = "demo"
NEVER_RUN = gettext_noop("from documentation, never run")
RUN_BY_TESTS = gettext_noop("run by the tests")  # as the file says
_PLACEHOLDERS = {"{port}", "{host}", "{service}", "{model}"}


@dataclass(frozen=True)
class Preset:
    """One engine as a service may start from it; ``port`` is one that the engine's own configuration fixes."""

    key: str
    name: str
    command: str
    probes: dict[str, Any]
    note: str
    source: str
    verified: bool
    stop_command: str = ""
    path_prefix: str = "/v1"
    port: int | None = None
    evidence: str = field(default=NEVER_RUN)
    name_zh: str = ""
    note_zh: str = ""

    @property
    def shown_name(self) -> str:
        """Its name in the reader's language."""
        return (self.name_zh if _reads_chinese() else "") or self.name

    @property
    def shown_note(self) -> str:
        """What must be installed, in the reader's language."""
        return (self.note_zh if _reads_chinese() else "") or self.note

    def fills(self) -> dict[str, Any]:
        """Values for a service, named as the API names them; only those that the preset has."""
        values = {
            "deploy_command": self.command,
            "stop_command": self.stop_command,
            "probes": deepcopy(self.probes),
            "path_prefix": self.path_prefix,
            "port": self.port,
        }
        return {name: value for name, value in values.items() if value}


def _reads_chinese() -> bool:
    return (get_language() or "").startswith("zh")


@cache
def presets() -> tuple[Preset, ...]:
    """All presets in the order of the file, checked as any service's command is. Raises what is wrong with the file."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    found = tuple(_checked(Preset(**_completed(entry))) for entry in entries)
    if len({preset.key for preset in found}) < len(found):
        raise ValueError(f"{FILE}: a key is there twice")
    return found


def preset(key: str) -> Preset:
    """Raises NotFound when there is none with this key."""
    for candidate in presets():
        if candidate.key == key:
            return candidate
    raise NotFound(
        _("There is no preset %(key)r; there are %(names)s.")
        % {"key": key, "names": ", ".join(p.key for p in presets())}
    )


def _completed(entry: dict[str, Any]) -> dict[str, Any]:
    """The demo's command needs this machine's paths, which no file can know."""
    if entry["key"] != DEMO:
        return entry
    program = (sys.executable, str(settings.BASE_DIR / "agent" / "demo_model.py"))
    return entry | {"command": f"exec {shlex.join(program)} --host {{host}} --port {{port}} --model {{model}}"}


def _checked(one: Preset) -> Preset:
    spec = {"command": one.command, "stop_command": one.stop_command, "probes": one.probes, "port": one.port}
    check_spec(spec)
    unknown = set(re.findall(r"\{\w*\}", one.command + one.stop_command)) - _PLACEHOLDERS
    no_port = port_problem(one.probes, command=one.command, port=one.port)
    if unknown or no_port or not one.command.strip():
        raise ValueError(f"{FILE}: {one.key}: {no_port or unknown or 'no command'}")
    return one
