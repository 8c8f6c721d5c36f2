"""Whom one can talk to, for the picker: services and endpoints in one list, in a constant number of queries."""

from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from chat.models import Endpoint, target_key
from chat.readiness import first_reasons, why_not_ready
from deployments.models import Placement, Service
from deployments.shown import service_chip, with_standing
from infini.display import QUIET, Chip, url_of
from infini.said import said
from infini.visibility import visible

MOST = 500


def target_choices(user: Any) -> list[dict[str, Any]]:
    """Those that can answer first, services before endpoints, by name. ``why`` is empty for them.

    ``target`` names one; ``external`` is an endpoint. ``url`` is its page, ``terminal`` where a shell on the first of
    a service's servers opens, both empty for whoever may not.
    """
    choices = [*_services(user), *_endpoints(user)]
    return sorted(choices, key=lambda choice: bool(choice["why"]))


def target_of_model(model_id: int, user: Any) -> tuple[str, int] | None:
    """``service`` or ``endpoint`` with its id: what serves the model, first of all what can answer."""
    services = visible(Service.objects.with_status(), user).filter(model=model_id).order_by("name", "pk")[:MOST]
    ready = next((row.pk for row in services if row.ready_count), None)  # type: ignore[attr-defined]
    if ready:
        return "service", ready
    endpoints = visible(Endpoint.objects.all(), user).filter(model=model_id, enabled=True)
    endpoint = endpoints.values_list("pk", flat=True).first()
    if endpoint:
        return "endpoint", endpoint
    return ("service", services[0].pk) if services else None


def _services(user: Any) -> list[dict[str, Any]]:
    services = visible(Service.objects.all(), user)
    rows = list(with_standing(services.with_status()).select_related("model").order_by("name", "pk")[:MOST])
    reasons = first_reasons([row.pk for row in rows if not row.ready_count])
    terminals = _terminals([row.pk for row in rows]) if user.has_perm("inventory.open_terminal") else {}
    return [_service(row, reasons.get(row.pk, ""), terminals.get(row.pk, "")) for row in rows]


def _service(service: Service, reason: str, terminal: str) -> dict[str, Any]:
    return {
        "target": target_key(service_id=service.pk),
        "id": service.pk,
        "external": False,
        "name": service.name,
        "model": service.served_model or (service.model.name if service.model else ""),
        "ready": f"{service.ready_count}/{service.wanted_count}",  # type: ignore[attr-defined]
        "why": said(why_not_ready(service, reason)),
        "chip": _chip(service_chip(service)),
        "url": url_of("admin:deployments_service_change", service.pk),
        "terminal": terminal,
    }


def _terminals(service_ids: list[int]) -> dict[int, str]:
    places = Placement.objects.filter(service__in=service_ids, replicas__gt=0).exclude(server__username="")
    found = places.order_by("-server__name").values_list("service_id", "server_id")
    return {service: f"{reverse('terminal_page')}?server={server}&service={service}" for service, server in found}


def _endpoints(user: Any) -> list[dict[str, Any]]:
    rows = visible(Endpoint.objects.defer("key"), user).select_related("model").order_by("name", "pk")[:MOST]
    may_see = user.has_perm("chat.view_endpoint")
    return [_endpoint(row, may_see) for row in rows]


def _endpoint(endpoint: Endpoint, may_see: bool) -> dict[str, Any]:
    if endpoint.enabled:
        why, chip = "", Chip(_("External"), QUIET, "cloud", _("It runs elsewhere; nobody here watches it."))
    else:
        why, chip = _("It is switched off."), Chip(_("Off"), QUIET, "block")
    return {
        "target": target_key(endpoint_id=endpoint.pk),
        "id": endpoint.pk,
        "external": True,
        "name": endpoint.name,
        "model": endpoint.served_model or (endpoint.model.name if endpoint.model else ""),
        "ready": "",
        "why": why,
        "chip": _chip(chip),
        "url": url_of("admin:chat_endpoint_change", endpoint.pk) if may_see else "",
        "terminal": "",
    }


def _chip(chip: Chip) -> dict[str, str]:
    return {"word": str(chip.word), "role": chip.role, "icon": chip.icon, "title": str(chip.title)}
