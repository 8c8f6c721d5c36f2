"""The words for what a task, a run and a server's part in a run are in."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class ScheduleType(models.TextChoices):
    ONCE = "once", _("Once")
    INTERVAL = "interval", _("Every so often")
    DAILY = "daily", _("Daily")
    WEEKLY = "weekly", _("Weekly")
    CRON = "cron", _("Cron line")


class Misfire(models.TextChoices):
    """What becomes of times at which nothing could start."""

    SKIP = "skip", _("Skip them")
    ONCE = "once", _("Run once")
    CATCH_UP = "catch_up", _("Catch up")


class Overlap(models.TextChoices):
    """What becomes of a run whose predecessor has not ended."""

    SKIP = "skip", _("Skip the new one")
    QUEUE = "queue", _("Let the new one wait")
    REPLACE = "replace", _("Cancel the old one")


class Trigger(models.TextChoices):
    SCHEDULE = "schedule", _("by schedule")
    PERSON = "person", _("by hand")
    RETRY = "retry", _("retry of failed servers")


class RunState(models.TextChoices):
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    SUCCESS = "success", _("Done")
    FAILED = "failed", _("Failed")
    TIMED_OUT = "timed_out", _("Timed out")
    CANCELLED = "cancelled", _("Cancelled")
    MISSED = "missed", _("Missed")
    SKIPPED = "skipped", _("Skipped")


OPEN_RUNS = (RunState.QUEUED, RunState.RUNNING)
BAD_RUNS = (RunState.FAILED, RunState.TIMED_OUT)


class ResultState(models.TextChoices):
    WAITING = "waiting", _("Waiting")
    RUNNING = "running", _("Running")
    SUCCESS = "success", _("Done")
    FAILED = "failed", _("Failed")
    TIMED_OUT = "timed_out", _("Timed out")
    LOST = "lost", _("Lost contact")
    CANCELLED = "cancelled", _("Cancelled")
    SKIPPED = "skipped", _("Not begun")


OPEN_RESULTS = (ResultState.WAITING, ResultState.RUNNING)
BAD_RESULTS = (ResultState.FAILED, ResultState.TIMED_OUT, ResultState.LOST)


class TaskStatus(models.TextChoices):
    """Derived from the task's newest run; never stored."""

    IDLE = "idle", _("Never ran")
    RUNNING = "running", _("Running")
    SUCCESS = "success", _("Success")
    FAILED = "failed", _("Failed")
    MISSED = "missed", _("Missed")
