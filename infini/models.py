"""What every app shares: people, their keys, what happened, and leases."""

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person who logs in; rights come from the groups viewer, operator and administrator."""

    class Meta(AbstractUser.Meta):
        verbose_name = _("user")  # type: ignore[assignment]
        verbose_name_plural = _("users")  # type: ignore[assignment]


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

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ["-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class Event(models.Model):
    """One thing that happened, written in the transaction that changed the fact; never changed afterwards.

    ``id`` is the sequence. On SQLite one transaction writes at a time, so it is in order of commit.
    The subject is kept as text: it outlives the object it tells of.
    """

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(_("time"), default=timezone.now, db_index=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("actor")
    )
    actor_name = models.CharField(_("actor"), max_length=150, blank=True, help_text=_("Empty: the system itself."))
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
