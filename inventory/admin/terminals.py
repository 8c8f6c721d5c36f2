"""Terminals and their recordings: live ones first. Who manages terminals sees everybody's; others their own."""

from dataclasses import replace
from typing import Any

from django.contrib import admin
from django.db.models import Case, QuerySet, Value, When
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from infini.admin_base import BaseAdmin, ChoicesDropdownFilter, DropdownFilter, PagedAdmin, display
from infini.admin_verbs import Verb, names_of
from infini.confirmation import typed_name
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, BAD, BUSY, GOOD, QUIET, WARN, Chip, ago, gib, link, url_or_none
from infini.errors import Conflict
from inventory.models import Recording, TerminalSession
from inventory.terminals import rows as verbs
from inventory.terminals.models import Ending, RecordingState

MANAGE = "inventory.manage_terminal"


def _end(row: Any, by: Any) -> None:
    if row.user_id != by.pk and not by.has_perm(MANAGE):
        raise Conflict(gettext("This is another person's terminal."))
    if not verbs.ask_to_end(row, by=by):
        raise Conflict(gettext("This terminal is over already."))


END = Verb(
    name="end",
    label=_("End"),
    icon="power_settings_new",
    permission="inventory.open_terminal",
    run=_end,
    done=lambda rows: gettext("Ended within seconds: %(names)s.") % {"names": names_of(rows)},
    effect=_("The shell and what runs in it are ended; its owner is told who did it."),
    danger=True,
    refused=lambda row: gettext("It is over.") if row.ended_at else "",
)

END_RECORDED = replace(
    END,
    permission=MANAGE,
    run=lambda row, by: _end(row.session, by),
    refused=lambda row: gettext("It is over.") if row.session.ended_at else "",
)


