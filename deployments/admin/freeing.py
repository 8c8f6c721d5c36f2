"""The page on which a person frees the devices of a lost instance, by typing its key."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext, ngettext

from deployments.freeing import free_devices
from deployments.models import Instance, Service
from infini.confirmation import Question, ask, is_confirmed, typed_name
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
    back = reverse("admin:inventory_server_page", args=[instance.placement.server_id])
    question = _question(instance, back)
    if not is_confirmed(request, question.word):
        return ask(admin_site, request, question, opts=Service._meta)
    by: Any = request.user
    try:
        freed = free_devices(instance.pk, by=by)
        messages.success(request, gettext("Freed: %(names)s.") % {"names": ", ".join(freed)})
    except InfiniError as error:
        messages.error(request, said(error.message))
    return HttpResponseRedirect(back)


def _question(instance: Instance, back: str) -> Question:
    claims = instance.device_claims.select_related("device__server").order_by("device__index")
    names = [f"{claim.device} {claim.device.name}" for claim in claims]
    return Question(
        title=gettext("Free the devices of %(name)s?") % {"name": instance.placement.service},
        effect=gettext(
            "Nothing was heard from %(server)s: the instance may still run and use them. Others can then be given the "
            "same devices. Do this only when you know that it does not run any more."
        )
        % {"server": instance.placement.server},
        button=ngettext("Free %(n)d device", "Free %(n)d devices", len(names)) % {"n": len(names)},
        names=names,
        word=typed_name([instance.key]),
        danger=True,
        back=back,
    )
