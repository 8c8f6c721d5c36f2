"""Operations: what was asked of services, by whom, and what came of it on each server. Read-only."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from deployments.admin.page import operation_context
from deployments.models import Operation
from deployments.phases import OPEN_STATES, OperationState
from deployments.shown import operation_chip, with_progress
from infini.admin_base import ChoicesDropdownFilter, DropdownFilter, PagedAdmin, RelatedDropdownFilter, display
from infini.csv_export import attributes
from infini.display import ABSENT, Chip, ago, link, url_of
from infini.said import said


class StateFilter(DropdownFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("Open")), *OperationState.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        return queryset.filter(state__in=OPEN_STATES if self.value() == "open" else [self.value()])


@admin.register(Operation)
class OperationAdmin(PagedAdmin):
    page_template = "pages/operation.html"
    list_display = ["named", "service_shown", "state_shown", "results_shown", "by", "started", "took", "reason_shown"]
    list_display_links = ["named"]
    list_select_related = ["service", "by"]
    list_filter = [StateFilter, ("kind", ChoicesDropdownFilter), ("service", RelatedDropdownFilter)]
    search_fields = ["service__name", "reason"]
    csv_columns = attributes(
        *("id", "kind", "service.name", "state", "result_count", "done_count", "failed_count", "by.username"),
        *("created_at", "finished_at", "reason"),
    )
    empty_text = _("Nothing was asked of a service yet. Deploying one shows here what happens on each server.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return with_progress(rows.select_related("service", "by"))

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return operation_context(request, row)

    @display(description=_("Operation"), ordering="pk")
    def named(self, operation: Operation) -> str:
        return str(operation)

    @display(description=_("Service"), ordering="service__name")
    def service_shown(self, operation: Operation) -> SafeString:
        return link(url_of("admin:deployments_service_page", operation.service_id), operation.service)

    @display(description=_("State"), ordering="state")
    def state_shown(self, operation: Operation) -> Chip:
        return operation_chip(operation)

    @display(description=_("Instances"))
    def results_shown(self, operation: Any) -> str:
        done = gettext("%(done)d of %(all)d done") % {"done": operation.done_count, "all": operation.result_count}
        failed = gettext("%(n)d failed") % {"n": operation.failed_count} if operation.failed_count else ""
        return ", ".join(part for part in (done, failed) if part)

    @display(description=_("Started"), ordering="created_at")
    def started(self, operation: Operation) -> SafeString:
        return ago(operation.created_at)

    @display(description=_("Took"))
    def took(self, operation: Operation) -> str:
        if operation.finished_at is None:
            return ABSENT
        return f"{(operation.finished_at - operation.created_at).total_seconds():.0f} s"

    @display(description=_("Reason"), ordering="reason")
    def reason_shown(self, operation: Operation) -> str:
        return said(operation.reason)