class StateFilter(DropdownFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("Open")), ("ended", _("Over"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(ended_at__isnull=self.value() == "open") if self.value() else queryset


class _ReadOnly(BaseAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(TerminalSession)
class TerminalAdmin(_ReadOnly):
    needs = {"view": "inventory.open_terminal"}
    exclude = ["user", "end_asked_by"]  # Django would link them to pages that are not everybody's; names are kept
    verbs = [END]
    list_display = ["server_shown", "user_name", "state_shown", "opened", "lasted", "watch", "recording_shown"]
    list_display_links = None
    list_ordering = ("rank", "-pk")
    list_filter = [StateFilter, ("ending", ChoicesDropdownFilter)]
    search_fields = ["user_name", "server_name"]
    search_help_text = _("Search user or server")
    empty_text = _("No terminal was opened yet. Open one from a server's page.")
    csv_columns = attributes(
        *("id", "server_name", "account", "service_name", "user_name", "opened_at", "ended_at", "ending"),
        *("exit_status", "signal", "ended_by_name"),
    )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("inventory.open_terminal")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        if not request.user.has_perm(MANAGE):
            rows = rows.filter(user=request.user)
        return rows.select_related("recording").annotate(rank=live_first("ended_at"))

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        verbs.end_forgotten()
        return super().changelist_view(request, extra_context)

    @display(description=_("Server"), ordering="server_name", header=True)
    def server_shown(self, row: TerminalSession) -> list[Any]:
        url = url_or_none("admin:inventory_server_page", row.server_id) if row.server_id else None
        return [link(url, row.server_name), f"{row.account}{f', {row.service_name}' if row.service_name else ''}"]

    @display(description=_("State"), ordering="rank")
    def state_shown(self, row: TerminalSession) -> Chip:
        return session_chip(row)

    @display(description=pgettext_lazy("terminal", "Opened"), ordering="opened_at")
    def opened(self, row: TerminalSession) -> SafeString:
        return ago(row.opened_at)

    @display(description=_("Lasted"))
    def lasted(self, row: TerminalSession) -> str:
        return duration((row.ended_at - row.opened_at).total_seconds()) if row.ended_at else ABSENT

    @display(description=_("Watch"))
    def watch(self, row: TerminalSession) -> SafeString | str:
        return watch_link(row)

    @display(description=_("Recording"))
    def recording_shown(self, row: TerminalSession) -> Chip | str:
        made = getattr(row, "recording", None)
        return recording_chip(made) if made else gettext("not recorded")


@admin.register(Recording)
class RecordingAdmin(_ReadOnly, PagedAdmin):
    page_template = "pages/recording.html"
    list_display = ["opened", "user_shown", "server_shown", "state_shown", "length", "size", "watch"]
    list_display_links = ["opened"]
    list_ordering = ("rank", "-pk")
    list_filter = [("state", ChoicesDropdownFilter)]
    search_fields = ["session__user_name", "session__server_name"]
    search_help_text = _("Search user or server")
    empty_text = _("What terminals show is recorded here, where the site or the server is set so.")
    csv_columns = [
        *attributes("id"),
        CsvColumn("server", lambda recording: recording.session.server_name),
        CsvColumn("user", lambda recording: recording.session.user_name),
        CsvColumn("opened_at", lambda recording: recording.session.opened_at),
        *attributes("state", "seconds", "bytes"),
    ]

    @property
    def verbs(self) -> list[Verb]:  # type: ignore[override]
        return [END_RECORDED, DELETE]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.select_related("session__server").annotate(rank=live_first("session__ended_at"))

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        return {
            "chip": recording_chip(row),
            "length": duration(row.seconds),
            "cast_url": f"/api/recordings/{row.pk}/cast",
            "watch_url": watch_link(row.session),
            "session_chip": session_chip(row.session),
            "live_seconds": 0,
        }

    @display(description=_("When"), ordering="pk")
    def opened(self, row: Recording) -> SafeString:
        return ago(row.session.opened_at)

    @display(description=_("User"), ordering="session__user_name")
    def user_shown(self, row: Recording) -> str:
        return row.session.user_name

    @display(description=_("Server"), ordering="session__server_name")
    def server_shown(self, row: Recording) -> str:
        return row.session.server_name

    @display(description=_("State"), ordering="rank")
    def state_shown(self, row: Recording) -> Chip:
        return recording_chip(row)

    @display(description=_("Length"), ordering="seconds")
    def length(self, row: Recording) -> str:
        return ABSENT if row.state == RecordingState.RUNNING else duration(row.seconds)

    @display(description=_("Size"), ordering="bytes")
    def size(self, row: Recording) -> str:
        return ABSENT if row.state == RecordingState.RUNNING else size_text(row.bytes)

    @display(description=_("Watch"))
    def watch(self, row: Recording) -> SafeString | str:
        return watch_link(row.session)


def _remove(row: Any, by: Any) -> None:
    if row.state == RecordingState.RUNNING:
        raise Conflict(gettext("It is still running; end its terminal first."))
    verbs.remove_recording(row, by=by)


DELETE = Verb(
    name="delete_selected",
    label=_("Delete"),
    icon="delete",
    permission="inventory.delete_recording",
    run=_remove,
    done=lambda rows: gettext("Deleted: %(names)s.") % {"names": names_of(rows)},
    effect=_("What was shown is deleted for good; that it was recorded stays in the timeline."),
    word=typed_name,
    danger=True,
    away=True,
)


def live_first(column: str) -> Case:
    return Case(When(**{f"{column}__isnull": True}, then=Value(0)), default=Value(1))


def session_chip(row: TerminalSession) -> Chip:
    if row.ended_at is None:
        if row.attached:
            return Chip(gettext("Open"), GOOD, "terminal", gettext("Somebody is attached"))
        return Chip(gettext("Detached"), WARN, "link_off", gettext("Nobody is attached; it ends after its grace time"))
    how = row.get_ending_display()
    if row.ending == Ending.EXIT:
        status = row.signal or (ABSENT if row.exit_status is None else str(row.exit_status))
        return Chip(gettext("Over"), QUIET, "stop_circle", gettext("Exit %(status)s") % {"status": status})
    role = BAD if row.ending in (Ending.LOST, Ending.REVOKED) else QUIET
    return Chip(gettext("Over"), role, "stop_circle", f"{how} {row.ended_by_name}".strip())


def recording_chip(row: Recording) -> Chip:
    looks = {
        RecordingState.RUNNING: (BUSY, "radio_button_checked"),
        RecordingState.FINISHED: (QUIET, "movie"),
        RecordingState.CUT: (WARN, "content_cut"),
        RecordingState.CAPPED: (WARN, "data_thresholding"),
    }
    role, icon = looks[RecordingState(row.state)]
    return Chip(row.get_state_display(), role, icon)


def watch_link(row: TerminalSession) -> SafeString | str:
    """Where an open one is watched, or by its owner used."""
    if row.ended_at is not None or row.server_id is None:
        return ABSENT
    url = f"{reverse('terminal_page')}?server={row.server_id}&observe={row.key}"
    return format_html('<a class="link" href="{}">{}</a>', url, gettext("Watch"))


def duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def size_text(count: int) -> str:
    if count < 1024**2:
        return f"{count / 1024:.1f} KiB"
    return f"{count / 1024**2:.1f} MiB" if count < 1024**3 else f"{gib(count)} GiB"
