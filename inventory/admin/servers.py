"""Servers: the list that finds bad and free ones, and one machine's page."""

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import BooleanField, ExpressionWrapper, F, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import BaseForm, DropdownFilter, PagedAdmin, RecordAdmin, RelatedDropdownFilter, display
from infini.admin_verbs import Verb, names_of
from infini.confirmation import ask, is_confirmed
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, Bar, ago
from infini.errors import InfiniError
from infini.said import said
from infini.visibility import visible, visible_or_404
from inventory import shown
from inventory.admin import server_page
from inventory.admin.host_keys import pinning_question
from inventory.admin.installations import INSTALL, REMOVE, UPGRADE, InstallPages
from inventory.checks import check_servers
from inventory.installation.release import is_older, outdated_versions, own_release
from inventory.models import Server
from inventory.querysets import ServerStatus
from inventory.resources import METRICS, resources_of
from inventory.servers import (
    SECRETS,
    brand_for,
    check_agent_token,
    check_certificate,
    check_host,
    check_jump,
    check_labels,
    set_maintenance,
)
from inventory.servers import check_private_key as check_key
from inventory.ssh import host_keys

CHECK = Verb(
    name="check",
    label=_("Check"),
    icon="network_check",
    permission="inventory.check_server",
    run_all=lambda rows, by: check_servers(rows, by=by),
    done=lambda rows: _checked(rows),
    primary=True,
)
MEASURE = Verb(
    name="resources",
    label=_("Measure"),
    icon="monitoring",
    in_menu=True,
    permission="inventory.check_server",
    run_all=lambda rows, by: _measure(rows),
    done=lambda rows: _measured(rows),
    refused=lambda row: "" if row.username and not row.has_token else gettext("Its agent measures by itself."),
)


MAINTAIN = Verb(
    name="maintenance-on",
    label=_("Put in maintenance"),
    icon="construction",
    permission="inventory.change_server",
    run=partial(set_maintenance, on=True),
    done=lambda rows: gettext("In maintenance: %(names)s.") % {"names": names_of(rows)},
    effect=_("Schedules, alerts and automatic action leave them alone. What runs on them goes on."),
    offered=lambda server: not server.maintenance,
    in_menu=True,
)
RELEASE = Verb(
    name="maintenance-off",
    label=_("End maintenance"),
    icon="construction",
    permission="inventory.change_server",
    run=partial(set_maintenance, on=False),
    done=lambda rows: gettext("In service: %(names)s.") % {"names": names_of(rows)},
    offered=lambda server: server.maintenance,
    in_menu=True,
)


def _measure(rows: Any) -> None:
    """Why there is no figure at all of one, whoever was asked, stays with its row until it is told."""
    found = {resources.server_id: resources for resources in resources_of(rows)}
    for row in rows:
        told = found[row.pk]
        nothing = all(getattr(told, metric) is None for metric in METRICS)
        row.unmeasured = told.errors.get(METRICS[0], "") if nothing else ""


def _measured(rows: Any) -> str:
    silent: Any = [f"{row}: {said(row.unmeasured)}" for row in rows if row.unmeasured]
    if not silent:
        return gettext("Measured %(names)s.") % {"names": names_of(rows)}
    return gettext("Measured %(n)d. %(silent)s") % {"n": len(rows) - len(silent), "silent": names_of(silent)}


def _checked(rows: Any) -> str:
    servers: Any = Server.objects.with_status()
    found = servers.filter(pk__in=[row.pk for row in rows]).values_list("name", "status")
    silent = sorted(name for name, status in found if status != ServerStatus.ONLINE)
    if not silent:
        return gettext("Checked %(names)s: online.") % {"names": names_of(rows)}
    return gettext("Checked %(n)d: no answer from %(names)s.") % {"n": len(found), "names": names_of(silent)}


MOST_LABELS = 500  # in a menu


def _terminal_url(request: HttpRequest, server: Server) -> str | None:
    """For who may open one, on a server that has an account."""
    if not server.username or not request.user.has_perm("inventory.open_terminal"):
        return None
    return f"{reverse('terminal_page')}?server={server.pk}"


