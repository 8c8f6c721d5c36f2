"""Tasks: the list with what comes next and what came last, one task's page, and its form."""

from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from infini.admin_base import ChoicesDropdownFilter, DropdownFilter, PageChangeList, PagedAdmin, RecordAdmin, display
from infini.admin_verbs import Verb, names_of
from infini.counting import count_of
from infini.csv_export import attributes
from infini.display import ABSENT, Chip, ago, url_of
from infini.errors import InfiniError
from infini.timeline import events_about
from scheduler import planning, runs, selectors, targets
from scheduler.admin.asking import effect_of_running, word_to_run
from scheduler.admin.form import TaskForm, saved_command, with_parameters
from scheduler.models import Target, Task
from scheduler.shown import moment_text, run_chip, schedule_text, seconds_text, strip, task_chip
from scheduler.states import TaskStatus

RUNS_SHOWN = 15


def _running(task: Any) -> str:
    if task.overlap == "skip" and getattr(task, "is_open", False):
        return gettext("A run is open.")
    return ""


RUN = Verb(
    name="run",
    label=_("Run now"),
    icon="play_arrow",
    permission="scheduler.run_task",
    run=runs.execute,
    done=lambda rows: gettext("Begun: %(names)s.") % {"names": names_of(rows)},
    effect=effect_of_running,
    word=word_to_run,
    refused=_running,
    primary=True,
)
ENABLE = Verb(
    name="enable",
    label=_("Switch on"),
    icon="toggle_on",
    permission="scheduler.change_task",
    run=lambda task, by: planning.set_enabled(task, True, by=by),
    done=lambda rows: gettext("Switched on: %(names)s.") % {"names": names_of(rows)},
    refused=lambda task: gettext("It is on.") if task.enabled else "",
)
DISABLE = Verb(
    name="disable",
    label=_("Switch off"),
    icon="toggle_off",
    permission="scheduler.change_task",
    run=lambda task, by: planning.set_enabled(task, False, by=by),
    done=lambda rows: gettext("Switched off: %(names)s.") % {"names": names_of(rows)},
    refused=lambda task: "" if task.enabled else gettext("It is off."),
)


