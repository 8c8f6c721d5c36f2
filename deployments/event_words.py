"""What happens to services and instances, in words."""

from typing import Any

from django.utils.translation import gettext_lazy as _

from deployments.phases import OperationKind, OperationState, Phase

_ASKED = {
    OperationKind.DEPLOY: _("is to be deployed"),
    OperationKind.RESTART: _("is to be restarted"),
    OperationKind.STOP: _("is to be stopped"),
    OperationKind.ROLL_BACK: _("is to be rolled back"),
    OperationKind.DELETE: _("is to be deleted"),
    OperationKind.RECONCILE: _("differs from what is wanted; it is put right"),
}
_DONE = {
    OperationKind.DEPLOY: _("was deployed"),
    OperationKind.RESTART: _("was restarted"),
    OperationKind.STOP: _("was stopped"),
    OperationKind.ROLL_BACK: _("was rolled back"),
    OperationKind.DELETE: _("was deleted"),
    OperationKind.RECONCILE: _("was put right"),
}
_FAILED = {
    OperationKind.DEPLOY: _("could not be deployed everywhere"),
    OperationKind.RESTART: _("could not be restarted everywhere"),
    OperationKind.STOP: _("could not be stopped everywhere"),
    OperationKind.ROLL_BACK: _("could not be rolled back everywhere"),
    OperationKind.DELETE: _("could not be deleted everywhere"),
    OperationKind.RECONCILE: _("could not be put right"),
}


def _phase(data: dict[str, Any]) -> Any:
    """The new phase alone: the one before stands in the event above."""
    to = data.get("to")
    return Phase(to).label if to in Phase.values else to


WORDS = {
    "instance.phase": _phase,
    "instance.buried_ended": _("was ended after all"),
    "instance.took_over": _("took the place of an older one"),
    "instance.adopted": _("was adopted as it ran"),
    "instance.devices_freed": _("has its devices no more: a person freed them"),
    "server.unknown_found": _("runs something that nobody here asked for"),
    "server.unknown_stopped": _("ended something that nobody here had asked for"),
    "server.unknown_forgotten": _("forgot something that nobody here had asked for"),
    "service.placed": _("has other servers"),
    "service.revised": _("has a new revision"),
    "service.revision_good": _("runs well: its revision is good"),
    "service.revision_failed": _("failed soon after it was deployed"),
    "service.revision_noted": _("has a note on its revision"),
    "service.returned": _("went back to the last good revision"),
    "service.rolled_back": _("goes back to an earlier revision"),
    "service.stopped_with_site": _("was stopped with the site"),
    **{f"service.{kind}_asked": words for kind, words in _ASKED.items()},
    **{f"service.{kind}_{OperationState.DONE}": words for kind, words in _DONE.items()},
    **{f"service.{kind}_{OperationState.FAILED}": words for kind, words in _FAILED.items()},
    f"service.{OperationKind.DEPLOY}_{OperationState.RETURNED}": _("failed and went back"),
}
