"""Commands on many servers: what shall run when and where, what ran, and what came of it on each server."""

from datetime import time, timedelta
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils.timezone import now
from django.utils.translation import gettext_lazy as _

from infini.models import Versioned
from inventory.models import Server
from scheduler.querysets import RunQuerySet, TaskQuerySet
from scheduler.schedules import Schedule, Window, zone_named
from scheduler.states import Misfire, Overlap, ResultState, RunState, ScheduleType, Trigger

COMMAND_MAX_BYTES = 64 * 1024
RUN_MOST_SECONDS = 24 * 3600
WIDTH_MOST = 200


def _whole(label: Any, default: int | None, least: int, most: int, **options: Any) -> models.PositiveIntegerField:
    checks = [MinValueValidator(least), MaxValueValidator(most)]
    return models.PositiveIntegerField(label, default=default, validators=checks, **options)


class SavedCommand(Versioned):
    """A command kept for use again. ``parameters``: ``[{name, label, default, allowed, required}]``; each reaches the
    command as an environment variable, never as part of its text. ``key`` names an example that came with the site.
    """

    name = models.CharField(_("name"), max_length=100)
    description = models.CharField(_("what it does"), max_length=500, blank=True)
    command = models.TextField(_("command"))
    parameters = models.JSONField(_("parameters"), default=list, blank=True)
    key = models.CharField(max_length=40, blank=True, editable=False)

    class Meta:
        verbose_name = _("saved command")
        verbose_name_plural = _("saved commands")
        ordering = ["name", "pk"]
        constraints = [models.UniqueConstraint(Lower("name"), name="savedcommand_name_unique")]

    def __str__(self) -> str:
        return self.name


class Task(Versioned):
    """A command, the servers it runs on, and when. ``selector`` names servers by label, looked up at each run.

    ``next_run_at`` is observed: the one moment by which a due task is found; empty when it will not fire.
    """

    POLICY = (
        *("timeout_seconds", "run_timeout_seconds", "retries", "retry_delay_seconds", "width", "stagger_seconds"),
        *("canary", "stop_after_failures", "stop_after_percent"),
    )
    SCHEDULE = (
        *("schedule_type", "run_at", "interval_seconds", "time_of_day", "weekday", "cron", "timezone"),
        *("window_opens", "window_closes", "enabled"),
    )

    name = models.CharField(_("name"), max_length=100)
    command = models.TextField(_("command"))
    environment = models.JSONField(
        _("parameters"), default=dict, blank=True, help_text=_("Environment variables of the command.")
    )
    servers = models.ManyToManyField(Server, through="Target", related_name="tasks", verbose_name=_("servers"))
    selector = models.CharField(_("label selector"), max_length=500, blank=True)
    account = models.CharField(_("account"), max_length=100, blank=True)

    schedule_type = models.CharField(_("schedule"), max_length=10, choices=ScheduleType.choices)
    run_at = models.DateTimeField(_("at"), null=True, blank=True)
    interval_seconds = _whole(_("every (seconds)"), None, 1, 366 * 86400, null=True, blank=True)
    time_of_day = models.TimeField(_("time of day"), null=True, blank=True)
    weekday = models.PositiveSmallIntegerField(_("weekday"), null=True, blank=True)
    cron = models.CharField(_("cron line"), max_length=200, blank=True)
    timezone = models.CharField(_("time zone"), max_length=64, default="UTC")
    window_opens = models.TimeField(_("not before"), null=True, blank=True)
    window_closes = models.TimeField(_("not after"), null=True, blank=True)
    enabled = models.BooleanField(_("enabled"), default=True)
    misfire = models.CharField(_("missed times"), max_length=10, choices=Misfire.choices, default=Misfire.ONCE)
    catch_up_most = _whole(_("catch up at most"), 5, 1, 100)
    late_most_seconds = _whole(_("start late by at most (seconds)"), 3600, 0, 366 * 86400)
    overlap = models.CharField(_("overlap"), max_length=10, choices=Overlap.choices, default=Overlap.SKIP)

    timeout_seconds = _whole(_("time limit per server (seconds)"), 300, 1, RUN_MOST_SECONDS)
    run_timeout_seconds = _whole(_("time limit of the run (seconds)"), 3600, 1, RUN_MOST_SECONDS)
    retries = _whole(_("tries again per server"), 0, 0, 20)
    retry_delay_seconds = _whole(_("wait before trying again (seconds)"), 30, 0, 86400)
    width = _whole(_("servers at once"), 50, 1, WIDTH_MOST)
    stagger_seconds = models.FloatField(
        _("wait between starts (seconds)"), default=0, validators=[MinValueValidator(0), MaxValueValidator(3600)]
    )
    canary = _whole(_("first on"), 0, 0, 1000)
    stop_after_failures = _whole(_("stop after failures"), None, 1, 100_000, null=True, blank=True)
    stop_after_percent = _whole(_("stop after failures (%)"), None, 1, 100, null=True, blank=True)
    notify = models.BooleanField(_("raise alerts"), default=True)
    long_after_seconds = _whole(
        _("alert when it runs longer than (seconds)"), None, 1, RUN_MOST_SECONDS, null=True, blank=True
    )

    # Observed.
    anchor_at = models.DateTimeField(default=now, editable=False)
    next_run_at = models.DateTimeField(_("next"), null=True, editable=False, db_index=True)

    objects = TaskQuerySet.as_manager()

    class Meta:
        verbose_name = _("task")
        verbose_name_plural = _("tasks")
        ordering = ["name", "pk"]
        permissions = [("run_task", "Can run commands on servers")]
        constraints = [
            models.UniqueConstraint(Lower("name"), name="task_name_unique"),
            models.CheckConstraint(condition=Q(weekday=None) | Q(weekday__lte=6), name="task_weekday_range"),
            models.CheckConstraint(condition=Q(interval_seconds=None) | Q(interval_seconds__gte=1), name="task_every"),
        ]

    def __str__(self) -> str:
        return self.name

    def schedule(self) -> Schedule:
        """Raises Invalid when its time zone is no longer known."""
        window = None
        if self.window_opens is not None and self.window_closes is not None:
            window = Window(self.window_opens, self.window_closes)
        return Schedule(
            type=self.schedule_type,
            zone=zone_named(self.timezone),
            run_at=self.run_at,
            interval=timedelta(seconds=self.interval_seconds or 0),
            anchor=self.anchor_at,
            time_of_day=self.time_of_day or time(0),
            weekday=self.weekday,
            cron=self.cron,
            window=window,
        )

    def policy(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.POLICY}