class StatusFilter(DropdownFilter):
    title = _("last result")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(TaskStatus.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(status=self.value()) if self.value() else queryset


class TaskChangeList(PageChangeList):
    """Each row with its newest runs: one query for all."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        found = selectors.strips([task.pk for task in self.result_list])
        for task in self.result_list:
            task.strip = found[task.pk]


@admin.register(Task)
class TaskAdmin(PagedAdmin, RecordAdmin):
    find_icon = "schedule"
    form = TaskForm
    verbs = [RUN, ENABLE, DISABLE]
    remove = staticmethod(planning.delete_task)
    removed_effect = _("They fire no more. What they ran stays in the list of runs.")
    page_template = "pages/task.html"
    list_display = ["named", "next_shown", "targets_shown", "last_shown", "strip_shown", "enabled_shown", "run_shown"]
    list_display_links = ["named"]
    list_filter = [StatusFilter, ("schedule_type", ChoicesDropdownFilter), "enabled"]
    search_fields = ["name", "command"]
    search_help_text = _("Search name or command")
    csv_columns = [
        *attributes("id", "name", "status", "enabled", "schedule_type", "timezone", "next_run_at", "last_at"),
        *attributes("target_count", "selector", "command"),
    ]
    empty_text = _("A task runs a command on many servers, on a schedule or when you ask for it.")
    fieldsets = [
        (None, {"fields": ["name", "command", "environment"]}),
        (_("Where"), {"fields": ["on_servers", "selector", "account"]}),
        (
            _("When"),
            {
                "fields": [
                    *("schedule_type", "run_at", "interval_seconds", "weekday", "time_of_day", "cron", "timezone"),
                    "enabled",
                ]
            },
        ),
        (
            _("Limits"),
            {
                "fields": [
                    *("timeout_seconds", "run_timeout_seconds", "retries", "retry_delay_seconds", "width"),
                    *("stagger_seconds", "canary", "stop_after_failures", "stop_after_percent"),
                ],
                "classes": ["collapse"],
                "description": _("50 servers at once, 5 minutes each, an hour in all; nothing is tried again."),
            },
        ),
        (
            _("Missed times, overlap, alerts"),
            {
                "fields": [
                    *("misfire", "catch_up_most", "late_most_seconds", "overlap", "window_opens", "window_closes"),
                    *("notify", "long_after_seconds"),
                ],
                "classes": ["collapse"],
                "description": _(
                    "What was missed runs once, up to an hour late; while a run goes on the next is skipped; failures "
                    "and missed times raise alerts."
                ),
            },
        ),
    ]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.with_status().annotate(target_count=count_of(Target.objects.all(), "task"))

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Buttons for those alone who may press them."""
        columns = list(super().get_list_display(request))
        if not request.user.has_perm("scheduler.change_task"):
            columns[columns.index("enabled_shown")] = "enabled"
        return columns if request.user.has_perm("scheduler.run_task") else [c for c in columns if c != "run_shown"]

    def buttons(self, request: HttpRequest, row: Any) -> list[dict[str, Any]]:
        """Of the two switches the one that changes something."""
        idle = DISABLE if not row.enabled else ENABLE
        return [button for button in super().buttons(request, row) if button["verb"] is not idle]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return TaskChangeList

    # The page

    def page_context(self, request: HttpRequest, task: Any) -> dict[str, Any]:
        problem, upcoming, aims = "", [], []
        try:
            if task.enabled:
                upcoming = task.schedule().upcoming(timezone.now(), 5)
            aims = targets.aims_of(task)
        except InfiniError as error:
            problem = error.message
        newest = list(task.runs.with_counts().defer("command", "environment", "policy")[:RUNS_SHOWN])
        figures = selectors.statistics(task)
        return {
            "chip": task_chip(task),
            "schedule": schedule_text(task),
            "upcoming": [moment_text(task, at) for at in upcoming],
            "problem": problem,
            "aims": aims,
            "runs": [(run, run_chip(run)) for run in newest],
            "figures": figures | {"mean_text": seconds_text(figures["mean_seconds"])},
            "strip": strip(selectors.strips([task.pk])[task.pk]),
            "chart": selectors.durations(task),
            "events": events_about(request.user, task),
            "live_seconds": 2 if task.is_open else 5,
        }

    # Writing

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        self_form = with_parameters(self.form, None if obj else saved_command(request))
        return super().get_form(request, obj, change=change, **{"form": self_form, **kwargs})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        saved = None if obj else saved_command(request)
        if not saved or not saved.parameters:
            return fieldsets
        names = [f"param_{one['name']}" for one in saved.parameters]
        return [(None, {"fields": ["name", "command", *names, "environment"]}), *fieldsets[1:]]

    def save_model(self, request: HttpRequest, obj: Any, form: TaskForm, change: bool) -> None:
        by: Any = request.user
        servers = list(form.cleaned_data["on_servers"])
        form.put_beside(obj)
        if change:
            moved = servers if "on_servers" in form.changed_data else None
            version = form.cleaned_data.get("seen_version")
            planning.change_task(obj, form.written(), servers=moved, by=by, version=version)
        else:
            planning.create_task(obj, servers=servers, by=by)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        context["zones"] = sorted(available_timezones())
        return super().render_change_form(request, context, *args, **kwargs)

    # Columns

    @display(description=_("Task"), ordering="name", header=True)
    def named(self, task: Task) -> list[str]:
        return [task.name, schedule_text(task)]

    @display(description=pgettext_lazy("task", "Next"), ordering="next_run_at")
    def next_shown(self, task: Task) -> str:
        return moment_text(task, task.next_run_at) if task.enabled else gettext("off")

    @display(description=_("Targets"))
    def targets_shown(self, task: Any) -> str:
        parts = (
            [ngettext("%(n)d server", "%(n)d servers", task.target_count) % {"n": task.target_count}]
            if task.target_count
            else []
        )
        return " + ".join(parts + ([task.selector] if task.selector else [])) or ABSENT

    @display(description=_("Last result"), ordering="status")
    def last_shown(self, task: Any) -> SafeString | Chip:
        if task.last_run_id is None:
            return task_chip(task)
        url = url_of("admin:scheduler_run_page", task.last_run_id)
        return format_html('{} <a class="link" href="{}">{}</a>', task_chip(task), url, ago(task.last_at))

    @display(description=_("Last 30 runs"))
    def strip_shown(self, task: Any) -> SafeString:
        return strip(task.strip)

    @display(description=_("On"), ordering="enabled")
    def enabled_shown(self, task: Task) -> SafeString:
        """The button posts the list's own form elsewhere, with its token."""
        verb = DISABLE if task.enabled else ENABLE
        return format_html(
            '<button type="submit" class="switch" role="switch" aria-checked="{}" aria-label="{}" formnovalidate '
            'formaction="{}" title="{}"></button>',
            "true" if task.enabled else "false",
            task.name,
            url_of("admin:scheduler_task_do", task.pk, verb.name),
            verb.label,
        )

    @display(description="")
    def run_shown(self, task: Task) -> SafeString:
        return format_html(
            '<button type="submit" class="btn" formnovalidate formaction="{}" aria-label="{}: {}">{}</button>',
            url_of("admin:scheduler_task_do", task.pk, RUN.name),
            RUN.label,
            task.name,
            RUN.label,
        )