class StatusFilter(DropdownFilter):
    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(ServerStatus.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(status=self.value()) if self.value() else queryset


class MaintenanceFilter(DropdownFilter):
    title = _("maintenance")
    parameter_name = "maintenance"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("In maintenance")), ("no", _("In service"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(maintenance=self.value() == "yes") if self.value() else queryset


class LabelFilter(DropdownFilter):
    """``name=text`` of each label that some server has."""

    title = _("label")
    parameter_name = "label"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        known = visible(Server.objects.order_by(), request.user).exclude(labels={}).values_list("labels", flat=True)
        pairs = sorted({f"{name}={text}" for labels in known for name, text in labels.items()})
        return [(pair, pair) for pair in pairs[:MOST_LABELS]]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        labelled = Server.objects.order_by().exclude(labels={}).values_list("pk", "labels")
        asked = self.value()
        found = [pk for pk, labels in labelled if any(f"{name}={text}" == asked for name, text in labels.items())]
        return queryset.filter(pk__in=found)


class AgentFilter(DropdownFilter):
    """By the version that reports; offers what there is, and that the site has a newer one."""

    title = _("agent version")
    parameter_name = "agent"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        versions = (
            visible(Server.objects.order_by(), request.user)
            .exclude(agent_version="")
            .values_list("agent_version", flat=True)
        )
        return [
            ("upgrade", _("Upgrade available")),
            ("none", _("No agent")),
            *((version, version) for version in sorted(set(versions.distinct()))),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        if self.value() == "none":
            return queryset.filter(agent_token="")
        if self.value() == "upgrade":
            return queryset.with_agent().filter(agent_version__in=outdated_versions())  # type: ignore[attr-defined]
        return queryset.filter(agent_version=self.value())


class ServerForm(BaseForm):
    """What ``inventory.servers`` asks of a server, said at each field."""

    class Meta:
        model = Server
        fields = "__all__"

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        self._checked("host_ip", check_host)
        self._checked("agent_token", check_agent_token)
        self._checked("agent_certificate", check_certificate)
        self._checked("labels", check_labels)
        self._check_private_key()
        self._checked("jump", lambda jump: check_jump(self.instance, jump))
        self._check_brand()
        return self.cleaned_data

    def _checked(self, name: str, check: Any) -> None:
        if name in self.cleaned_data and name in self.changed_data:
            try:
                self.cleaned_data[name] = check(self.cleaned_data[name])
            except InfiniError as error:
                self.show(error)

    def _check_private_key(self) -> None:
        key = self.cleaned_data.get("private_key")
        if key and {"private_key", "passphrase"} & set(self.changed_data):
            try:
                self.cleaned_data["private_key"] = check_key(key, self.cleaned_data.get("passphrase") or "")
            except InfiniError as error:
                self.show(error)

    def _check_brand(self) -> None:
        """A card brings its brand with it."""
        card, brand = self.cleaned_data.get("card"), self.cleaned_data.get("brand")
        try:
            self.cleaned_data["brand"] = brand_for(brand=brand, card=card, brand_given=brand is not None)
        except InfiniError as error:
            self.show(error)

    def clean_labels(self) -> Any:
        return self.cleaned_data["labels"] or {}


@admin.register(Server)
class ServerAdmin(InstallPages, PagedAdmin, RecordAdmin):
    find_icon = "dns"
    form = ServerForm
    verbs = [CHECK, MEASURE, INSTALL, UPGRADE, REMOVE, MAINTAIN, RELEASE]
    page_template = "pages/server.html"
    page_tabs = server_page.tabs()
    list_display = ["named", "status_shown", "card_shown", "device_memory", "cpu", "memory", "disk", "seen"]
    list_display_links = ["named"]
    list_ordering = ("rank", "name")
    list_select_related = ["environment", "brand", "card"]
    list_filter = [
        StatusFilter,
        ("environment", RelatedDropdownFilter),
        ("brand", RelatedDropdownFilter),
        ("card", RelatedDropdownFilter),
        LabelFilter,
        AgentFilter,
        MaintenanceFilter,
    ]
    search_fields = ["name", "host_ip"]
    search_help_text = _("Search name or address")
    empty_text = _("A server is a machine with accelerators. Add one to deploy services on it.")
    removed_effect = _("They leave the inventory. A server that still has instances is kept.")
    csv_columns = [
        *attributes("id", "name", "host_ip", "status", "maintenance", "environment.name", "brand.name"),
        CsvColumn("card", lambda server: server.card),
        *attributes("labels"),
        *(CsvColumn(name, partial(shown.figure_of, name=name)) for name in shown.FIGURES),
        *attributes("agent_version", "agent_seen_at", "reachable", "last_check"),
    ]
    fieldsets = [
        (None, {"fields": ["name", "host_ip", "environment", "card", "brand", "labels", "maintenance"]}),
        (_("Agent"), {"fields": ["agent_port", "agent_token", "agent_certificate"]}),
        (
            _("SSH (optional)"),
            {"fields": ["username", "port", "password", "private_key", "passphrase", "jump", "record_terminals"]},
        ),
    ]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        rows = rows.with_status().annotate(has_token=ExpressionWrapper(~Q(agent_token=""), BooleanField()))
        return shown.with_maintenance(shown.worst_first(rows)).defer(*SECRETS)  # lists and pages read none of them

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if isinstance(field, forms.JSONField):
            field.required = False
            field.help_text = gettext('Names and texts, as {"rack": "a1"}.')
        return field

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "jump":  # a menu of names: no secret is decrypted for it
            kwargs["queryset"] = Server.objects.only("name", "jump")
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.host_key_view)
        return [path("<int:pk>/host-key/", view, name="inventory_server_host_key"), *super().get_urls()]

    def host_key_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Look at the host key the server offers, or pin the one that was seen; only by POST."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        server = visible_or_404(Server, request.user, pk=pk)
        wants_to_pin = "fingerprint" in request.POST
        needed = "inventory.change_server" if wants_to_pin else "inventory.check_server"
        if not request.user.has_perm(needed):
            raise PermissionDenied(needed)
        by: Any = request.user
        question = pinning_question(server, back=self.page_url(server)) if wants_to_pin else None
        if question and not is_confirmed(request, question.word):
            return ask(self.admin_site, request, question, opts=self.opts)
        try:
            if wants_to_pin:
                host_keys.pin(server, by=by, offered_fingerprint=request.POST["fingerprint"], name=server.name)
                messages.success(request, gettext("The host key of %(server)s is pinned.") % {"server": server})
            else:
                found = host_keys.look(server)
                if found.state == "pinned":
                    messages.success(request, gettext("%(server)s answers with its pinned key.") % {"server": server})
        except InfiniError as error:
            messages.error(request, said(error.message))
        return HttpResponseRedirect(self.page_url(server))

    def changed_columns(self, form: Any) -> set[str]:
        """A brand that followed its card counts as changed."""
        return super().changed_columns(form) | {"brand", "labels"}

    def page_queryset(self, request: HttpRequest) -> QuerySet:
        rows = self.described(request).select_related(*self.list_select_related)
        return rows.annotate(jump_name=F("jump__name"))

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {
            "chip": shown.server_chip(row),
            "more_chips": shown.server_chips(row)[1:],
            "source": shown.figures_source(row),
            "terminal_url": _terminal_url(request, row),
        }

    @display(description=_("Server"), ordering="name", header=True)
    def named(self, server: Server) -> list[str]:
        return [server.name, server.host_ip]

    @display(description=_("Status"), ordering="rank")
    def status_shown(self, server: Server) -> SafeString:
        return SafeString(" ".join(str(chip) for chip in shown.server_chips(server)))

    @display(description=_("Card"), ordering="card__name", header=True)
    def card_shown(self, server: Server) -> list[str]:
        return [str(server.card or ABSENT), " · ".join(str(of) for of in (server.brand, server.environment) if of)]

    @display(description=_("Device memory"), header=True)
    def device_memory(self, server: Server) -> list[Any]:
        bar = shown.device_memory(server)
        return [bar, bar.detail]

    @display(description=_("CPU"))
    def cpu(self, server: Server) -> Bar:
        return shown.cpu(server)

    @display(description=_("Memory"))
    def memory(self, server: Server) -> Bar:
        return shown.memory(server)

    @display(description=_("Disk"))
    def disk(self, server: Server) -> Bar:
        return shown.disk(server)

    @display(description=_("Last seen"), ordering="agent_seen_at", header=True)
    def seen(self, server: Server) -> list[str]:
        version = f"agent {server.agent_version}" if server.agent_version else ""
        if version and is_older(server.agent_version, own_release().version):
            version = format_html(
                '{}\u00a0<span class="material-symbols-outlined upgrade" title="{}" aria-hidden="true">upgrade</span>'
                '<span class="hidden-text">{}</span>',
                *(version, gettext("Upgrade available"), gettext("Upgrade available")),
            )
        return [ago(shown.last_heard(server)), version]