class Target(models.Model):
    """A server a task names. Of a deleted one its name stays: each run tells of it until somebody edits the task."""

    task = models.ForeignKey(Task, models.CASCADE, related_name="targets")
    server = models.ForeignKey(Server, models.SET_NULL, null=True, related_name="+")
    server_name = models.CharField(max_length=100)

    class Meta:
        verbose_name = _("target")
        verbose_name_plural = _("targets")
        ordering = ["server_name", "pk"]
        constraints = [models.UniqueConstraint(fields=["task", "server"], name="target_once_per_task")]

    def __str__(self) -> str:
        return self.server_name


class Run(models.Model):
    """One time a command went out, or should have. What ran is kept as it was then: the task may change or go.

    ``fire_at`` is the time of the schedule it stands for: unique, so that no time fires twice. Whoever carries it out
    writes ``claim`` and keeps ``leased_until`` ahead; when that has passed, another goes on.
    """

    task = models.ForeignKey(Task, models.SET_NULL, null=True, related_name="runs", verbose_name=_("task"))
    name = models.CharField(_("name"), max_length=100)
    trigger = models.CharField(_("begun"), max_length=10, choices=Trigger.choices)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("by"))
    by_name = models.CharField(max_length=150, blank=True)
    fire_at = models.DateTimeField(_("due"), null=True)
    retry_of = models.ForeignKey("self", models.SET_NULL, null=True, related_name="retries")
    command = models.TextField(_("command"))
    environment = models.JSONField(_("parameters"), default=dict)
    account = models.CharField(_("account"), max_length=100, blank=True)
    policy = models.JSONField(default=dict)

    state = models.CharField(_("state"), max_length=10, choices=RunState.choices, default=RunState.QUEUED)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    created_at = models.DateTimeField(_("asked"), default=now)
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    cancel_asked_at = models.DateTimeField(null=True)
    cancel_asked_by = models.CharField(max_length=150, blank=True)
    claim = models.CharField(max_length=32, blank=True)
    leased_until = models.DateTimeField(null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        verbose_name = _("run")
        verbose_name_plural = _("runs")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["task", "fire_at"], name="run_once_per_fire_time"),
            models.UniqueConstraint(
                fields=["task"], condition=Q(state=RunState.RUNNING), name="one_running_run_per_task"
            ),
        ]
        indexes = [
            models.Index(fields=["task", "-id"], name="run_of_task"),
            models.Index(
                fields=["state", "id"], condition=Q(state__in=[RunState.QUEUED, RunState.RUNNING]), name="run_open"
            ),
            models.Index(fields=["finished_at"], name="run_finished"),
        ]

    def __str__(self) -> str:
        return f"{self.name} #{self.pk}"


class RunResult(models.Model):
    """What came of a run on one server. ``output`` and ``error`` keep head and tail; ``*_cut`` bytes between are gone.

    ``raw`` holds output that is no text, as it came. ``digest`` is of all that was printed, the cut part too: equal
    digests mean equal output.
    """

    run = models.ForeignKey(Run, models.CASCADE, related_name="results", verbose_name=_("run"))
    server = models.ForeignKey(Server, models.SET_NULL, null=True, related_name="+", verbose_name=_("server"))
    server_name = models.CharField(_("server"), max_length=100)
    host = models.CharField(_("address"), max_length=253, blank=True)
    state = models.CharField(_("state"), max_length=10, choices=ResultState.choices, default=ResultState.WAITING)
    attempt = models.PositiveSmallIntegerField(_("attempt"), default=0)
    not_before = models.DateTimeField(null=True)
    exit_status = models.IntegerField(_("exit status"), null=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    started_at = models.DateTimeField(_("started"), null=True)
    finished_at = models.DateTimeField(_("finished"), null=True)
    digest = models.CharField(max_length=64, blank=True)
    output_cut = models.PositiveBigIntegerField(default=0)
    error_cut = models.PositiveBigIntegerField(default=0)
    output = models.TextField(_("output"), blank=True)
    error = models.TextField(_("error output"), blank=True)
    raw = models.BinaryField(null=True)

    class Meta:
        verbose_name = _("result")
        verbose_name_plural = _("results")
        ordering = ["pk"]
        indexes = [models.Index(fields=["run", "state", "digest"], name="result_of_run")]

    def __str__(self) -> str:
        return f"{self.server_name}: {self.get_state_display()}"
