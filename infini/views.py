"""Pages that belong to no app: health, counts, the way in, and errors before any view was found."""

from typing import Any

from django.contrib import admin
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.csrf import csrf_failure as django_csrf_failure
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from infini import stats
from infini.access import LOGGED_IN
from infini.errors import Forbidden, InfiniError, NotFound
from infini.metrics_text import CONTENT_TYPE, metrics_text


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return redirect("admin:index")


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """The process can do its work: the database answers a query."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
    except Exception:  # noqa: BLE001  (whatever keeps the database from answering makes us not ready)
        return JsonResponse({"status": "database does not answer"}, status=503)
    return JsonResponse({"status": "ready"})


class StatsView(APIView):
    needs = {"GET": LOGGED_IN}

    @extend_schema(responses={200: {"type": "object", "additionalProperties": {"type": "integer"}}})
    def get(self, request: Request) -> Response:
        """Counts for the overview."""
        return Response(stats.counts(request.user))


class MetricsView(APIView):
    """For Prometheus, by the key of somebody who may see the fleet."""

    needs = {"GET": "inventory.view_server"}

    @extend_schema(responses={(200, "text/plain"): str})
    def get(self, request: Request) -> HttpResponse:
        return HttpResponse(metrics_text(request.user), content_type=CONTENT_TYPE)


def _speaks_json(request: HttpRequest) -> bool:
    return request.path.startswith(("/api/", "/v1/"))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    if _speaks_json(request):
        error = Forbidden(
            _("The request's CSRF token or origin is not right: %(reason)s") % {"reason": reason}, code="csrf_failed"
        )
        return JsonResponse(error.as_json(), status=403)
    return django_csrf_failure(request, reason=reason)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _speaks_json(request):
        return JsonResponse(NotFound(_("There is nothing at this path.")).as_json(), status=404)
    if not admin.site.has_permission(request):
        words = (
            _("There is nothing at this address"),
            _("What was here may have been deleted, or the address was mistyped."),
        )
        return _plain_error(*words, status=404)
    context = {**admin.site.each_context(request), "title": _("Not found")}
    return render(request, "pages/not_found.html", context, status=404)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _speaks_json(request):
        error = InfiniError(_("The request cannot be read."), code="bad_request")
        return JsonResponse(error.as_json(), status=400)
    return _plain_error(_("The request cannot be read."), _("Go back, and try it again."), status=400)


def server_error(request: HttpRequest, *args: Any) -> HttpResponse:
    text = _("Something went wrong on our side; the site's log tells more.")
    if _speaks_json(request):
        return JsonResponse(InfiniError(text, code="internal").as_json(), status=500)
    return _plain_error(_("An error"), text, status=500)


def _plain_error(title: str, text: str, *, status: int) -> HttpResponse:
    """Asks nobody anything: what failed may be the database."""
    told = {"title": title, "text": text, "language": get_language() or "en"}
    return HttpResponse(render_to_string("pages/plain_error.html", told), status=status)
