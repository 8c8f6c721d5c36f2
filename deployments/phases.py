"""The words for what runs, shared by models, verbs and edges."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Wanted(models.TextChoices):
    """What a person asked for."""

    RUNNING = "running", _("Running")
    STOPPED = "stopped", _("Stopped")
    GONE = "gone", _("Gone")


class Phase(models.TextChoices):
    """What is observed of one instance."""

    PENDING = "pending", _("Pending")
    STARTING = "starting", _("Starting")
    RUNNING = "running", _("Running")
    STOPPING = "stopping", _("Stopping")
    STOPPED = "stopped", _("Stopped")
    SUCCEEDED = "succeeded", _("Succeeded")
    FAILED = "failed", _("Failed")
    LOST = "lost", _("Lost")


ALIVE = (Phase.STARTING, Phase.RUNNING, Phase.STOPPING)
ENDED = (Phase.STOPPED, Phase.SUCCEEDED, Phase.FAILED)


class DeployStatus(models.TextChoices):
    """The four words API clients know; derived, never stored."""

    DEPLOYING = "deploying", _("Deploying")
    DEPLOYED = "deployed", _("Running")
    ONLINE = "online", _("Not running")
    OFFLINE = "offline", _("Unreachable")


class RestartPolicy(models.TextChoices):
    """What the agent does when the process ends by itself."""

    NEVER = "never", _("Never")
    ON_FAILURE = "on-failure", _("On failure")
    ALWAYS = "always", _("Always")


class Outcome(models.TextChoices):
    """What became of a revision's last deployment."""

    GOOD = "good", _("Good")
    BAD = "bad", _("Failed")


class OperationKind(models.TextChoices):
    DEPLOY = "deploy", _("Deploy")
    RESTART = "restart", _("Restart")
    STOP = "stop", _("Stop")
    ROLL_BACK = "roll_back", _("Roll back")
    DELETE = "delete", _("Delete")
    RECONCILE = "reconcile", _("Reconcile")


class OperationState(models.TextChoices):
    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    RETURNED = "returned", _("Returned")
    CANCELLED = "cancelled", _("Cancelled")


OPEN_STATES = (OperationState.QUEUED, OperationState.RUNNING)


class ResultState(models.TextChoices):
    """How far one operation is on one instance."""

    WAITING = "waiting", _("Waiting")
    SENT = "sent", _("Sent")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")
