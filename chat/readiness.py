"""Why a service cannot answer: one sentence, for the chat page and the gateway's refusals."""

from django.utils.translation import gettext_noop

from deployments.models import Instance, Service
from deployments.phases import DeployStatus, Wanted


def why_not_ready(service: Service, reason: str | None = None) -> str:
    """A sentence in English, to be ``said``; empty when an instance is ready.

    ``service`` carries what ``ServiceQuerySet.with_status`` adds.
    ``reason``: what ``first_reasons`` found, when many are looked at.
    """
    status, ready = service.deploy_status, service.ready_count  # type: ignore[attr-defined]
    if ready:
        return ""
    if status == DeployStatus.DEPLOYING:
        return gettext_noop("It is being deployed; no instance is ready yet.")
    if status == DeployStatus.OFFLINE:
        return gettext_noop("Its servers do not answer.")
    if service.current_revision_id is None:
        return gettext_noop("It has never been deployed.")
    if service.wanted != Wanted.RUNNING:
        return gettext_noop("It is stopped.")
    if reason is None:
        reason = first_reasons([service.pk]).get(service.pk, "")
    if not reason:
        return gettext_noop("No instance is ready.")
    return gettext_noop("No instance is ready: %(reason)s") % {"reason": reason}


def first_reasons(service_ids: list[int]) -> dict[int, str]:
    """Per service what its first wanted instance says is wrong; one query."""
    rows = Instance.objects.filter(placement__service__in=service_ids, wanted=Wanted.RUNNING).exclude(reason="")
    return dict(rows.order_by("-pk").values_list("placement__service", "reason"))
