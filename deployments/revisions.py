"""Revisions beside each other: what differs between two, with secret values told by name alone; and their notes."""

import difflib
import json
from dataclasses import dataclass
from typing import Any

from django.utils.text import capfirst
from django.utils.translation import gettext as _

from deployments.models import Revision, Service
from infini import events
from infini.errors import NotFound

SECRET = "set"
SECRET_CHANGED = "set, changed"


@dataclass(frozen=True)
class Line:
    """One line of a difference: ``mark`` is + or - or a blank."""

    mark: str
    text: str


@dataclass(frozen=True)
class FieldDifference:
    """One field that differs, with its lines."""

    name: str
    label: str
    lines: list[Line]


def revision_of(service: Service, number: int) -> Revision:
    """Raises NotFound for a number the service never had."""
    found = service.revisions.filter(number=number).first()
    if found is None:
        raise NotFound(_("%(service)s has no revision %(number)s.") % {"service": service, "number": number})
    return found


def changes(before: Revision, after: Revision) -> dict[str, list[Any]]:
    """``{column: [before, after]}`` of what differs; of secret variables their names, and which have another value."""
    found = events.difference(before, after, set(Revision.SPEC))
    if "secret_env" in found:
        old, new = _secrets(before), _secrets(after)
        told = {name: SECRET if old.get(name, value) == value else SECRET_CHANGED for name, value in new.items()}
        found["secret_env"] = [dict.fromkeys(old, SECRET), told]
    return found


def differences(before: Revision, after: Revision) -> list[FieldDifference]:
    """The same for people: field by field in the order of a form, as lines."""
    found = changes(before, after)
    return [_difference(name, *found[name]) for name in Revision.SPEC if name in found]


def set_note(revision: Revision, note: str, *, by: events.Actor) -> None:
    """Why it is deployed; the one thing about a revision that may be said later. Call inside a transaction."""
    if note and note != revision.note:
        Revision.objects.filter(pk=revision.pk).update(note=note)
        data = {"revision": revision.number, "note": [revision.note, note]}
        events.record("service.revision_noted", revision.service, by=by, data=data)
        revision.note = note


def _difference(name: str, old: Any, new: Any) -> FieldDifference:
    label = capfirst(str(Revision._meta.get_field(name).verbose_name))  # type: ignore[union-attr]
    compared = difflib.ndiff(_lines(old), _lines(new))
    return FieldDifference(name, label, [Line(text[0], text[2:]) for text in compared if text[0] in "+- "])


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name}={text if isinstance(text, str) else json.dumps(text)}" for name, text in sorted(value.items())]
    return [] if value in (None, "") else str(value).splitlines()


def _secrets(revision: Revision) -> dict[str, str]:
    return json.loads(revision.secret_env) if revision.secret_env else {}
