"""Bringing agents onto servers from the admin: the page that asks, the live page of what was asked, and the history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import ChoicesDropdownFilter, PagedAdmin, display
from infini.admin_verbs import NAMES_SHOWN, Verb, ask_first, names_of
from infini.csv_export import attributes
from infini.display import ABSENT, Chip, ago, link
from infini.said import said
from infini.visibility import visible
from inventory import local
from inventory.installation.asking import ask_for, cancel, retry
from inventory.installation.release import is_older, own_release
from inventory.installation.states import ENDED_BADLY, OPEN_STATES, Kind
from inventory.models import Installation, Server
from inventory.shown_installations import Progress, installation_chip, installation_rows, title_of

NEEDS = "inventory.install_agent"
LIVE_SECONDS = 1
SHOWN = 100  # rows of a batch on its page; the rest is counted


def _page(kind: Kind) -> Any:
    def leads_to(rows: Sequence[Model]) -> str:
        ids = ",".join(str(row.pk) for row in rows)
        return f"{reverse('admin:inventory_server_install')}?kind={kind.value}&ids={ids}"

    return leads_to


def _verb(kind: Kind, label: Any, icon: str, in_menu: Any = True, **more: Any) -> Verb:
    return Verb(
        name=f"agent-{kind.value}",
        label=label,
        icon=icon,
        permission=NEEDS,
        done=lambda rows: "",
        leads_to=_page(kind),
        in_menu=in_menu,
        **more,
    )


INSTALL = _verb(
    Kind.INSTALL,
    _("Install agent"),
    "install_desktop",
    in_menu=lambda server: bool(server.agent_version),  # it is what a server without one needs next
    refused=lambda server: _refused_here(server),
)
UPGRADE = _verb(Kind.UPGRADE, _("Upgrade agent"), "upgrade", refused=lambda server: _not_upgradable(server))
REMOVE = _verb(
    Kind.REMOVE, _("Remove agent"), "delete_sweep", danger=True, refused=lambda server: _refused_here(server)
)


def _refused_here(server: Server) -> str:
    return gettext("The site itself runs this machine's agent.") if local.is_own(server) else ""


def _not_upgradable(server: Server) -> str:
    if not server.agent_version:
        return gettext("No agent has reported from here.")
    own = own_release().version
    if not is_older(server.agent_version, own):
        return gettext("Version %(version)s is the site's own or newer.") % {"version": server.agent_version}
    return _refused_here(server)


@dataclass(frozen=True)
class ServerLine:
    """One server on the page that asks."""

    server: Server
    account: str
    problem: str


class InstallPages:
    """The pages below ``inventory/server/install/``, for the admin of servers."""

    admin_site: Any
    opts: Any

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("install/", wrap(self.ask_view), name="inventory_server_install"),
            path("install/<str:batch>/", wrap(self.batch_view), name="inventory_server_installing"),
            *super().get_urls(),  # type: ignore[misc]
        ]

    def ask_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows which servers and what would be used; only POST begins."""
        if not request.user.has_perm(NEEDS):
            raise PermissionDenied(NEEDS)
        data = request.POST if request.method == "POST" else request.GET
        kind, servers = _asked_kind(data), _asked_servers(data, request.user)
        if request.method == "POST":
            return self._begin(request, kind, servers)
        own = own_release().version
        context = self._context(request, title_of(kind)) | {
            "kind": kind.value,
            "is_remove": kind == Kind.REMOVE,
            "lines": [_line(server, kind) for server in servers[:SHOWN]],
            "more": max(0, len(servers) - SHOWN),
            "count": len(servers),
            "ids": ",".join(str(server.pk) for server in servers),
            "own_version": own,
            "by_hand": _by_hand(servers[0]) if servers and kind == Kind.INSTALL else "",
        }
        return TemplateResponse(request, "pages/install.html", context)

    def _begin(self, request: HttpRequest, kind: Kind, servers: list[Server]) -> HttpResponse:
        by: Any = request.user
        asked = ask_for(
            servers, kind, by=by, dry_run="dry_run" in request.POST, stop_instances="stop_instances" in request.POST
        )
        refused = list(asked.refused.values())
        for sentence in refused[:NAMES_SHOWN]:
            messages.error(request, sentence)
        if len(refused) > NAMES_SHOWN:
            messages.error(request, gettext("%(n)d more were refused.") % {"n": len(refused) - NAMES_SHOWN})
        if not asked.installations:
            return HttpResponseRedirect(_page(kind)(servers))
        return HttpResponseRedirect(reverse("admin:inventory_server_installing", args=[asked.batch]))

    def batch_view(self, request: HttpRequest, batch: str) -> HttpResponse:
        """What was asked together, live; POST tries failed ones again or cancels the rest."""
        if not request.user.has_perm("inventory.view_installation"):
            raise PermissionDenied("inventory.view_installation")
        asked = visible(Installation.objects.filter(batch=batch), request.user)
        rows = list(asked.select_related("by").defer("by__password"))
        if not rows:
            raise Http404
        if request.method == "POST":
            return self._answer(request, rows)
        first, progress = rows[0], Progress.of(row.state for row in rows)
        shown = installation_rows(rows, all_open=len(rows) == 1)
        context = self._context(request, title_of(first.kind, first.dry_run)) | {
            "first": first,
            "progress": progress,
            "lines": shown[:SHOWN],
            "more": max(0, len(shown) - SHOWN),
            "may": request.user.has_perm(NEEDS),
            "ids": ",".join(str(row.server_id) for row in rows if row.server_id),
            "verb_label": {"install": INSTALL, "upgrade": UPGRADE, "remove": REMOVE}[first.kind].label,
            "live_seconds": LIVE_SECONDS if progress.open else 0,
        }
        return TemplateResponse(request, "pages/installing.html", context)

    def _answer(self, request: HttpRequest, rows: list[Installation]) -> HttpResponse:
        if not request.user.has_perm(NEEDS):
            raise PermissionDenied(NEEDS)
        by: Any = request.user
        if request.POST.get("do") == "retry":
            again = retry([row for row in rows if row.state in ENDED_BADLY], by=by)
            messages.success(request, gettext("Trying %(n)d again.") % {"n": again})
        elif request.POST.get("do") == "cancel":
            rest = [row for row in rows if row.state in OPEN_STATES]
            unanswered = ask_first(self, request, CANCEL, rest, back=request.get_full_path())
            if unanswered:
                return unanswered
            ending = cancel(rest, by=by)
            messages.success(request, gettext("Cancelling %(n)d.") % {"n": ending})
        return HttpResponseRedirect(request.get_full_path())

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "title": title, "opts": self.opts}


