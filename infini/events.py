"""Writing the timeline. Call inside the transaction that changes the fact."""

import hashlib
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import translation

from infini.addresses import current_address
from infini.fields import EncryptedTextField
from infini.models import Event, User

Actor = User | None


def record(kind: str, subject: models.Model, *, by: Actor, data: dict[str, Any] | None = None) -> Event:
    """Append one event about ``subject``; ``by`` None means the system itself."""
    return Event.objects.create(**describe(kind, subject, by=by, data=data))


def describe(kind: str, subject: models.Model, *, by: Actor, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """The columns of an event, for callers that write many at once."""
    return {
        "kind": kind,
        "actor": by,
        "actor_name": by.get_username() if by else "",
        "address": current_address() if by else "",
        "subject_kind": subject._meta.model_name or "",
        "subject_id": str(subject.pk),
        "subject_name": _plainly(subject)[:200],
        "data": data or {},
    }


def _plainly(value: Any) -> str:
    """What is stored is English, whoever's request it was."""
    with translation.override(settings.LANGUAGE_CODE):
        return str(value)


def difference(before: models.Model | None, after: models.Model, columns: set[str]) -> dict[str, list[Any]]:
    """``{column: [old, new]}`` of what differs: of what is referred to the name, which outlives it; of a secret only
    whether it is set, of a certificate its digest.
    """
    changes: dict[str, list[Any]] = {}
    for field in after._meta.concrete_fields:
        if field.name not in columns:
            continue
        old = field.value_from_object(before) if before else None
        new = field.value_from_object(after)
        if old != new:
            changes[field.name] = [_shown(field, old, before), _shown(field, new, after)]
    return changes


def _shown(field: models.Field, value: Any, row: models.Model | None) -> Any:
    if field.is_relation and value is not None:
        return _plainly(getattr(row, field.name))
    if isinstance(field, EncryptedTextField):
        return "set" if value else ""
    if isinstance(value, str) and value.startswith("-----BEGIN "):
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"
    return value if isinstance(value, str | int | float | bool | dict | list | None) else _plainly(value)
