"""Create, change and remove a row people edit: one way for the admin and the API.

Each writes its event in the same transaction. A change writes only the columns it names, so that what
background processes observe meanwhile is never overwritten.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from django.db import IntegrityError, models, transaction
from django.db.models import F, ProtectedError, RestrictedError
from django.utils.translation import gettext as _

from infini import events
from infini.errors import Conflict, NotFound, StaleVersion
from infini.models import Versioned
from infini.visibility import limits_of, refuse_out_of_sight, visible

M = TypeVar("M", bound=Versioned)
Many = Mapping[str, Collection[models.Model]]


def create(row: M, *, by: events.Actor, many: Many | None = None, placed_later: bool = False) -> M:
    """Insert ``row`` and set its many-to-many ``many``; raises Conflict when a unique name is taken meanwhile.

    Raises Invalid when ``by`` may not see such a row; with ``placed_later`` the caller says so once it is complete.
    """
    with _integrity_as_conflict(row), transaction.atomic():
        row.save(force_insert=True)
        columns = {f.name for f in row._meta.concrete_fields if f.editable}
        data = events.difference(None, row, columns) | _set_many(row, many or {}, by)
        events.record(f"{row._meta.model_name}.created", row, by=by, data=data)
        if not placed_later:
            refuse_out_of_sight(row, by=by)
    return row


def change(
    row: M,
    columns: Iterable[str],
    *,
    by: events.Actor,
    version: int | None = None,
    many: Many | None = None,
    placed_later: bool = False,
) -> M:
    """Write ``columns`` of ``row`` and the many-to-many ``many``, and nothing else.

    ``version`` is what the editor saw; raises StaleVersion when somebody changed the row since,
    NotFound when it is gone, Conflict when a unique name is taken, Invalid when ``by`` would see it no more.
    """
    wanted = set(columns)
    model = type(row)
    with _integrity_as_conflict(row), transaction.atomic():
        before = model._default_manager.filter(pk=row.pk).first()
        if before is None:
            raise NotFound(_("This %(kind)s no longer exists.") % {"kind": row._meta.verbose_name})
        if version is not None and before.version != version:
            raise StaleVersion(
                _("%(before)s was changed meanwhile (version %(version)s, you edited %(edited)s). Load it again.")
                % {"before": before, "version": before.version, "edited": version}
            )
        changes = events.difference(before, row, wanted)
        if changes:
            row.save(update_fields=set(changes))
        changes |= _set_many(row, many or {}, by)
        if changes:
            model._default_manager.filter(pk=row.pk).update(version=F("version") + 1)
            events.record(f"{row._meta.model_name}.changed", row, by=by, data=changes)
            row.version = before.version + 1
            if not placed_later:
                refuse_out_of_sight(row, by=by)
    return row


def _set_many(row: Versioned, many: Many, by: events.Actor) -> dict[str, list[Any]]:
    """Set each, but for what ``by`` does not see of it; returns ``{name: [names before, after]}`` of what differs."""
    changes: dict[str, list[Any]] = {}
    for name, given in many.items():
        related = getattr(row, name)
        rows = [*given, *_unseen(related, by)]
        before, after = sorted(map(str, related.order_by("pk"))), sorted(map(str, rows))
        if before != after:
            related.set(rows)
            changes[name] = [before, after]
    return changes


def _unseen(related: Any, by: events.Actor) -> list[models.Model]:
    if limits_of(by) is None:
        return []
    return list(related.exclude(pk__in=visible(related.order_by(), by).values("pk")))


def remove(row: M, *, by: events.Actor) -> None:
    """Delete ``row``; raises Conflict naming what still needs it."""
    try:
        with transaction.atomic():
            events.record(f"{row._meta.model_name}.deleted", row, by=by)
            row.delete()
    except (ProtectedError, RestrictedError) as error:
        objects = error.protected_objects if isinstance(error, ProtectedError) else error.restricted_objects
        if limits_of(by) is not None:
            objects = {o for o in objects if visible(type(o)._default_manager.filter(pk=o.pk), by).exists()}
        users = sorted({_known_as(o) for o in objects}) or [_("what you do not see")]
        more = _(" and %(n)s more") % {"n": len(users) - 5} if len(users) > 5 else ""
        raise Conflict(
            _("%(row)s is still used by %(users)s%(more)s.") % {"row": row, "users": ", ".join(users[:5]), "more": more}
        ) from None


def _known_as(row: Any) -> str:
    """As people know it: where a service runs is the service itself, to them."""
    known = getattr(row, "known_as", row)
    return f"{known._meta.verbose_name} {known}"


class _integrity_as_conflict:
    """Turns a database's refusal into a Conflict; which constraint it was is left to validation before."""

    def __init__(self, row: Versioned) -> None:
        self.row = row

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, IntegrityError):
            what = f"{self.row._meta.verbose_name} {self.row}"
            raise Conflict(
                _("%(what)s: its name is already taken, or what it refers to is gone.") % {"what": what}
            ) from None