def _asked_kind(data: Any) -> Kind:
    kind = data.get("kind", Kind.INSTALL.value)
    if kind not in Kind.values:
        raise Http404
    return Kind(kind)


def _asked_servers(data: Any, user: Any) -> list[Server]:
    ids = [part for part in data.get("ids", "").split(",") if part.isascii() and part.isdigit() and len(part) <= 18]
    return list(visible(Server.objects.filter(pk__in=map(int, ids)), user).defer("figures"))


def _line(server: Server, kind: Kind) -> ServerLine:
    account = f"{server.username}@{server.host_ip}:{server.port}" if server.username else ""
    problem = _refused_here(server)
    if not problem and not server.username and not (kind == Kind.UPGRADE and server.agent_token):
        problem = gettext("No SSH account is stored.")
    return ServerLine(server, account, problem)


def _by_hand(server: Server) -> str:
    """What a person types instead, in the site's own directory."""
    account, port = server.username or "root", "" if server.port == 22 else f"-P {server.port} "
    host = f"[{server.host_ip}]" if ":" in server.host_ip else server.host_ip
    login = "" if server.port == 22 else f"-p {server.port} "
    return (
        f"scp {port}agent/infini_agent.py agent/install_agent.py {account}@{host}:\n"
        f"ssh {login}{account}@{server.host_ip} python3 install_agent.py "
        f"--host {server.host_ip} --port {server.agent_port}"
    )


RETRY = Verb(
    name="retry",
    label=_("Retry"),
    icon="refresh",
    permission=NEEDS,
    run_all=lambda rows, by: retry(rows, by=by),
    done=lambda rows: gettext("Trying again: %(names)s.") % {"names": names_of(rows)},
    refused=lambda row: "" if row.state in ENDED_BADLY else gettext("It has not failed."),
)
CANCEL = Verb(
    name="cancel",
    label=_("Cancel"),
    icon="block",
    permission=NEEDS,
    run_all=lambda rows, by: cancel(rows, by=by),
    done=lambda rows: gettext("Cancelling: %(names)s.") % {"names": names_of(rows)},
    effect=_("What has not begun never will; what runs is broken off at its present step."),
    dismiss=_("Let it run"),
    refused=lambda row: "" if row.state in OPEN_STATES else gettext("It is over."),
)


@admin.register(Installation)
class InstallationAdmin(PagedAdmin):
    """The history. What was asked together has a page of its own."""

    verbs = [RETRY, CANCEL]
    page_template = "pages/installation.html"
    list_display = ["named", "server_shown", "state_shown", "by", "asked", "took", "told"]
    list_display_links = ["named"]
    list_select_related = ["by"]
    list_filter = [("state", ChoicesDropdownFilter), ("kind", ChoicesDropdownFilter)]
    search_fields = ["server_name", "reason"]
    csv_columns = attributes(
        *("id", "batch", "kind", "dry_run", "server_name", "state", "reason", "by.username"),
        *("attempts", "created_at", "started_at", "finished_at"),
    )
    empty_text = _("No agent was installed yet. Choose servers in their list, then the action Install agent.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def page_queryset(self, request: HttpRequest) -> QuerySet:
        return self.get_queryset(request).select_related("by")

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {
            "chip": installation_chip(row),
            "line": installation_rows([row], all_open=True)[0],
            "live_seconds": LIVE_SECONDS if row.is_open else 0,
        }

    @display(description=_("Installation"), ordering="pk")
    def named(self, row: Installation) -> str:
        return f"{row} ({gettext('dry run')})" if row.dry_run else str(row)

    @display(description=_("Server"), ordering="server_name")
    def server_shown(self, row: Installation) -> SafeString:
        url = reverse("admin:inventory_server_page", args=[row.server_id]) if row.server_id else None
        return link(url, row.server_name)

    @display(description=_("State"), ordering="state")
    def state_shown(self, row: Installation) -> Chip:
        return installation_chip(row)

    @display(description=_("Asked"), ordering="created_at")
    def asked(self, row: Installation) -> SafeString:
        return ago(row.created_at)

    @display(description=_("Reason"))
    def told(self, row: Installation) -> SafeString | str:
        return format_html('<span class="event-data">{}</span>', said(row.reason)) if row.reason else ABSENT

    @display(description=_("Took"))
    def took(self, row: Installation) -> str:
        if row.finished_at is None or row.started_at is None:
            return ABSENT
        return f"{(row.finished_at - row.started_at).total_seconds():.0f} s"
