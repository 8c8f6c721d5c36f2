"""Alerts in the admin: what is wrong, for everybody who reads; who is told of it, for administrators."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import BooleanField, Case, ExpressionWrapper, Q, QuerySet, Value, When
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import (
    BaseAdmin,
    BaseForm,
    ChoicesDropdownFilter,
    PagedAdmin,
    RecordAdmin,
    UnfoldAdminSelect2MultipleWidget,
    display,
)
from infini.admin_verbs import Verb, names_of
from infini.alert_delivery import send_test
from infini.alert_targets import check_address
from infini.csv_export import attributes
from infini.display import ABSENT, BAD, BUSY, GOOD, QUIET, WARN, Chip, ago, link
from infini.errors import InfiniError
from infini.models import Alert, AlertDelivery, AlertKind, AlertState, AlertTarget, DeliveryState, Event
from infini.said import said
from infini.timeline import events_about, subject_url

LAST_DELIVERIES = 20

TEST = Verb(
    name="test",
    label=_("Test"),
    icon="send",
    permission="infini.change_alerttarget",
    run=send_test,
    done=lambda rows: gettext("The test message was taken: %(names)s.") % {"names": names_of(rows)},
    primary=True,
)


class TargetForm(BaseForm):
    kinds = forms.MultipleChoiceField(
        label=_("Alerts"),
        required=False,
        choices=AlertKind.choices,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text=_("Empty: all."),
    )

    class Meta:
        model = AlertTarget
        fields = "__all__"

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        kind, address = self.cleaned_data.get("kind"), self.cleaned_data.get("address")
        if kind and address:
            try:
                self.cleaned_data["address"] = check_address(kind, address)
            except InfiniError as error:
                self.show(error)
        return self.cleaned_data


@admin.register(AlertTarget)
class AlertTargetAdmin(PagedAdmin, RecordAdmin):
    form = TargetForm
    verbs = [TEST]
    page_template = "pages/alert_target.html"
    list_display = ["named", "state_shown", "kind_shown", "kinds_shown", "last_sent", "error_shown"]
    list_display_links = ["named"]
    search_fields = ["name", "address"]
    empty_text = _("A target is told when a server falls silent, an instance fails or automatic action pauses.")
    removed_effect = _("They are told of nothing any more.")
    fieldsets = [(None, {"fields": ["name", "kind", "address", "secret", "kinds", "language", "enabled"]})]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        signed = ExpressionWrapper(~Q(secret=""), BooleanField())
        return rows.annotate(signed=signed).defer("secret")  # lists and pages read none

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        last = AlertDelivery.objects.filter(target=row).select_related("alert")[:LAST_DELIVERIES]
        return {
            "chip": target_chip(row),
            "kinds_text": self.kinds_shown(row),
            "deliveries": [(delivery, delivery_chip(delivery)) for delivery in last],
            "events": events_about(request.user, row),
        }

    @display(description=_("Target"), ordering="name", header=True)
    def named(self, target: AlertTarget) -> list[str]:
        return [target.name, target.address]

    @display(description=_("State"))
    def state_shown(self, target: AlertTarget) -> Chip:
        return target_chip(target)

    @display(description=_("Kind"), ordering="kind")
    def kind_shown(self, target: AlertTarget) -> str:
        return target.get_kind_display()

    @display(description=_("Alerts"))
    def kinds_shown(self, target: AlertTarget) -> str:
        names = [str(AlertKind(kind).label) for kind in target.kinds if kind in AlertKind.values]
        return ", ".join(names) or gettext("all")

    @display(description=_("Last sent"), ordering="last_sent_at")
    def last_sent(self, target: AlertTarget) -> SafeString:
        return ago(target.last_sent_at)

    @display(description=_("Last error"))
    def error_shown(self, target: AlertTarget) -> str:
        return said(target.last_error) or ABSENT


def target_chip(target: AlertTarget) -> Chip:
    if not target.enabled:
        return Chip(gettext("Off"), QUIET, "notifications_off", gettext("Is told of nothing"))
    if target.last_error:
        return Chip(gettext("Not reached"), BAD, "error", target.last_error)
    if target.last_sent_at is None:
        return Chip(gettext("Not tried"), QUIET, "help", gettext("Nothing was sent yet; send a test"))
    return Chip(gettext("Reached"), GOOD, "check_circle", gettext("Took the last message"))


def delivery_chip(delivery: AlertDelivery) -> Chip:
    if delivery.state == DeliveryState.SENT:
        return Chip(gettext("Sent"), GOOD, "check_circle")
    if delivery.state == DeliveryState.FAILED:
        return Chip(gettext("Failed"), BAD, "error", delivery.error)
    if delivery.attempts:
        return Chip(gettext("Tried again"), WARN, "schedule", delivery.error)
    return Chip(gettext("Due"), BUSY, "schedule")


@admin.register(Alert)
class AlertAdmin(BaseAdmin):
    """What is wrong first; read-only for everybody."""

    list_display = ["state_shown", "kind_shown", "subject_shown", "message_shown", "opened", "recovered"]
    list_display_links = None
    list_ordering = ("rank", "-pk")
    list_filter = [("state", ChoicesDropdownFilter), ("kind", ChoicesDropdownFilter)]
    search_fields = ["subject_name", "message"]
    search_help_text = _("Search subject or message")
    empty_text = _("Nothing has gone wrong that an alert tells of.")
    csv_columns = attributes(
        *("id", "state", "kind", "subject_kind", "subject_id", "subject_name", "message", "opened_at"),
        *("recovered_at", "ending"),
    )

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.annotate(rank=Case(When(state=AlertState.OPEN, then=Value(0)), default=Value(1)))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description=_("State"), ordering="rank")
    def state_shown(self, alert: Alert) -> Chip:
        if alert.state == AlertState.OPEN:
            return Chip(gettext("Open"), BAD, "notifications_active")
        return Chip(gettext("Recovered"), GOOD, "check_circle", alert.ending)

    @display(description=_("What"), ordering="kind")
    def kind_shown(self, alert: Alert) -> str:
        return alert.get_kind_display()

    @display(description=_("Subject"), ordering="subject_name")
    def subject_shown(self, alert: Alert) -> SafeString:
        about = Event(kind="", subject_kind=alert.subject_kind, subject_id=alert.subject_id)
        return link(subject_url(about), alert.subject_said)

    @display(description=_("Message"))
    def message_shown(self, alert: Alert) -> str:
        return said(alert.ending or alert.message)

    @display(description=_("Opened"), ordering="opened_at")
    def opened(self, alert: Alert) -> SafeString:
        return ago(alert.opened_at)

    @display(description=_("Recovered"), ordering="recovered_at")
    def recovered(self, alert: Alert) -> SafeString:
        return ago(alert.recovered_at)
