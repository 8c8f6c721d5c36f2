"""What every app shares: people, their keys, what happened, leases, and alerts."""

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from infini.fields import EncryptedTextField
from infini.said import said_subject


class User(AbstractUser):
    """A person who logs in; rights come from the groups viewer, operator and administrator.

    With a ``totp_secret`` a login takes a second step; ``totp_step`` is the last 30 s step whose code was used, so
    that none is used twice. Of recovery codes only digests are kept. ``hidden_columns`` names, by the label of a list's
    model, the columns its reader does without.
    """

    language = models.CharField(_("language"), max_length=10, blank=True, choices=settings.LANGUAGES)
    time_zone = models.CharField(_("time zone"), max_length=50, blank=True, help_text=_("For example Asia/Shanghai."))
    compact_lists = models.BooleanField(_("compact rows"), default=False)
    hidden_columns = models.JSONField(default=dict, editable=False)
    totp_secret = EncryptedTextField(blank=True, default="", editable=False)
    totp_step = models.PositiveBigIntegerField(default=0, editable=False)
    recovery_digests = models.JSONField(default=list, editable=False)

    class Meta(AbstractUser.Meta):
        verbose_name = _("user")  # type: ignore[assignment]
        verbose_name_plural = _("users")  # type: ignore[assignment]


class SavedList(models.Model):
    """A list as somebody filtered and sorted it: a tab above the list, his own or ``shared`` with all who see it.

    ``page`` is the label of the list's model, ``query`` what stands behind the ``?`` of its address.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_lists")
    page = models.CharField(max_length=60)
    name = models.CharField(_("name"), max_length=40)
    query = models.CharField(max_length=1000)
    shared = models.BooleanField(_("shared"), default=False)

    class Meta:
        verbose_name = _("saved filter")
        verbose_name_plural = _("saved filters")
        ordering = ["page", "name", "pk"]
        constraints = [models.UniqueConstraint("user", "page", Lower("name"), name="savedlist_name_unique")]

    def __str__(self) -> str:
        return self.name


class Versioned(models.Model):
    """A row people edit: ``version`` grows by one with each change and tells a stale write from a fresh one."""

    version = models.PositiveIntegerField(_("version"), default=1, editable=False, db_default=1)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)

    class Meta:
        abstract = True


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, now: datetime) -> "ApiKeyQuerySet":
        """Keys that open something at ``now``: not revoked, not expired, owner active."""
        unexpired = Q(expires_at=None) | Q(expires_at__gt=now)
        return self.filter(unexpired, revoked_at=None, user__is_active=True)


class ApiKey(models.Model):
    """A bearer key for the API and the gateway. Only its SHA-256 is kept: the key has 256 random bits of its own."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_keys", verbose_name=_("owner"))
    name = models.CharField(_("name"), max_length=100)
    prefix = models.CharField(_("prefix"), max_length=12, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(_("scopes"), default=dict, blank=True, help_text=_("Empty: everything its owner may do."))
    limits = models.JSONField(_("limits"), default=dict, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, editable=False)
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)
    changed_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)  # for gateways: what is new

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class LoginSession(models.Model):
    """One login of a person that may still be open: where from, and with what."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="login_sessions")
    session_key = models.CharField(max_length=40, unique=True)
    address = models.CharField(_("address"), max_length=45, blank=True)
    client = models.CharField(_("browser"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("since"), default=timezone.now)
    seen_at = models.DateTimeField(_("last seen"), default=timezone.now)

    class Meta:
        verbose_name = _("session")
        verbose_name_plural = _("sessions")
        ordering = ["-seen_at"]

    def __str__(self) -> str:
        return f"{self.user} from {self.address}"


class LoginFailure(models.Model):
    """A login that was refused; so many of them and the next has to wait. ``name`` as typed, in lower case."""

    name = models.CharField(max_length=150)
    address = models.CharField(max_length=45)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("failed login")
        verbose_name_plural = _("failed logins")
        indexes = [models.Index(fields=["address", "at"], name="loginfailure_address")]

    def __str__(self) -> str:
        return f"{self.name} from {self.address}"


class Event(models.Model):
    """One thing that happened, written in the transaction that changed the fact; never changed afterwards.

    ``id`` is the sequence; whoever reads on by it does so within ``event_order.in_order()`` and misses none.
    The subject is kept as text: it outlives the object it tells of.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(_("time"), default=timezone.now, db_index=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("actor")
    )
    actor_name = models.CharField(_("actor"), max_length=150, blank=True, help_text=_("Empty: the system itself."))
    address = models.CharField(_("address"), max_length=45, blank=True, help_text=_("Where the actor was."))
    kind = models.CharField(_("what"), max_length=60, db_index=True)
    subject_kind = models.CharField(_("subject kind"), max_length=60)
    subject_id = models.CharField(_("subject id"), max_length=40)
    subject_name = models.CharField(_("subject"), max_length=200)
    data = models.JSONField(_("details"), default=dict)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("timeline")
        ordering = ["-id"]
        indexes = [models.Index(fields=["subject_kind", "subject_id", "-id"], name="event_subject")]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject_kind} {self.subject_name}"

    @property
    def subject_said(self) -> str:
        """In the reader's language."""
        return said_subject(self.subject_kind, self.subject_name)


