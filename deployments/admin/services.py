"""Services: the list of what serves, one service's page, and its form."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, Prefetch, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from deployments import lifecycle
from deployments.admin import ended
from deployments.admin.form import ServiceForm
from deployments.admin.freeing import freeing_urls
from deployments.admin.health import FIELDS, as_fields
from deployments.admin.page import service_head, service_tabs
from deployments.admin.preview import preview_urls
from deployments.admin.revisions import revision_urls, revisions_tab
from deployments.models import Operation, Placement, Service
from deployments.presets import Preset, presets
from deployments.shown import (
    WRONG,
    Standing,
    rank_of,
    rollout_bar,
    service_chip,
    standing_of,
    with_rollout,
    with_silent_server,
    with_standing,
)
from deployments.specs import change_service, create_service
from infini.admin_base import DropdownFilter, PagedAdmin, RecordAdmin, RelatedDropdownFilter, display
from infini.admin_verbs import Verb, names_of, with_link
from infini.confirmation import typed_name
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, ago, link, links, url_of, url_or_none
from infini.said import said

DEPLOY_PERMISSION = "deployments.deploy_service"


def _busy(service: Any) -> str:
    if service.current_revision_id is None:
        return gettext("Enter a deploy command first.")
    return gettext("An operation is open.") if service.open_operation_id else ""


def _no_way_back(service: Any) -> str:
    if lifecycle.last_good_but_current(service) is None:
        return gettext("No other revision was ever good.")
    return _busy(service)


DEPLOY = Verb(
    name="deploy",
    label=_("Deploy"),
    icon="rocket_launch",
    permission=DEPLOY_PERMISSION,
    run=lifecycle.deploy,
    done=lambda rows: gettext("Deploying: %(names)s.") % {"names": names_of(rows)},
    refused=_busy,
    primary=True,
)
RESTART = Verb(
    name="restart",
    label=_("Restart"),
    icon="restart_alt",
    in_menu=True,
    permission=DEPLOY_PERMISSION,
    run=lifecycle.restart,
    done=lambda rows: gettext("Restarting: %(names)s.") % {"names": names_of(rows)},
    effect=ended.effect_of_restart,
    word=ended.word_to_restart,
    refused=_busy,
)
ROLL_BACK = Verb(
    name="roll_back",
    label=_("Roll back"),
    icon="undo",
    in_menu=True,
    permission=DEPLOY_PERMISSION,
    run=lifecycle.roll_back,
    done=lambda rows: gettext("Rolling back: %(names)s.") % {"names": names_of(rows)},
    effect=_("The last revision that ran well is deployed again on every server, in place of the present one."),
    refused=_no_way_back,
)
STOP = Verb(
    name="stop",
    label=_("Stop"),
    icon="stop_circle",
    permission=DEPLOY_PERMISSION,
    run=lifecycle.stop,
    done=lambda rows: gettext("Stopping: %(names)s.") % {"names": names_of(rows)},
    effect=ended.effect_of_stop,
    word=ended.word_to_stop,
    danger=True,
)
DELETE = Verb(
    name="delete",
    label=_("Delete"),
    icon="delete",
    in_menu=True,
    permission="deployments.delete_service",
    run=lifecycle.delete,
    done=lambda rows: gettext("Deleting: %(names)s.") % {"names": names_of(rows)},
    effect=_("Every instance is stopped first; then the service, its revisions, operations and chats are deleted."),
    word=typed_name,
    danger=True,
    forceable=True,
    away=True,
)


def _as_form(one: Preset) -> dict[str, Any]:
    """What the form's script needs: values by the form's own field names, and what to tell about them."""
    values = one.fills()
    values |= as_fields(values.pop("probes"))
    told = {"note": one.shown_note, "source": one.source, "evidence": said(one.evidence), "sure": one.verified}
    return {"fields": values, **told}


class StandingFilter(DropdownFilter):
    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("wrong", _("Needs you")), *Standing.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        chosen = WRONG if self.value() == "wrong" else [s for s in Standing if s == self.value()]
        return queryset.filter(rank__in=[rank_of(standing) for standing in chosen])


@admin.register(Service)
class ServiceAdmin(PagedAdmin, RecordAdmin):
    find_icon = "deployed_code"
    form = ServiceForm
    verbs = [DEPLOY, RESTART, ROLL_BACK, STOP]
    remove_verb = DELETE
    page_template = "pages/service.html"
    page_tabs = [*service_tabs()[:2], revisions_tab(), *service_tabs()[2:]]
    list_display = ["named", "status_shown", "ready", "revision", "on_servers", "environment", "changed", "chat"]
    list_display_links = ["named"]
    list_ordering = ("rank", "name")
    list_select_related = ["model", "environment", "current_revision"]
    list_filter = [
        StandingFilter,
        ("environment", RelatedDropdownFilter),
        ("model", RelatedDropdownFilter),
        ("servers", RelatedDropdownFilter),
    ]
    search_fields = ["name", "model__name"]
    search_help_text = _("Search name or model")
    empty_text = _("A service runs a model server on your servers. Add one with the command that starts it.")
    csv_columns = [
        *attributes("id", "name", "model.name", "environment.name"),
        CsvColumn("status", lambda service: standing_of(service).value),
        *attributes("ready_count", "wanted_count"),
        CsvColumn("revision", lambda service: service.current_revision and service.current_revision.number),
        CsvColumn("servers", lambda service: ", ".join(p.server.name for p in service.placements.all() if p.replicas)),
        *attributes("created_at", "last_operation_at"),
    ]
    fieldsets = [
        (None, {"fields": ["name", "model", "environment", "placed_on"]}),
        (
            _("How it is started"),
            {"fields": ["preset", "deploy_command", "stop_command", "port", "devices", "restart", "env", "secret_env"]},
        ),
        (_("How it is reached"), {"fields": ["path_prefix", "served_model"]}),
        (
            _("Health check"),
            {
                "fields": list(FIELDS),
                "classes": ["collapse"],
                "description": _("Left empty: ready once its port accepts connections, within half an hour."),
            },
        ),
        (_("More"), {"fields": ["max_unavailable", "surge", "run_as", "cwd", "note"], "classes": ["collapse"]}),
    ]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        newest = Operation.objects.filter(service=OuterRef("pk")).order_by("-pk").values("created_at")[:1]
        rows = with_rollout(with_silent_server(with_standing(rows.with_status())))
        placements = Placement.objects.select_related("server").only("service", "server__name", "replicas")
        return rows.annotate(last_operation_at=Subquery(newest)).prefetch_related(
            Prefetch("placements", queryset=placements)
        )

    def get_urls(self) -> list[URLPattern]:
        own = [*freeing_urls(self.admin_site), *revision_urls(self), *preview_urls(self)]
        return [*own, *super().get_urls()]

    def page_queryset(self, request: HttpRequest) -> QuerySet:
        return self.described(request).select_related(*self.list_select_related, "trial")

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return service_head(request, row)

    # Writing

    def save_model(self, request: HttpRequest, obj: Any, form: ServiceForm, change: bool) -> None:
        by: Any = request.user
        servers = list(form.cleaned_data["placed_on"])
        if change:
            columns = set(ServiceForm.Meta.fields) & self.changed_columns(form)
            spec = form.spec(changed_only=True)
            version = form.cleaned_data.get("seen_version")
            moved = servers if "placed_on" in form.changed_data else None
            change_service(obj, columns, servers=moved, spec=spec, by=by, version=version)
        else:
            create_service(obj, servers=servers, spec=form.spec(changed_only=False), by=by)
        if "_deploy" in request.POST:
            self._deploy(request, obj)

    def _deploy(self, request: HttpRequest, service: Service) -> None:
        """Together with what was saved: when it cannot begin, nothing is stored and the form says why."""
        if not DEPLOY.allowed(request.user):
            raise PermissionDenied(DEPLOY_PERMISSION)
        operation = lifecycle.deploy(service, by=request.user)  # type: ignore[arg-type]
        messages.success(request, with_link(request, DEPLOY.done([service]), [operation]))

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        context["may_deploy"] = DEPLOY.allowed(request.user)
        context["presets"] = {one.key: _as_form(one) for one in presets()}
        return super().render_change_form(request, context, *args, **kwargs)

    # Columns

    @display(description=_("Service"), ordering="name", header=True)
    def named(self, service: Service) -> list[str]:
        return [service.name, str(service.model or "")]

    @display(description=_("Status"), ordering="rank")
    def status_shown(self, service: Service) -> SafeString:
        """While an operation is open with how far it is."""
        return format_html("{} {}", service_chip(service), rollout_bar(service) or "")

    @display(description=_("Ready"), ordering="ready_count")
    def ready(self, service: Any) -> SafeString:
        return SafeString(f'<span class="num">{service.ready_count}/{service.wanted_count}</span>')

    @display(description=_("Revision"))
    def revision(self, service: Service) -> str:
        return str(service.current_revision or ABSENT)

    @display(description=_("Servers"))
    def on_servers(self, service: Any) -> SafeString | str:
        placed = [p.server for p in service.placements.all() if p.replicas]
        shown = links((url_of("admin:inventory_server_page", s.pk), s.name) for s in placed[:3])
        more = len(placed) - 3
        return SafeString(f"{shown} +{more}") if more > 0 else shown or ABSENT

    @display(description=_("Changed"), ordering="last_operation_at")
    def changed(self, service: Any) -> SafeString:
        revised = service.current_revision.created_at if service.current_revision else service.created_at
        return ago(max(at for at in (service.last_operation_at, revised) if at))

    @display(description=_("Chat"))
    def chat(self, service: Service) -> SafeString | str:
        url = url_or_none("chat_page", service.pk)
        return link(url, gettext("Chat")) if url else ABSENT
