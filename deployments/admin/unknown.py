"""The page of an instance unknown to us: what it is, and what a person may do with it."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from deployments.adoption import NAME_MAX_CHARS, adopt
from deployments.models import Service, UnknownInstance
from deployments.phases import ALIVE
from deployments.shown import phase_chip
from deployments.unknown import described, forget_unknown, stop_unknown
from infini.admin_base import PagedAdmin, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget
from infini.admin_verbs import Verb, names_of
from infini.confirmation import typed_if_many
from infini.errors import InfiniError
from infini.said import said

DEPLOY_PERMISSION = "deployments.deploy_service"

STOP = Verb(
    name="stop",
    label=_("Stop"),
    icon="stop_circle",
    permission=DEPLOY_PERMISSION,
    run=stop_unknown,
    done=lambda rows: gettext("Stopped: %(names)s.") % {"names": names_of(rows)},
    effect=_("The agent ends its process now. Whoever started it is not asked."),
    word=typed_if_many,
    refused=lambda row: "" if row.phase in ALIVE else gettext("It does not run."),
    danger=True,
)
FORGET = Verb(
    name="forget",
    label=_("Forget"),
    icon="delete",
    permission=DEPLOY_PERMISSION,
    run=forget_unknown,
    done=lambda rows: gettext("Forgotten: %(names)s.") % {"names": names_of(rows)},
    effect=_("The agent forgets it and removes its log."),
    refused=lambda row: gettext("Stop it first.") if row.phase in ALIVE else "",
    danger=True,
    away=True,
)


class AdoptForm(forms.Form):
    service = forms.ModelChoiceField(
        Service.objects.all(), label=_("Into the service"), required=False, widget=UnfoldAdminSelectWidget
    )
    name = forms.CharField(
        label=_("or a new one called"), required=False, max_length=NAME_MAX_CHARS, widget=UnfoldAdminTextInputWidget
    )


@admin.register(UnknownInstance)
class UnknownInstanceAdmin(PagedAdmin):
    verbs = [STOP, FORGET]
    page_template = "pages/unknown.html"
    list_display = ["key", "server", "phase", "found_at"]
    empty_text = _("No agent runs anything that nobody here has asked for.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return described()

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        may_adopt = request.user.has_perm(DEPLOY_PERMISSION) and row.command
        return {"chip": phase_chip(row), "adopt_form": AdoptForm() if may_adopt else None}

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.adopt_view)
        return [path("<int:pk>/adopt/", view, name="deployments_unknowninstance_adopt"), *super().get_urls()]

    def adopt_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Only by POST; back to its page with what was refused, else on to the service."""
        row = described().filter(pk=pk).first()
        if not request.user.has_perm(DEPLOY_PERMISSION):
            raise PermissionDenied
        if row is None:
            raise Http404
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        form = AdoptForm(request.POST)
        by: Any = request.user
        try:
            if not form.is_valid():
                messages.error(request, " ".join(str(text) for texts in form.errors.values() for text in texts))
                return HttpResponseRedirect(self.page_url(row))
            instance = adopt(row, by=by, service=form.cleaned_data["service"], name=form.cleaned_data["name"])
        except InfiniError as error:
            messages.error(request, said(error.message))
            return HttpResponseRedirect(self.page_url(row))
        messages.success(request, gettext("Adopted: %(names)s.") % {"names": row.key})
        return HttpResponseRedirect(reverse("admin:deployments_service_page", args=[instance.placement.service_id]))