class Lease(models.Model):
    """A named right held by one process for a while; ``fence`` grows with each new holder."""

    name = models.CharField(max_length=100, primary_key=True)
    holder = models.CharField(max_length=100)
    expires_at = models.DateTimeField()
    fence = models.PositiveBigIntegerField(default=1)

    class Meta:
        verbose_name = _("lease")
        verbose_name_plural = _("leases")

    def __str__(self) -> str:
        return f"{self.name} held by {self.holder}"

    @classmethod
    def take(cls, name: str, holder: str, *, seconds: float) -> bool:
        """Take or renew the lease; False when another holder's is still running. Safe from any process."""
        now = timezone.now()
        until = now + timedelta(seconds=seconds)
        if cls.objects.filter(name=name, holder=holder, expires_at__gt=now).update(expires_at=until):
            return True
        free = cls.objects.filter(name=name, expires_at__lte=now)
        if free.update(holder=holder, expires_at=until, fence=F("fence") + 1):
            return True
        _row, made = cls.objects.get_or_create(name=name, defaults={"holder": holder, "expires_at": until})
        return made


class AlertKind(models.TextChoices):
    """What people can be told of."""

    SERVER_OFFLINE = "server_offline", _("Server offline")
    INSTANCE_FAILED = "instance_failed", _("Instance failed")
    ROLLED_BACK = "rolled_back", _("Rolled back")
    BRAKE = "brake", _("Automatic action paused")
    TASK_FAILED = "task_failed", _("Task failed")
    TASK_MISSED = "task_missed", _("Task missed")
    TASK_LONG = "task_long", _("Task runs long")


class TargetKind(models.TextChoices):
    WEBHOOK = "webhook", _("Webhook")
    EMAIL = "email", _("E-mail")


