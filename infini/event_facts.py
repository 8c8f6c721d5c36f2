"""What an event says beyond its kind, in the words that forms and lists have for the same: for people, not programs."""

from functools import cache
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, Model
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.display import ABSENT
from infini.models import AlertKind, Event
from infini.said import said

FACT_MAX_CHARS = 120
# Of no use to a reader, or said by the words already.
_UNSAID = ("id", "version", "operation", "from", "to", "installation")
_NAMES = {
    "address": _("address"),
    "alert": _("alert"),
    "alerts": _("alerts"),
    "bytes": _("bytes"),
    "cards": _("cards"),
    "count": _("count"),
    "device": _("device"),
    "devices": _("devices"),
    "ending": _("ended by"),
    "environments": _("limited to"),
    "error": _("error"),
    "exit_status": _("exit status"),
    "fingerprint": _("fingerprint"),
    "in_place_of": _("in place of"),
    "key": _("key"),
    "left": _("left"),
    "message": _("message"),
    "method": _("method"),
    "offered": _("offered"),
    "owner": _("owner"),
    "path": _("path"),
    "pinned": _("pinned"),
    "query": _("filter"),
    "reason": _("reason"),
    "results": _("results"),
    "revision": _("revision"),
    "role": _("role"),
    "run": _("run"),
    "sent": _("sent"),
    "server": _("server"),
    "servers": _("servers"),
    "user": _("user"),
}
_VALUES = {
    "done": _("done"),
    "failed": _("failed"),
    "skipped": _("skipped"),
    "cancelled": _("cancelled"),
    "waiting": _("waiting"),
    "set": _("set"),
    **{str(kind.value): kind.label for kind in AlertKind},
}
_SAID_BY_A_WORD = ("results", "alert")  # whose values are of a few words of ours, not of what people wrote


def event_text(event: Event) -> str:
    """``column: old → new`` of each difference, other facts as they are."""
    differs = event.kind.endswith((".created", ".changed"))
    told = []
    for name, fact in event.data.items():
        if name in _UNSAID or (differs and not _is_pair(fact)):
            continue
        field = _field(event.subject_kind, name) if differs else None
        text = _difference(field, *fact) if differs else _plain(name, fact)
        if text:
            told.append(f"{_name(field, name)}: {said(text)}")
    return "; ".join(told)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _name(field: Any, name: str) -> str:
    """As the form labels it; a name that nobody gave words is said without its underscores."""
    words = field.verbose_name if field is not None else _NAMES.get(name) or gettext(name).replace("_", " ")
    return str(words)


@cache
def _field(kind: str, name: str) -> Any:
    try:
        return _models()[kind]._meta.get_field(name)
    except (KeyError, FieldDoesNotExist):
        return None


@cache
def _models() -> dict[str, type[Model]]:
    """Of every app here by the names that events have for them."""
    return {model._meta.model_name or "": model for model in apps.get_models()}


def _difference(field: Any, old: Any, new: Any) -> str:
    before, after = _value(field, old), _value(field, new)
    if not before:
        return after
    return f"{before} → {after or ABSENT}"


def _value(field: Any, value: Any) -> str:
    if isinstance(field, Field) and field.choices and isinstance(value, str | int):
        return str(dict(field.flatchoices).get(value, value))
    return _fact(_VALUES["set"] if value == "set" else value)


def _plain(name: str, fact: Any) -> str:
    if name == "revision" and _is_pair(fact):
        return _difference(None, *fact)
    if name not in _SAID_BY_A_WORD:
        return _fact(fact)
    if isinstance(fact, dict):
        return _fact({about: _VALUES.get(str(word), word) for about, word in fact.items()})
    return _fact(_VALUES.get(str(fact), fact))


def _fact(value: Any) -> str:
    if value in (None, "", [], {}):
        return ""
    if isinstance(value, bool):
        return gettext("yes") if value else gettext("no")
    if isinstance(value, dict):
        value = [f"{name} {fact}" for name, fact in value.items()]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= FACT_MAX_CHARS else f"{text[:FACT_MAX_CHARS]}…"
