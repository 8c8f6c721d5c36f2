"""The page of a service's revisions: each with its verdict, any two beside each other, and back to any by a click."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from deployments import lifecycle
from deployments.models import Revision, Service
from deployments.revisions import differences
from deployments.shown import revision_chip
from infini.admin_verbs import Verb, ask_first, do, names_of

DEPLOY_PERMISSION = "deployments.deploy_service"
SHOWN = 100


def revision_urls(model_admin: Any) -> list[URLPattern]:
    def page(request: HttpRequest, pk: int) -> HttpResponse:
        return _page(model_admin, request, _service(model_admin, request, pk))

    def back(request: HttpRequest, pk: int, number: int) -> HttpResponse:
        return _roll_back(model_admin, request, _service(model_admin, request, pk), number)

    view = model_admin.admin_site.admin_view
    return [
        path("<int:pk>/revisions/", view(page), name="deployments_service_revisions"),
        path("<int:pk>/revisions/<int:number>/roll-back/", view(back), name="deployments_service_roll_back_to"),
    ]


def _service(model_admin: Any, request: HttpRequest, pk: int) -> Any:
    service = model_admin.page_queryset(request).filter(pk=pk).first()
    if service is None:
        raise Http404
    if not model_admin.has_view_permission(request, service):
        raise PermissionDenied
    return service


def _page(model_admin: Any, request: HttpRequest, service: Any) -> HttpResponse:
    revisions = list(service.revisions.select_related("author")[:SHOWN])
    before, after = _chosen(request, revisions, service)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": gettext("Revisions of %(name)s") % {"name": service},
        "opts": model_admin.opts,
        "original": service,
        "row": service,
        "rows": [{"revision": revision, "chip": revision_chip(revision, service)} for revision in revisions],
        "before": before,
        "after": after,
        "differences": differences(before, after) if before and after else [],
        "may_deploy": request.user.has_perm(DEPLOY_PERMISSION),
        "busy": gettext("An operation is open.") if service.open_operation_id else "",
    }
    return TemplateResponse(request, "pages/revisions.html", context)


def _chosen(
    request: HttpRequest, revisions: list[Revision], service: Service
) -> tuple[Revision | None, Revision | None]:
    """The two asked for; else the wanted one and the one before it."""
    numbered = {str(revision.number): revision for revision in revisions}
    after = numbered.get(request.GET.get("to", "")) or next(
        (r for r in revisions if r.pk == service.current_revision_id), revisions[0] if revisions else None
    )
    older = [r for r in revisions if after and r.number < after.number]
    before = numbered.get(request.GET.get("from", "")) or (older[0] if older else None)
    return before, after


def _roll_back(model_admin: Any, request: HttpRequest, service: Any, number: int) -> HttpResponse:
    if not request.user.has_perm(DEPLOY_PERMISSION):
        raise PermissionDenied
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    verb = Verb(
        name="roll_back_to",
        label=_("Roll back"),
        icon="undo",
        permission=DEPLOY_PERMISSION,
        run=lambda row, by: lifecycle.roll_back(row, by=by, number=number),
        done=lambda rows: gettext("Rolling back: %(names)s.") % {"names": names_of(rows)},
        effect=gettext("r%(number)d is deployed on every server, in place of the present revision.")
        % {"number": number},
    )
    unanswered = ask_first(model_admin, request, verb, [service], back=f"{model_admin.page_url(service)}revisions/")
    if unanswered:
        return unanswered
    do(request, verb, [service])
    return HttpResponseRedirect(model_admin.page_url(service))
