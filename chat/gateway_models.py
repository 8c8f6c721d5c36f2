"""What the gateway keeps: how a service's traffic is treated, upstreams that run elsewhere, and what was used."""

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from deployments.models import Service
from infini.fields import EncryptedTextField
from infini.models import Versioned
from inventory.models import AIModel


def target_key(*, service_id: int | None = None, endpoint_id: int | None = None) -> str:
    """What the gateway and the chat page know a service or an endpoint by."""
    return f"endpoint-{endpoint_id}" if endpoint_id else f"service-{service_id}"


_SECONDS = [MinValueValidator(0.1), MaxValueValidator(86400)]


class Traffic(Versioned):
    """How requests are let through and how long each part may take. Empty: no limit, or the site's setting."""

    sticky = models.BooleanField(
        _("sticky"),
        default=False,
        help_text=_("Conversations that begin alike go to the same instance, whose prefix cache knows them."),
    )
    concurrency = models.PositiveIntegerField(
        _("requests at once"), null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100_000)]
    )
    queue = models.PositiveIntegerField(
        _("requests waiting"),
        default=100,
        validators=[MaxValueValidator(100_000)],
        help_text=_("So many wait for their turn when all places are taken; further ones are refused with 429."),
    )
    queue_seconds = models.FloatField(_("longest wait, s"), default=30, validators=_SECONDS)
    connect_seconds = models.FloatField(_("connect timeout, s"), null=True, blank=True, validators=_SECONDS)
    first_byte_seconds = models.FloatField(_("first byte timeout, s"), null=True, blank=True, validators=_SECONDS)
    idle_seconds = models.FloatField(_("idle timeout, s"), null=True, blank=True, validators=_SECONDS)
    total_seconds = models.FloatField(_("total timeout, s"), null=True, blank=True, validators=_SECONDS)

    class Meta:
        abstract = True


class TrafficRule(Traffic):
    """A service's traffic where it differs from the default."""

    service = models.OneToOneField(Service, models.CASCADE, related_name="traffic_rule", verbose_name=_("service"))

    class Meta:
        verbose_name = _("traffic rule")
        verbose_name_plural = _("traffic rules")
        ordering = ["service__name", "pk"]
        constraints = [
            models.CheckConstraint(condition=Q(concurrency=None) | Q(concurrency__gte=1), name="traffic_concurrency")
        ]

    def __str__(self) -> str:
        return str(self.service)


class Endpoint(Traffic):
    """A model that runs elsewhere and speaks OpenAI's HTTP: its address and key come from an administrator alone."""

    name = models.CharField(_("name"), max_length=200, help_text=_("What clients write as model."))
    model = models.ForeignKey(
        AIModel, models.PROTECT, null=True, blank=True, related_name="endpoints", verbose_name=_("model")
    )
    base_url = models.CharField(
        _("base address"),
        max_length=500,
        help_text=_("Up to where the OpenAI paths begin, for example https://models.example.org/v1"),
    )
    key = EncryptedTextField(_("key"), blank=True, default="", help_text=_("Sent as bearer token; never shown again."))
    served_model = models.CharField(
        _("served model name"), max_length=200, blank=True, help_text=_("As the other side calls it; empty: the name.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        verbose_name = _("endpoint")
        verbose_name_plural = _("endpoints")
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(Lower("name"), name="endpoint_name_unique"),
            models.CheckConstraint(condition=Q(concurrency=None) | Q(concurrency__gte=1), name="endpoint_concurrency"),
        ]

    def __str__(self) -> str:
        return self.name


class Outcome(models.TextChoices):
    """How a request that reached a model server ended."""

    COMPLETE = "complete", _("Complete")
    CANCELLED = "cancelled", _("Client left")
    FAILED = "failed", _("Failed")
    REFUSED = "refused", _("Refused by the model server")


class Usage(models.Model):
    """One request that reached a model server. Numbers and names only: no prompt, no answer.

    Ids are plain numbers and names are copied: the record outlives key, user and service, and deleting one of these
    touches no row here. ``estimated``: the model server told no tokens; they were reckoned from what passed through.
    """

    at = models.DateTimeField(_("time"), default=timezone.now)
    user_id = models.PositiveBigIntegerField(default=0)
    user_name = models.CharField(_("user"), max_length=150, blank=True)
    key_id = models.PositiveBigIntegerField(default=0)
    key_name = models.CharField(_("key"), max_length=100, blank=True)
    service_id = models.PositiveBigIntegerField(default=0)
    endpoint_id = models.PositiveBigIntegerField(default=0)
    service_name = models.CharField(_("service"), max_length=200, blank=True)
    instance = models.CharField(_("instance"), max_length=64, blank=True)
    model = models.CharField(_("model"), max_length=200, blank=True)
    path = models.CharField(_("path"), max_length=20)
    streamed = models.BooleanField(_("streamed"), default=False)
    prompt_tokens = models.PositiveBigIntegerField(_("prompt tokens"), default=0)
    completion_tokens = models.PositiveBigIntegerField(_("completion tokens"), default=0)
    estimated = models.BooleanField(_("estimated"), default=False)
    first_token_ms = models.PositiveIntegerField(_("first token, ms"), null=True)
    duration_ms = models.PositiveIntegerField(_("duration, ms"), default=0)
    outcome = models.CharField(_("outcome"), max_length=10, choices=Outcome.choices)

    class Meta:
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        ordering = ["-pk"]
        permissions = [("see_all_usage", "Can see what everybody used")]
        indexes = [
            models.Index(fields=["at"], name="usage_at"),
            models.Index(fields=["user_id", "-id"], name="usage_user"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name} {self.model} {self.at:%Y-%m-%d %H:%M:%S}"


class UsageDay(models.Model):
    """One day's sum (UTC) of one user, key, service and model; written in the transaction that stores its requests."""

    day = models.DateField(_("day"))
    user_id = models.PositiveBigIntegerField(default=0)
    user_name = models.CharField(_("user"), max_length=150, blank=True)
    key_id = models.PositiveBigIntegerField(default=0)
    key_name = models.CharField(_("key"), max_length=100, blank=True)
    service_id = models.PositiveBigIntegerField(default=0)
    endpoint_id = models.PositiveBigIntegerField(default=0)
    service_name = models.CharField(_("service"), max_length=200, blank=True)
    model = models.CharField(_("model"), max_length=200, blank=True)
    requests = models.PositiveBigIntegerField(_("requests"), default=0)
    cancelled = models.PositiveBigIntegerField(_("client left"), default=0)
    failed = models.PositiveBigIntegerField(_("failed"), default=0)
    estimated = models.PositiveBigIntegerField(_("estimated"), default=0)
    prompt_tokens = models.PositiveBigIntegerField(_("prompt tokens"), default=0)
    completion_tokens = models.PositiveBigIntegerField(_("completion tokens"), default=0)
    first_token_ms = models.PositiveBigIntegerField(default=0)
    first_tokens = models.PositiveBigIntegerField(default=0)
    duration_ms = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name = _("usage of a day")
        verbose_name_plural = _("usage by day")
        ordering = ["-day", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["day", "user_id", "key_id", "service_id", "endpoint_id", "model"], name="usage_day_once"
            )
        ]
        indexes = [models.Index(fields=["key_id", "day"], name="usage_day_key")]

    def __str__(self) -> str:
        return f"{self.day} {self.user_name} {self.model}"
