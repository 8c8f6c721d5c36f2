"""What an installation, and each of its steps, can be."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Kind(models.TextChoices):
    INSTALL = "install", _("Install")
    UPGRADE = "upgrade", _("Upgrade")
    REMOVE = "remove", _("Remove")


class State(models.TextChoices):
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


OPEN_STATES = (State.QUEUED, State.RUNNING)
ENDED_BADLY = (State.FAILED, State.CANCELLED)


class StepState(models.TextChoices):
    """``unchanged``: it was right already. ``planned``: a dry run found that it would be done. ``skipped``: not begun,
    because an earlier one failed or was cancelled.
    """

    WAITING = "waiting", _("Waiting")
    RUNNING = "running", _("Running")
    DONE = "done", _("Done")
    UNCHANGED = "unchanged", _("Unchanged")
    PLANNED = "planned", _("Would be done")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")
    SKIPPED = "skipped", _("Not begun")
