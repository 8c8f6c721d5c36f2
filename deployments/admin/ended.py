"""What stopping or restarting services ends, said before it is done, and the word it takes when that is much."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from deployments.models import Instance
from deployments.phases import ALIVE, Phase, Wanted
from infini.confirmation import MANY, Word, typed_if_many, typed_name


def effect_of_stop(services: Sequence[Any]) -> str:
    text = _("Every instance is ended and stays so until somebody deploys again. An open operation is cancelled.")
    return f"{text} {_told(services)}".strip()


def effect_of_restart(services: Sequence[Any]) -> str:
    text = _("Every instance is ended and started anew with its own revision; requests in flight are cut off.")
    return f"{text} {_told(services)}".strip()


def word_to_stop(services: Sequence[Any]) -> Word | None:
    """It takes the last ready instance away, or ends many."""
    return typed_name(services) if _ready(services) else word_to_restart(services)


def word_to_restart(services: Sequence[Any]) -> Word | None:
    """As many services or, of fewer, as many instances."""
    if len(services) >= MANY:
        return typed_if_many(services)
    count = _alive(services)
    if count < MANY:
        return None
    return Word(str(count), _("Type %(n)d, the number of instances that end, to confirm") % {"n": count})


def _told(services: Sequence[Any]) -> str:
    alive, ready = _alive(services), _ready(services)
    if not alive:
        return ""
    ends = ngettext("%(n)d instance ends", "%(n)d instances end", alive) % {"n": alive}
    return _("%(ends)s, %(ready)d of them ready.") % {"ends": ends, "ready": ready}


def _alive(services: Sequence[Any]) -> int:
    return Instance.objects.filter(placement__service__in=[s.pk for s in services], phase__in=ALIVE).count()


def _ready(services: Sequence[Any]) -> int:
    rows = Instance.objects.filter(placement__service__in=[s.pk for s in services], phase=Phase.RUNNING, ready=True)
    return rows.filter(wanted=Wanted.RUNNING).count()
