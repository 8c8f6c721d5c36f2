"""Why a service cannot answer: one sentence, for the chat page and the gateway's refusals."""

from django.utils.translation import gettext as _

from deployments.models import Instance, Service
from deployments.phases import DeployStatus, Wanted


def why_not_ready(service: Service) -> str:
    """Empty when an instance is ready. ``service`` carries what ``ServiceQuerySet.with_status`` adds."""
    status, ready = service.deploy_status, service.ready_count  # type: ignore[attr-defined]
    if ready:
        return ""
    if status == DeployStatus.DEPLOYING:
        return _("It is being deployed; no instance is ready yet.")
    if status == DeployStatus.OFFLINE:
        return _("Its servers do not answer.")
    if service.current_revision_id is None:
        return _("It has never been deployed.")
    if service.wanted != Wanted.RUNNING:
        return _("It is stopped.")
    reason = _first_reason(service)
    return _("No instance is ready: {reason}").format(reason=reason) if reason else _("No instance is ready.")


def _first_reason(service: Service) -> str:
    rows = Instance.objects.filter(placement__service=service.pk, wanted=Wanted.RUNNING).exclude(reason="")
    return rows.values_list("reason", flat=True).first() or ""
