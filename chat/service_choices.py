"""What a person can talk to, for the picker: one list, whatever the number of services."""

from typing import Any

from chat.readiness import first_reasons, why_not_ready
from deployments.models import Service
from deployments.shown import service_chip, with_standing

MOST = 500


def service_choices() -> list[dict[str, Any]]:
    """Services with their state; those that can answer first, then by name. ``why`` is empty for them."""
    rows = list(with_standing(Service.objects.with_status()).select_related("model").order_by("name", "pk")[:MOST])
    reasons = first_reasons([row.pk for row in rows if not row.ready_count])
    choices = [_choice(row, reasons.get(row.pk, "")) for row in rows]
    return sorted(choices, key=lambda choice: bool(choice["why"]))


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
