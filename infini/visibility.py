"""Which rows a person may see. Somebody may be limited to some environments (docs/decisions/0013).

Each app says once per model which of its rows lie within a set of environments; a model without a rule is everybody's.
What spans several environments is seen by those alone who may see all of it. Who is not limited is asked nothing: his
queries stay as they are.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from django.apps import apps
from django.db.models import CharField, Model, Q, QuerySet
from django.db.models.functions import Cast
from django.http import Http404
from django.utils.translation import gettext as _

from infini.errors import Invalid
from infini.models import User

Environments = frozenset[int]
Rule = Callable[[Any, Environments], Any]
Rows = TypeVar("Rows", bound=QuerySet)

# Whoever may change people could lift his own limit: he has none.
UNLIMITED = "infini.change_user"
_rules: dict[str, Rule] = {}
_subjects: dict[str, str] = {}  # by what events call them


def register(label: str, rule: Rule, *, told_of: bool = False) -> None:
    """Say which rows of the model ``app.name`` lie within environments: ``rule(rows, environments)`` narrows rows.

    ``told_of``: events and alerts have such rows for their subject.
    """
    _rules[label] = rule
    if told_of:
        _subjects[label.split(".")[1]] = label


def limits_of(user: Any) -> Environments | None:
    """The ids of the environments ``user`` is limited to; None: he is not limited, and so is the system (None) itself.

    One query for each user object, whatever is asked of it.
    """
    if user is None or user.pk is None:
        return None
    if not hasattr(user, "known_limits"):
        ids = frozenset(user.environment_limits.values_list("environment_id", flat=True))
        user.known_limits = ids if ids and not user.has_perm(UNLIMITED) else None
    limits: Environments | None = user.known_limits
    return limits


def limits_of_id(user_id: int) -> Environments | None:
    """The same of a person known by his id alone; one query for who is not limited."""
    if limits_of(User(pk=user_id)) is None:
        return None
    return limits_of(User.objects.get(pk=user_id))


def visible(rows: Rows, user: Any) -> Rows:
    """Those of ``rows`` that ``user`` may see; for who is not limited, ``rows`` itself."""
    return within(rows, limits_of(user))


def within(rows: Rows, environments: Environments | None) -> Rows:
    """Those of ``rows`` that lie within ``environments``; all for None."""
    rule = _rules.get(rows.model._meta.label_lower)
    return rows if environments is None or rule is None else rule(rows, environments)


def visible_or_404(rows: QuerySet | type[Model], user: Any, **conditions: Any) -> Any:
    """The one row that is meant; what a person may not see is as if it were not there. Raises Http404."""
    if not isinstance(rows, QuerySet):
        rows = rows._default_manager.all()
    row = visible(rows, user).filter(**conditions).first()
    if row is None:
        raise Http404(_("There is no such object."))
    return row


def refuse_out_of_sight(row: Model, *, by: Any) -> None:
    """Raises Invalid when ``by`` may not see what he has just written; call it in the transaction that wrote it."""
    limits = limits_of(by)
    rows: QuerySet = type(row)._default_manager.filter(pk=row.pk)
    if limits is None or within(rows, limits).exists():
        return
    text = _("You are limited to some environments, and this would lie outside of them.")
    raise Invalid(text, fields={"environment": [text]}, code="out_of_sight")


def subjects_within(environments: Environments) -> Q:
    """For rows that name their subject by ``subject_kind`` and ``subject_id`` alone: those about what lies within.

    What is gone lies nowhere.
    """
    found = ~Q(subject_kind__in=[label.split(".")[1] for label in _rules])
    for kind in _subjects:
        found |= _about(kind, environments)
    return found


def visible_about(rows: Rows, kind: str, user: Any) -> Rows:
    """The same where all are about one kind of subject, which is looked at alone."""
    limits = limits_of(user)
    return rows if limits is None else rows.filter(_about(kind, limits))


def _about(kind: str, environments: Environments) -> Q:
    rows: QuerySet = apps.get_model(_subjects[kind])._default_manager.order_by()
    ids = within(rows, environments).annotate(text_id=Cast("pk", CharField())).values("text_id")
    return Q(subject_kind=kind) & Q(subject_id__in=ids)  # in this order: the kind is cheaper to look at
