"""What each tab of a server's page shows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.display import BAD, GOOD, QUIET, Chip
from infini.tabs import Tab
from infini.timeline import PERMISSION as SEE_EVENTS
from infini.timeline import events_about
from inventory import shown
from inventory.models import Installation, Server
from inventory.shown_devices import device_errors, device_table
from inventory.shown_history import server_history
from inventory.shown_installations import installation_chip, title_of
from inventory.ssh import host_keys

EVENTS, INSTALLATIONS = 50, 8
SEE_FILES = "inventory.open_terminal"  # whoever opens a shell there may look


def tabs() -> list[Tab]:
    return [
        Tab("overview", _("Overview"), "tabs/server_overview.html", make=_overview),
        Tab("history", _("History"), outside="tabs/server_history.html", make=_history),
        Tab("files", _("Files"), outside="tabs/server_files.html", make=_files, permission=SEE_FILES),
        Tab("events", _("Events"), "tabs/server_events.html", make=_events, permission=SEE_EVENTS),
    ]


def _overview(request: HttpRequest, server: Any) -> dict[str, Any]:
    return {
        "host_key": host_keys.host_key_of(server),
        "key_chip": shown.key_chip(server) if server.username else None,
        "figures": shown.figures(server),
        "ssh_error": shown.ssh_error(server),
        "host_facts": shown.host_facts(server),
        "devices_source": shown.devices_source(server),
        "device_errors": device_errors(server),
        "check_error": server.check_error if server.reachable is False else "",
        **device_table(server, request.user),
    }


def _history(request: HttpRequest, server: Any) -> dict[str, Any]:
    return {"history": server_history(server)}


def _files(request: HttpRequest, server: Any) -> dict[str, Any]:
    return {
        "may_download": request.user.has_perm("inventory.download_files"),
        "may_upload": request.user.has_perm("inventory.upload_files"),
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
    }


def _events(request: HttpRequest, server: Any) -> dict[str, Any]:
    return {
        "checks": _checks(server),
        "installations": _installations(request, server),
        "events": events_about(request.user, server, EVENTS),
    }


@dataclass(frozen=True)
class CheckRow:
    """One way in which a server is asked how it is, and what came of it last."""

    name: str
    chip: Chip
    asked_at: datetime | None
    answered_at: datetime | None
    reason: str


def _checks(server: Any) -> list[CheckRow]:
    """Expects ``has_token``."""
    rows = [_reachable(server)]
    if server.has_token or server.agent_seen_at:
        rows.append(_agent(server))
    measured, problem = shown.ssh_measured_at(server), shown.ssh_error(server)
    if measured or problem:
        chip = Chip(gettext("No answer"), BAD, "error") if problem else _answers()
        rows.append(CheckRow(gettext("Measured over SSH"), chip, measured, measured, problem))
    return rows


def _reachable(server: Server) -> CheckRow:
    name = gettext("Reachable")
    if server.check_method:
        name = f"{name} ({server.check_method})"
    if server.reachable is None:
        chip = Chip(gettext("Not checked"), QUIET, "help", gettext("Never asked"))
    else:
        chip = _answers() if server.reachable else Chip(gettext("No answer"), BAD, "cloud_off", server.check_error)
    answered = server.last_check if server.reachable else None
    return CheckRow(name, chip, server.last_check, answered, "" if server.reachable else server.check_error)


def _agent(server: Server) -> CheckRow:
    name = gettext("Agent")
    if server.agent_asked_at is None:
        chip = Chip(gettext("Not checked"), QUIET, "help", gettext("Never asked"))
    elif server.agent_is_heard:
        chip = _answers()
    else:
        chip = Chip(gettext("No answer"), BAD, "cloud_off", server.agent_error)
    return CheckRow(name, chip, server.agent_asked_at, server.agent_seen_at, server.agent_error)


def _answers() -> Chip:
    return Chip(gettext("Answers"), GOOD, "check_circle")


def _installations(request: HttpRequest, server: Server) -> list[dict[str, Any]]:
    if not request.user.has_perm("inventory.view_installation"):
        return []
    return [
        {
            "row": row,
            "chip": installation_chip(row),
            "title": title_of(row.kind, row.dry_run),
            "url": reverse("admin:inventory_installation_page", args=[row.pk]),
        }
        for row in Installation.objects.filter(server=server)[:INSTALLATIONS]
    ]