class AlertTarget(Versioned):
    """Somebody or something that is told of alerts. ``kinds`` empty means all of them.

    The address is an administrator's to see: those of chat services carry their secret in the path.
    """

    name = models.CharField(_("name"), max_length=100)
    kind = models.CharField(_("kind"), max_length=10, choices=TargetKind.choices, default=TargetKind.WEBHOOK)
    address = models.CharField(
        _("address"), max_length=500, help_text=_("Where to: an http(s) address, or an e-mail address.")
    )
    secret = EncryptedTextField(
        _("signature key"),
        blank=True,
        default="",
        help_text=_("Webhook only: signs each message, as X-Infini-Signature: sha256=HMAC of the body."),
    )
    kinds = models.JSONField(_("alerts"), default=list, blank=True, help_text=_("Empty: all."))
    language = models.CharField(
        _("language"),
        max_length=10,
        blank=True,
        choices=settings.LANGUAGES,
        help_text=_("Of what it is told. Empty: English."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)

    # Observed.
    last_sent_at = models.DateTimeField(_("last sent"), null=True, editable=False)
    last_error = models.CharField(_("last error"), max_length=300, blank=True, editable=False)

    class Meta:
        verbose_name = _("alert target")
        verbose_name_plural = _("alert targets")
        ordering = ["name", "pk"]
        constraints = [models.UniqueConstraint(Lower("name"), name="alerttarget_name_unique")]

    def __str__(self) -> str:
        return self.name

    def wants(self, kind: str) -> bool:
        return self.enabled and (not self.kinds or kind in self.kinds)


class AlertState(models.TextChoices):
    OPEN = "open", _("Open")
    RECOVERED = "recovered", _("Recovered")


class Alert(models.Model):
    """Something is wrong with a subject, or was: at most one is open per kind and subject.

    The subject is kept as text: it outlives the object it tells of. ``ending`` says why it is over.
    """

    kind = models.CharField(_("what"), max_length=30, choices=AlertKind.choices)
    subject_kind = models.CharField(max_length=60)
    subject_id = models.CharField(max_length=40, blank=True)
    subject_name = models.CharField(_("subject"), max_length=200)
    message = models.CharField(_("message"), max_length=500)
    state = models.CharField(_("state"), max_length=10, choices=AlertState.choices, default=AlertState.OPEN)
    opened_at = models.DateTimeField(_("opened"), default=timezone.now)
    recovered_at = models.DateTimeField(_("recovered"), null=True)
    ending = models.CharField(_("ending"), max_length=500, blank=True)

    class Meta:
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "subject_kind", "subject_id"],
                condition=Q(state=AlertState.OPEN),
                name="one_open_alert_per_subject",
            ),
            models.CheckConstraint(
                condition=Q(state=AlertState.OPEN, recovered_at=None)
                | Q(state=AlertState.RECOVERED, recovered_at__isnull=False),
                name="alert_recovered_has_time",
            ),
        ]
        indexes = [models.Index(fields=["kind", "subject_kind", "subject_id", "recovered_at"], name="alert_subject")]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.subject_said}"

    @property
    def subject_said(self) -> str:
        """In the reader's language."""
        return said_subject(self.subject_kind, self.subject_name)


class AlertPhase(models.TextChoices):
    OPENED = "opened", _("Opened")
    RECOVERED = "recovered", _("Recovered")


class DeliveryState(models.TextChoices):
    DUE = "due", _("Due")
    SENT = "sent", _("Sent")
    FAILED = "failed", _("Failed")


class AlertDelivery(models.Model):
    """One target to be told of one phase of an alert.

    Whoever sends it writes ``claim`` and moves ``next_at`` to the end of its lease. ``tried_at`` counts for the
    rate limit, unless another delivery's message carries this one: ``in_summary``.
    """

    alert = models.ForeignKey(Alert, models.CASCADE, related_name="deliveries", verbose_name=_("alert"))
    target = models.ForeignKey(AlertTarget, models.CASCADE, related_name="deliveries", verbose_name=_("target"))
    phase = models.CharField(_("phase"), max_length=10, choices=AlertPhase.choices)
    state = models.CharField(_("state"), max_length=10, choices=DeliveryState.choices, default=DeliveryState.DUE)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    next_at = models.DateTimeField(default=timezone.now)
    tried_at = models.DateTimeField(_("tried"), null=True)
    in_summary = models.BooleanField(default=False)
    claim = models.CharField(max_length=32, blank=True)
    error = models.CharField(_("error"), max_length=300, blank=True)

    class Meta:
        verbose_name = _("alert delivery")
        verbose_name_plural = _("alert deliveries")
        ordering = ["-pk"]
        constraints = [models.UniqueConstraint(fields=["alert", "target", "phase"], name="one_delivery_per_phase")]
        indexes = [
            models.Index(fields=["state", "next_at"], name="delivery_due"),
            models.Index(fields=["target", "tried_at"], name="delivery_rate"),
        ]

    def __str__(self) -> str:
        return f"{self.alert} to {self.target}: {self.phase}"
