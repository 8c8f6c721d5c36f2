"""The page on which a person talks to a service, in the admin's frame."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from chat import history
from chat.admission import PERMISSION
from chat.readiness import why_not_ready
from deployments.models import Placement, Service
from deployments.shown import service_chip, with_standing
from deployments.upstreams import upstreams_of

# A page shows the last turns; the API has them all.
SHOWN_MESSAGES = 200


@require_safe
@login_required
@ensure_csrf_cookie
def chat_page(request: HttpRequest, pk: int) -> HttpResponse:
    """History and composer; who may not chat is told which permission is missing."""
    frame = {**admin.site.each_context(request), "permission": PERMISSION}
    if not request.user.has_perm(PERMISSION):
        return render(request, "pages/chat.html", {**frame, "title": _("Chat"), "forbidden": True}, status=403)
    service = with_standing(Service.objects.with_status()).select_related("model").filter(pk=pk).first()
    if service is None:
        raise Http404("There is no such service.")
    return render(request, "pages/chat.html", {**frame, **_talk(request, service)})


def _talk(request: HttpRequest, service: Service) -> dict[str, Any]:
    rows = history.messages_of(user_id=request.user.pk, service_id=service.pk)  # type: ignore[arg-type]
    messages = list(rows.order_by("-pk")[:SHOWN_MESSAGES])
    return {
        "title": _("Chat"),
        "service": service,
        "chip": service_chip(service),
        "why_not_ready": why_not_ready(service),
        "model_name": service.served_model or (service.model.name if service.model else ""),
        "server_names": sorted({upstream.server_name for upstream in upstreams_of(service.pk)}),
        "terminal_links": _terminal_links(request, service),
        "service_url": f"{reverse('admin:index')}deployments/service/{service.pk}/",
        "may_deploy": request.user.has_perm("deployments.deploy_service"),
        "chat_messages": messages[::-1],
        "completions_url": f"/api/services/{service.pk}/chat/completions",
        "history_url": f"/api/services/{service.pk}/chat",
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
    }


def _terminal_links(request: HttpRequest, service: Service) -> list[tuple[str, str]]:
    """Name and address of a terminal on each of the service's servers that has an account, for who may open one."""
    if not request.user.has_perm("inventory.open_terminal"):
        return []
    places = Placement.objects.filter(service=service, replicas__gt=0).exclude(server__username="")
    found = places.order_by("server__name").values_list("server__name", "server_id")
    return [(name, f"{reverse('terminal_page')}?server={pk}&service={service.pk}") for name, pk in found]
