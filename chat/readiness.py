"""Why a service cannot answer: one sentence, for the chat page and the gateway's refusals."""

from django.utils.translation import gettext as _

from deployments.models import Instance, Service
from deployments.phases import DeployStatus, Wanted


def why_not_ready(service: Service, reason: str | None = None) -> str:
    """Empty when an instance is ready. ``service`` carries what ``ServiceQuerySet.with_status`` adds.

    ``reason``: what ``first_reasons`` found, when many are looked at.
    """
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
    if reason is None:
        reason = first_reasons([service.pk]).get(service.pk, "")
    return _("No instance is ready: {reason}").format(reason=reason) if reason else _("No instance is ready.")


def first_reasons(service_ids: list[int]) -> dict[int, str]:
    """Per service what its first wanted instance says is wrong; one query."""
    rows = Instance.objects.filter(placement__service__in=service_ids, wanted=Wanted.RUNNING).exclude(reason="")
    return dict(rows.order_by("-pk").values_list("placement__service", "reason"))
