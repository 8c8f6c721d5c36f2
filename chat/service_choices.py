"""What a person can talk to, for the picker: one list, whatever the number of services."""

from typing import Any

from django.urls import reverse

from chat.readiness import first_reasons, why_not_ready
from deployments.models import Placement, Service
from deployments.shown import service_chip, with_standing
from infini.visibility import visible

MOST = 500


def service_choices(user: Any) -> list[dict[str, Any]]:
    """Services with their state; those that can answer first, then by name. ``why`` is empty for them.

    ``terminal`` is where a shell on the first of its servers opens, for whoever may; else empty.
    """
    services = visible(Service.objects.all(), user)
    rows = list(with_standing(services.with_status()).select_related("model").order_by("name", "pk")[:MOST])
    reasons = first_reasons([row.pk for row in rows if not row.ready_count])
    terminals = _terminals([row.pk for row in rows]) if user.has_perm("inventory.open_terminal") else {}
    choices = [_choice(row, reasons.get(row.pk, "")) | {"terminal": terminals.get(row.pk, "")} for row in rows]
    return sorted(choices, key=lambda choice: bool(choice["why"]))


def _terminals(service_ids: list[int]) -> dict[int, str]:
    places = Placement.objects.filter(service__in=service_ids, replicas__gt=0).exclude(server__username="")
    found = places.order_by("-server__name").values_list("service_id", "server_id")
    return {service: f"{reverse('terminal_page')}?server={server}&service={service}" for service, server in found}


def _choice(service: Service, reason: str) -> dict[str, Any]:
    chip = service_chip(service)
    return {
        "id": service.pk,
        "name": service.name,
        "model": service.served_model or (service.model.name if service.model else ""),
        "ready": f"{service.ready_count}/{service.wanted_count}",  # type: ignore[attr-defined]
        "why": why_not_ready(service, reason),
        "chip": {"word": chip.word, "role": chip.role, "icon": chip.icon, "title": chip.title},
    }
