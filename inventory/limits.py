"""Limiting people to environments, and which of the fleet's rows lie within some (infini/visibility.py)."""

from collections.abc import Collection
from typing import Any

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils.translation import gettext as _

from infini import visibility
from infini.errors import Invalid
from infini.models import User
from infini.visibility import Environments, Rule
from inventory.models import AIModel, Environment, EnvironmentLimit


def limited_to(user: User) -> list[Environment]:
    """The environments a person is limited to, by name; none: not limited."""
    return list(Environment.objects.filter(limits__user=user))


def limit(user: User, environments: Collection[Environment]) -> dict[str, list[Any]]:
    """Limit ``user`` to these; none lifts the limit. Returns what differs, for the event of the change around it.

    Raises Invalid for a person who has no limits: he could lift them himself. Caller holds a transaction.
    """
    if environments and _knows_no_limits(user):
        text = _("Administrators are not limited: they could lift it themselves.")
        raise Invalid(text, fields={"limited_to": [text]})
    before, after = [str(e) for e in limited_to(user)], sorted(map(str, environments))
    if before == after:
        return {}
    with transaction.atomic():
        EnvironmentLimit.objects.filter(user=user).delete()
        EnvironmentLimit.objects.bulk_create(EnvironmentLimit(user=user, environment=e) for e in environments)
    return {"environments": [before, after]}


def _knows_no_limits(user: User) -> bool:
    fresh = User.objects.get(pk=user.pk)  # permissions are remembered by the object that was asked
    return fresh.has_perm(visibility.UNLIMITED)


def _by(path: str) -> Rule:
    return lambda rows, environments: rows.filter(**{f"{path}__in": environments})


def _models(rows: QuerySet[AIModel], environments: Environments) -> QuerySet[AIModel]:
    """A model bound to no environment is everybody's."""
    bound = AIModel.environments.through.objects.filter(aimodel=OuterRef("pk"))
    return rows.filter(~Exists(bound) | Exists(bound.filter(environment__in=environments)))


def register() -> None:
    visibility.register("inventory.environment", _by("pk"), told_of=True)
    visibility.register("inventory.server", _by("environment"), told_of=True)
    visibility.register("inventory.aimodel", _models, told_of=True)
    for name in ("device", "sample", "installation"):
        visibility.register(f"inventory.{name}", _by("server__environment"))
    visibility.register("inventory.terminalsession", _by("server__environment"), told_of=True)
    visibility.register("inventory.recording", _by("session__server__environment"))
