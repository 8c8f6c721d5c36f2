"""What is kept of terminals: each session, and its recording. The running session itself lives in a web process."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _


class Ending(models.TextChoices):
    """Why a session is over."""

    EXIT = "exit", _("The shell ended")
    CLOSED = "closed", _("Closed by its owner")
    ENDED = "ended", _("Ended by somebody else")
    IDLE = "idle", _("Nobody typed for too long")
    GRACE = "grace", _("Nobody came back")
    REVOKED = "revoked", _("The permission was taken away")
    LOST = "lost", _("The connection to the server was lost")
    RESTARTED = "restarted", _("The site was restarted")


class TerminalSession(models.Model):
    """One shell on one server, from its opening to its end. It outlives its server and its user, so both are
    kept as text too.

    ``process`` names the web process that holds it and ``seen_at`` when that last said so; a row still open whose
    process is gone ended with it.
    """

    key = models.CharField(max_length=32, unique=True, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("user")
    )
    user_name = models.CharField(_("user"), max_length=150)
    server = models.ForeignKey(
        "inventory.Server", models.SET_NULL, null=True, related_name="+", verbose_name=_("server")
    )
    server_name = models.CharField(_("server"), max_length=100)
    account = models.CharField(_("account"), max_length=100)
    service_name = models.CharField(_("service"), max_length=200, blank=True)
    opened_at = models.DateTimeField(_("opened"), default=timezone.now)
    process = models.CharField(max_length=120)
    seen_at = models.DateTimeField(default=timezone.now)
    attached = models.BooleanField(_("attached"), default=True)
    end_asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")

    ended_at = models.DateTimeField(_("ended"), null=True)
    ending = models.CharField(_("ending"), max_length=10, choices=Ending.choices, blank=True)
    ended_by_name = models.CharField(_("ended by"), max_length=150, blank=True)
    exit_status = models.IntegerField(_("exit status"), null=True)
    signal = models.CharField(_("signal"), max_length=20, blank=True)
    input_bytes = models.BigIntegerField(_("typed (bytes)"), default=0)
    output_bytes = models.BigIntegerField(_("shown (bytes)"), default=0)

    class Meta:
        verbose_name = _("terminal")
        verbose_name_plural = _("terminals")
        ordering = ["-pk"]
        permissions = [
            ("open_terminal", "Can open terminals"),
            ("manage_terminal", "Can watch and end terminals of others"),
            ("download_files", "Can download files from servers"),
            ("upload_files", "Can upload files to servers"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(ended_at=None, ending="") | (Q(ended_at__isnull=False) & ~Q(ending="")),
                name="terminal_ended_has_ending",
            )
        ]
        indexes = [models.Index(fields=["ended_at", "-id"], name="terminal_open")]

    def __str__(self) -> str:
        return gettext("%(user)s on %(server)s") % {"user": self.user_name, "server": self.server_name}


class RecordingState(models.TextChoices):
    RUNNING = "running", _("Running")
    FINISHED = "finished", pgettext_lazy("recording", "Finished")
    CUT = "cut", _("Unfinished")
    CAPPED = "capped", _("Cut at the size limit")


class Recording(models.Model):
    """What a session showed, as an asciicast file; ``file`` is its name in the recordings directory."""

    session = models.OneToOneField(
        TerminalSession, models.CASCADE, related_name="recording", verbose_name=_("terminal")
    )
    file = models.CharField(max_length=60, unique=True, editable=False)
    state = models.CharField(_("state"), max_length=10, choices=RecordingState.choices, default=RecordingState.RUNNING)
    seconds = models.FloatField(_("length (s)"), default=0.0)
    bytes = models.BigIntegerField(_("size (bytes)"), default=0)

    class Meta:
        verbose_name = _("recording")
        verbose_name_plural = _("recordings")
        ordering = ["-pk"]

    def __str__(self) -> str:
        return str(self.session)
