"""How the gateway treats services, and models that run elsewhere, in the admin."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from chat.endpoints import checked_endpoint
from chat.models import Endpoint, TrafficRule
from infini.admin_base import BaseForm, RecordAdmin, display
from infini.display import ABSENT, GOOD, QUIET, Chip, link
from infini.errors import InfiniError

_LIMITS = ["concurrency", "queue", "queue_seconds", "sticky"]
_TIMEOUTS = ["connect_seconds", "first_byte_seconds", "idle_seconds", "total_seconds"]
_TRAFFIC = [(_("Requests at once"), {"fields": _LIMITS}), (_("Timeouts"), {"fields": _TIMEOUTS})]


class TrafficAdmin(RecordAdmin):
    """What rules of services and endpoints share."""

    @display(description=_("Requests at once"), ordering="concurrency")
    def at_once(self, row: Any) -> str:
        if not row.concurrency:
            return gettext("no limit")
        told = gettext("%(n)d, %(queue)d waiting for %(s)g s at most")
        return told % {"n": row.concurrency, "queue": row.queue, "s": row.queue_seconds}

    @display(description=_("Timeouts, s"))
    def timeouts(self, row: Any) -> str:
        own = [(str(row._meta.get_field(name).verbose_name).split(" ")[0], getattr(row, name)) for name in _TIMEOUTS]
        return ", ".join(f"{what} {seconds:g}" for what, seconds in own if seconds) or ABSENT


@admin.register(TrafficRule)
class TrafficRuleAdmin(TrafficAdmin):
    list_display = ["service_shown", "at_once", "timeouts", "sticky"]
    list_select_related = ["service"]
    search_fields = ["service__name"]
    fieldsets = [(None, {"fields": ["service"]}), *_TRAFFIC]
    empty_text = _("A rule limits how many requests a service takes at once, or changes its timeouts.")
    removed_effect = _("Their services go by the site's settings again.")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["service"] if obj else []

    @display(description=_("Service"), ordering="service__name")
    def service_shown(self, rule: TrafficRule) -> str:
        return rule.service.name


class EndpointForm(BaseForm):
    class Meta:
        model = Endpoint
        fields = "__all__"

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        if not self.errors:
            given: dict[str, Any] = {
                name: self.cleaned_data[name] for name in ("base_url", "key") if name in self.cleaned_data
            }
            before = Endpoint.objects.get(pk=self.instance.pk) if self.instance.pk else None
            if "base_url" in given:
                try:
                    self.cleaned_data |= checked_endpoint(given, before=before)
                except InfiniError as error:
                    self.show(error)
        return self.cleaned_data


@admin.register(Endpoint)
class EndpointAdmin(TrafficAdmin):
    form = EndpointForm
    list_display = ["named", "state_shown", "model_shown", "at_once", "timeouts", "chat"]
    list_display_links = ["named"]
    list_select_related = ["model"]
    search_fields = ["name", "base_url", "served_model"]
    fieldsets = [
        (None, {"fields": ["name", "model", "base_url", "key", "served_model", "enabled"]}),
        *_TRAFFIC,
    ]
    empty_text = _(
        "An endpoint is a model that runs elsewhere: the gateway passes requests for it on, and meters them."
    )
    removed_effect = _("Clients that ask for them are told that there is no such model. Chats with them are deleted.")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.defer("key")

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """With its key, of which the form says whether it is set."""
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            row.refresh_from_db(fields=["key"])
        return row

    @display(description=_("Endpoint"), ordering="name", header=True)
    def named(self, endpoint: Endpoint) -> list[str]:
        return [endpoint.name, endpoint.base_url]

    @display(description=_("State"), ordering="enabled")
    def state_shown(self, endpoint: Endpoint) -> Chip:
        if endpoint.enabled:
            return Chip(gettext("Enabled"), GOOD, "check_circle")
        return Chip(gettext("Off"), QUIET, "block")

    @display(description=_("Chat"))
    def chat(self, endpoint: Endpoint) -> SafeString:
        return link(reverse("chat_endpoint", args=[endpoint.pk]), gettext("Chat"))

    @display(description=_("Model"), ordering="model__name")
    def model_shown(self, endpoint: Endpoint) -> SafeString | str:
        if endpoint.model is None:
            return ABSENT
        return link(reverse("admin:inventory_aimodel_change", args=[endpoint.model.pk]), endpoint.model)
