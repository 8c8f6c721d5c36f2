"""The page on which a person frees the devices of a lost instance, by typing its key."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext

from deployments.freeing import free_devices
from deployments.models import Instance, Service
from infini.errors import InfiniError
from infini.said import said

DEPLOY_PERMISSION = "deployments.deploy_service"


def freeing_urls(admin_site: Any) -> list[URLPattern]:
    def view(request: HttpRequest, pk: int) -> HttpResponse:
        return _free(admin_site, request, pk)

    return [path("instance/<int:pk>/free-devices/", admin_site.admin_view(view), name="deployments_free_devices")]


def _free(admin_site: Any, request: HttpRequest, pk: int) -> HttpResponse:
    if not request.user.has_perm(DEPLOY_PERMISSION):
        raise PermissionDenied
    instance = get_object_or_404(Instance.objects.select_related("placement__service", "placement__server"), pk=pk)
    back = f"{reverse('admin:inventory_server_page', args=[instance.placement.server_id])}?tab=instances"
    refused, by = "", request.user
    if request.method == "POST":
        try:
            if request.POST.get("confirm", "").strip() == instance.key:
                freed = free_devices(instance.pk, by=by)  # type: ignore[arg-type]
                messages.success(request, gettext("Freed: %(names)s.") % {"names": ", ".join(freed)})
                return HttpResponseRedirect(back)
            refused = gettext("This is not %(key)s.") % {"key": instance.key}
        except InfiniError as error:
            refused = said(error.message)
    claims = instance.device_claims.select_related("device__server").order_by("device__index")
    context = {
        **admin_site.each_context(request),
        "title": gettext("Free devices"),
        "opts": Service._meta,
        "instance": instance,
        "devices": [claim.device for claim in claims],
        "refused": refused,
        "back": back,
    }
    return TemplateResponse(request, "pages/free_devices.html", context, status=200 if not refused else 409)
