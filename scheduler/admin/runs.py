"""Runs: what went out, and one run's page: the servers by what they answered, live."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import DropdownFilter, PagedAdmin, RecordAdmin, RelatedDropdownFilter, display
from infini.admin_verbs import Verb, names_of
from infini.confirmation import Question, ask, asks_only, is_confirmed
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, Chip, ago
from infini.extras import add_verb
from infini.visibility import visible
from scheduler import downloads, grouping, runs
from scheduler.admin.asking import effect_of_once, effect_of_retrying, reach_of_draft, word_for, word_to_retry
from scheduler.admin.form import RunForm, saved_command, with_parameters
from scheduler.grouping import Group
from scheduler.models import Run, RunResult, Task
from scheduler.shown import result_chip, result_role, run_chip, seconds_text, state_chip, took_text
from scheduler.states import BAD_RESULTS, OPEN_RUNS, ResultState, RunState

PAGE = 50
SHOWN_CHARS = 64 * 1024  # of one output on the page; the whole of what is kept can be downloaded


def _cannot_cancel(run: Any) -> str:
    return "" if run.state in OPEN_RUNS else gettext("It has ended.")


def _cannot_retry(run: Any) -> str:
    if run.state in OPEN_RUNS:
        return gettext("It has not ended.")
    return "" if run.bad_count else gettext("No server failed.")


CANCEL = Verb(
    name="cancel",
    label=_("Cancel"),
    icon="stop_circle",
    permission="scheduler.run_task",
    run=runs.cancel,
    done=lambda rows: gettext("Cancelling: %(names)s.") % {"names": names_of(rows)},
    effect=_("Nothing more begins, and what runs is ended on its server."),
    dismiss=_("Let it run"),
    refused=_cannot_cancel,
    danger=True,
)
RETRY = Verb(
    name="retry",
    label=_("Retry failed"),
    icon="replay",
    permission="scheduler.run_task",
    run=runs.retry_failed,
    done=lambda rows: gettext("Begun again: %(names)s.") % {"names": names_of(rows)},
    effect=effect_of_retrying,
    word=word_to_retry,
    refused=_cannot_retry,
)


COMMAND = Verb(
    name="command",
    label=_("Run a command"),
    icon="play_circle",
    permission="scheduler.run_task",
    in_menu=True,
    done=lambda rows: "",
    leads_to=lambda rows: f"{reverse('admin:scheduler_run_add')}?on_servers={','.join(str(row.pk) for row in rows)}",
    refused=lambda server: "" if server.username else gettext("No SSH account is stored."),
)
add_verb("inventory.server", COMMAND)


class StateFilter(DropdownFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("open", _("Open")), *RunState.choices]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if not self.value():
            return queryset
        return queryset.filter(state__in=OPEN_RUNS if self.value() == "open" else [self.value()])


@admin.register(Run)
class RunAdmin(PagedAdmin, RecordAdmin):
    """Read-only but for its verbs; adding one runs a command once."""

    form = RunForm
    verbs = [RETRY, CANCEL]
    page_template = "pages/run.html"
    list_display = ["named", "state_shown", "servers_shown", "started", "took", "begun", "reason"]
    list_display_links = ["named"]
    list_filter = [StateFilter, ("task", RelatedDropdownFilter)]
    search_fields = ["name", "reason"]
    csv_columns = [
        *attributes("id", "name", "task_id", "trigger"),
        CsvColumn("by", lambda run: run.by_name),
        *attributes("state", "reason", "server_count", "ok_count", "bad_count"),
        *attributes("fire_at", "created_at", "started_at", "finished_at"),
        CsvColumn("seconds", lambda run: run.took.total_seconds() if run.took else None),
    ]
    empty_text = _("Every time a command goes out to servers, or should have, is a run. Run one now, or make a task.")
    fieldsets = [
        (None, {"fields": ["name", "command", "environment"]}),
        (_("Where"), {"fields": ["on_servers", "selector", "account"]}),
        (_("Limits"), {"fields": ["timeout_seconds", "width", "canary", "stop_after_failures"]}),
        (
            _("More limits"),
            {
                "fields": [
                    *("run_timeout_seconds", "retries", "retry_delay_seconds", "stagger_seconds"),
                    "stop_after_percent",
                ],
                "classes": ["collapse"],
            },
        ),
    ]

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:pk>/output/", wrap(self.download_view), name="scheduler_run_output"),
            path("<int:pk>/results.csv", wrap(self.results_view), name="scheduler_run_results"),
            *super().get_urls(),
        ]

    def all_verbs(self) -> list[Verb]:
        return list(self.verbs)

    needs = {"add": "scheduler.run_task"}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("scheduler.run_task")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.with_counts().defer("environment", "policy")

    # A command that runs once

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """The form is of an unsaved task: what a single run needs is what a task needs, but for the schedule."""
        form = with_parameters(RunForm, saved_command(request))
        return type(form.__name__, (form,), {"request": request, "__module__": form.__module__})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        saved = saved_command(request)
        names = [f"param_{one['name']}" for one in saved.parameters] if saved else []
        return [(None, {"fields": ["name", "command", *names, "environment"]}), *self.fieldsets[1:]]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """``?on_servers=1,2`` are chosen already."""
        given = super().get_changeform_initial_data(request)
        servers = [part for part in str(given.pop("on_servers", "")).split(",") if part.isascii() and part.isdigit()]
        return given | ({"on_servers": servers} if servers else {})

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if request.method == "POST" and self.has_add_permission(request):
            asked = self._asked_first(request)
            if asked:
                return asked
        return super().add_view(request, form_url, extra_context)

    def _asked_first(self, request: HttpRequest) -> HttpResponse | None:
        """The question where the command goes to many servers; None: send it, or say what is wrong with it."""
        form = self.get_form(request)(request.POST, request.FILES)
        data = form.cleaned_data if form.is_valid() else {}
        named = [server.pk for server in data.get("on_servers", ())]
        servers = reach_of_draft(named, data.get("selector", "")) if data else 0
        word = word_for(servers)
        if word and not is_confirmed(request, word):
            run = str(_("Run now"))
            question = Question(
                title=f"{run}: {data.get('name') or gettext('Command')}",
                effect=effect_of_once(servers),
                button=f"{run} ({servers})",
                word=word,
                back=request.get_full_path(),
            )
            return ask(self.admin_site, request, question, opts=self.opts)
        return HttpResponse(status=204) if asks_only(request) else None

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        task: Task = form.save(commit=False)
        task.name = form.cleaned_data.get("name") or ""
        task.environment = form.cleaned_data["environment"]
        named = [server.pk for server in form.cleaned_data["on_servers"]]
        return runs.run_once(task, named=named, by=request.user)  # type: ignore[arg-type]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Begun with ``save_form``."""

    # The page

    def page_queryset(self, request: HttpRequest) -> QuerySet:
        return visible(Run.objects.with_counts().select_related("task", "retry_of"), request.user)

    def page_context(self, request: HttpRequest, run: Any) -> dict[str, Any]:
        asked = request.GET
        groups = grouping.groups_of(run)
        search = asked.get("q", "")[:200]
        rows = _asked_results(run, asked).defer("output", "error", "raw").order_by("server_name", "pk")
        page = Paginator(rows, PAGE).get_page(asked.get("page"))
        counts = _counts(groups)
        shown = self._shown_result(run, asked.get("server", ""))
        return {
            "chip": run_chip(run),
            "counts": [(state_chip(state), n, state) for state, n in counts.items()],
            "bars": _bars(counts),
            "ended_count": sum(n for state, n in counts.items() if state not in ("waiting", "running")),
            "took": took_text(run),
            "groups": [_line(run, group, asked) for group in groups],
            "open_group": self._open_group(run, groups, asked.get("open", "")),
            "page": page,
            "lines": [_server_line(result, asked) for result in page],
            "search": search,
            "state": asked.get("state", ""),
            "states": ResultState.choices,
            "shown": shown,
            "csv_query": urlencode({name: asked[name] for name in ("q", "state") if asked.get(name)}),
            "kept": [(name, asked[name]) for name in ("open", "server") if name in asked],
            "previous_url": _address(asked, page=page.previous_page_number()) if page.has_previous() else "",
            "next_url": _address(asked, page=page.next_page_number()) if page.has_next() else "",
            "closed_url": _address(asked, server=None),
            "live_seconds": 1 if run.state in OPEN_RUNS else 0,
        }

    def _open_group(self, run: Run, groups: list[Group], key: str) -> dict[str, Any] | None:
        group = next((group for group in groups if group.key == key), None)
        if group is None:
            return None
        first = group.members(run).defer("raw").first()
        reference = next((other for other in groups if other.is_reference), None)
        diff = None
        if first and reference and not group.is_reference and group.state in grouping.ENDED:
            stands_for = RunResult.objects.defer("raw").filter(pk=reference.first_id).first()
            diff = grouping.difference(stands_for, first) if stands_for else None
        names = list(group.members(run).values_list("server_name", flat=True)[:PAGE])
        return {"group": group, "first": first, "text": _cut(first), "diff": diff, "names": names}

    def _shown_result(self, run: Run, asked: str) -> dict[str, Any] | None:
        if not asked.isascii() or not asked.isdigit() or len(asked) > 18:
            return None
        result = run.results.defer("raw").filter(pk=int(asked)).first()
        return {"result": result, "chip": result_chip(result), "text": _cut(result)} if result else None

    def results_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """The run's results as its page finds them, as CSV."""
        run = self._readable(request, pk)
        return downloads.results_csv(request, run, _asked_results(run, request.GET))

    def _readable(self, request: HttpRequest, pk: int) -> Run:
        run = visible(Run.objects.filter(pk=pk), request.user).first()
        if not self.has_view_permission(request, run):
            raise PermissionDenied
        if run is None:
            raise Http404
        return run

    def download_view(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        run = self._readable(request, pk)
        asked = request.GET.get("result", "")
        if not asked:
            return downloads.whole_run(run)
        result = run.results.filter(pk=int(asked)).first() if asked.isascii() and asked.isdigit() else None
        if result is None:
            raise Http404
        return downloads.one_result(run, result)

    def response_post_save_add(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return HttpResponseRedirect(self.page_url(obj))

    # Columns

    @display(description=_("Run"), ordering="pk")
    def named(self, run: Run) -> str:
        return str(run)

    @display(description=_("State"), ordering="state")
    def state_shown(self, run: Run) -> Chip:
        return run_chip(run)

    @display(description=_("Servers"))
    def servers_shown(self, run: Any) -> str:
        if not run.server_count:
            return ABSENT
        done = gettext("%(ok)d of %(all)d done") % {"ok": run.ok_count, "all": run.server_count}
        failed = gettext("%(n)d failed") % {"n": run.bad_count} if run.bad_count else ""
        return ", ".join(part for part in (done, failed) if part)

    @display(description=_("Started"), ordering="pk")
    def started(self, run: Run) -> SafeString:
        return ago(run.started_at or run.fire_at or run.created_at)

    @display(description=_("Took"), ordering="took")
    def took(self, run: Run) -> str:
        return took_text(run)

    @display(description=_("Begun"))
    def begun(self, run: Run) -> str:
        return run.by_name or str(run.get_trigger_display())


def _asked_results(run: Run, asked: Any) -> QuerySet[RunResult]:
    """The results that the search and the state in an address leave."""
    rows = grouping.found(run, asked.get("q", "")[:200])
    return rows.filter(state=asked["state"]) if asked.get("state") in ResultState.values else rows


def _counts(groups: list[Group]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.state] = counts.get(group.state, 0) + group.count
    return counts


def _bars(counts: dict[str, int]) -> list[tuple[str, float, float]]:
    """Each state's share of the bar as (colour, begin, width), in percent."""
    total, begin = sum(counts.values()) or 1, 0.0
    bars = []
    for state, count in counts.items():
        width = 100 * count / total
        bars.append((result_role(state), begin, width))
        begin += width
    return bars


def _line(run: Run, group: Group, asked: Any) -> dict[str, Any]:
    """One group as a line that opens and closes."""
    is_open = asked.get("open") == group.key
    if group.is_reference:
        note = gettext("alike, the largest group")
    elif group.state in grouping.ENDED:
        note = gettext("differ from the largest group") if group.state not in BAD_RESULTS else ""
    else:
        note = ""
    return {
        "group": group,
        "chip": state_chip(group.state),
        "note": note,
        "open": is_open,
        "url": _address(asked, open=None if is_open else group.key),
    }


def _server_line(result: RunResult, asked: Any) -> dict[str, Any]:
    is_open = asked.get("server") == str(result.pk)
    url = _address(asked, server=None if is_open else result.pk)
    return {
        "result": result,
        "chip": result_chip(result),
        "took": seconds_text(_seconds(result)),
        "open": is_open,
        "url": url,
    }


def _address(asked: Any, **changes: Any) -> str:
    """The page's own address with some parts changed; None takes a part away."""
    kept = {name: asked[name] for name in ("open", "q", "state", "page", "server") if asked.get(name)}
    parts = {name: value for name, value in (kept | changes).items() if value is not None}
    return f"?{urlencode(parts)}" if parts else "?"


def _seconds(result: RunResult) -> float | None:
    if result.started_at is None or result.finished_at is None:
        return None
    return (result.finished_at - result.started_at).total_seconds()


def _cut(result: RunResult | None) -> dict[str, Any]:
    """Output and error output as much as a page shows."""
    if result is None:
        return {}
    return {
        "output": result.output[-SHOWN_CHARS:],
        "error": result.error[-SHOWN_CHARS:],
        "more": len(result.output) > SHOWN_CHARS or len(result.error) > SHOWN_CHARS,
        "binary": RunResult.objects.filter(pk=result.pk, raw__isnull=False).exists(),
    }
