"""Parameters of a command: environment variables with defaults and allowed values, never part of the command's text."""

import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext as _

from infini.errors import Invalid

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VALUE_MOST_BYTES = 8 * 1024
_PARAMETERS_MOST = 64
_KEYS = {"name", "label", "default", "allowed", "required"}


def check_environment(values: Any) -> None:
    """Raises Invalid unless ``values`` are names of variables with texts."""
    if not isinstance(values, dict):
        raise _at("environment", _("Parameters are names and texts."))
    if len(values) > _PARAMETERS_MOST:
        raise _at("environment", _("At most %(n)d parameters.") % {"n": _PARAMETERS_MOST})
    for name, text in values.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            said = _("%(name)s is no name of a variable: letters, digits and _, no digit first.")
            raise _at("environment", said % {"name": repr(name)[:80]})
        if not isinstance(text, str) or "\0" in text or len(text.encode(errors="replace")) > _VALUE_MOST_BYTES:
            raise _at("environment", _("%(name)s must be a text of at most 8 kB.") % {"name": name})


def check_parameters(parameters: Any) -> list[dict[str, Any]]:
    """The declarations in their one form; raises Invalid about ``parameters``."""
    if not isinstance(parameters, list) or not all(isinstance(one, dict) for one in parameters):
        raise _at("parameters", _("Parameters are a list of objects with name, default and allowed."))
    settled = [_settled(one) for one in parameters[: _PARAMETERS_MOST + 1]]
    if len(settled) > _PARAMETERS_MOST or len({one["name"] for one in settled}) < len(settled):
        raise _at("parameters", _("At most %(n)d parameters, each once.") % {"n": _PARAMETERS_MOST})
    return settled


def _settled(one: dict[str, Any]) -> dict[str, Any]:
    unknown = set(one) - _KEYS
    if unknown:
        raise _at("parameters", _("A parameter has no %(key)s.") % {"key": ", ".join(sorted(map(str, unknown)))})
    allowed = one.get("allowed") or []
    if not isinstance(allowed, list) or not all(isinstance(text, str) for text in allowed):
        raise _at("parameters", _("Allowed values are a list of texts."))
    settled = {"name": one.get("name"), "label": one.get("label") or "", "default": one.get("default") or ""}
    check_environment({settled["name"]: settled["default"]})
    if allowed and settled["default"] and settled["default"] not in allowed:
        raise _at("parameters", _("The default of %(name)s is not among its allowed values.") % settled)
    return settled | {"allowed": allowed, "required": bool(one.get("required"))}


def filled(parameters: list[dict[str, Any]], values: Mapping[str, str]) -> dict[str, str]:
    """The environment for a command with these declarations: given values, else defaults; raises Invalid."""
    declared = {one["name"]: one for one in parameters}
    environment = {name: one["default"] for name, one in declared.items()} | dict(values)
    check_environment(environment)
    for name, one in declared.items():
        if one["required"] and not environment[name]:
            raise _at("environment", _("%(name)s is needed.") % {"name": name})
        if one["allowed"] and environment[name] and environment[name] not in one["allowed"]:
            said = _("%(name)s must be one of: %(allowed)s.") % {"name": name, "allowed": ", ".join(one["allowed"])}
            raise _at("environment", said)
    return environment


def _at(field: str, text: str) -> Invalid:
    return Invalid(text, fields={field: [text]})
