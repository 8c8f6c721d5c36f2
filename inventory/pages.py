"""The terminal page: outside the admin's frame, which takes Ctrl+E and half a phone's screen."""

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from infini.visibility import visible
from inventory.models import Server, TerminalSession
from inventory.terminals import registry
from inventory.terminals.surroundings import surroundings_of


@require_safe
@login_required
@ensure_csrf_cookie
def terminal_page(request: HttpRequest) -> HttpResponse:
    """``?server=`` opens a terminal there, with ``&service=`` in that service's surroundings; ``&observe=`` watches
    somebody's, or takes up one's own. Without any it offers the servers and one's own open terminals."""
    user: Any = request.user
    if not user.has_perm(registry.PERMISSION):
        frame = {"title": _("Terminal"), "permission": registry.PERMISSION}
        return render(request, "pages/terminal_forbidden.html", frame, status=403)
    server_id, service_id = _number(request, "server"), _number(request, "service")
    known = visible(Server.objects.only("name", "username"), user)
    server = known.filter(pk=server_id).first() if server_id else None
    if server_id and server is None:
        raise Http404(_("There is no such server."))
    found = surroundings_of(service_id, server.pk) if server and service_id else None
    observed = request.GET.get("observe", "")[:64]
    own = bool(observed) and TerminalSession.objects.filter(key=observed, user=user).exists()
    context = {
        "title": _("Terminal"),
        "server": server,
        "service_id": service_id if found else None,
        "service_name": found.service_name if found else "",
        "observe": "" if own else observed,
        "session": observed if own else "",
        "servers": known.exclude(username="").order_by("name"),
        "may_download": user.has_perm("inventory.download_files"),
        "may_upload": user.has_perm("inventory.upload_files"),
        "may_repin": user.has_perm("inventory.repin_server"),
        "manages": user.has_perm("inventory.manage_terminal"),
        "grace_minutes": max(1, round(settings.TERMINAL_GRACE_SECONDS / 60)),
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
        "user_name": user.get_username(),
        "terminals_url": reverse("terminals"),
    }
    return render(request, "pages/terminal.html", context)


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
