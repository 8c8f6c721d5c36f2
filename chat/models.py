"""Talking to a service or an endpoint: conversations and their messages."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from chat.gateway_models import Endpoint, Outcome, TrafficRule, Usage, UsageDay, target_key
from deployments.models import Service

__all__ = [
    "Conversation",
    "Endpoint",
    "Message",
    "MessageState",
    "Outcome",
    "Role",
    "TrafficRule",
    "Usage",
    "UsageDay",
    "target_key",
]


class Role(models.TextChoices):
    SYSTEM = "system", _("System")
    USER = "user", _("User")
    ASSISTANT = "assistant", _("Assistant")


class MessageState(models.TextChoices):
    """How a message ended; ``streaming`` has not yet."""

    STREAMING = "streaming", _("Being written")
    COMPLETE = "complete", _("Complete")
    STOPPED = "stopped", _("Stopped")
    FAILED = "failed", _("Failed")


class Conversation(models.Model):
    """One person's talk with one service or endpoint; nobody else reads it.

    Its messages are a tree: an edited question or a second answer is a branch beside the first. ``head`` is the message
    the shown branch ends with. ``version`` grows with each change, so that pages know when to look again.
    """

    service = models.ForeignKey(
        Service, models.CASCADE, null=True, related_name="conversations", verbose_name=_("service")
    )
    endpoint = models.ForeignKey(
        Endpoint, models.CASCADE, null=True, related_name="conversations", verbose_name=_("endpoint")
    )
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="conversations")
    title = models.CharField(_("title"), max_length=200, blank=True)
    is_history = models.BooleanField(
        default=False, help_text=_("What /api/services/<id>/chat reads and writes; one per person and service.")
    )
    head = models.ForeignKey("Message", models.DO_NOTHING, null=True, related_name="+")
    system_prompt = models.TextField(_("system prompt"), blank=True)
    parameters = models.JSONField(_("parameters"), default=dict, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    changed_at = models.DateTimeField(_("changed"), default=timezone.now)

    class Meta:
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        ordering = ["-pk"]
        permissions = [("use_chat", "Can talk to services")]
        constraints = [
            models.CheckConstraint(
                condition=Q(service=None, endpoint__isnull=False) | Q(service__isnull=False, endpoint=None),
                name="conversation_one_target",
            ),
            models.UniqueConstraint(
                fields=["user", "service"], condition=Q(is_history=True), name="conversation_one_history"
            ),
        ]
        indexes = [
            models.Index(fields=["service", "user", "-id"], name="conversation_of_user"),
            models.Index(fields=["user", "-changed_at"], name="conversation_latest"),
        ]

    def __str__(self) -> str:
        return self.title or f"{self.target} #{self.pk}"

    @property
    def target(self) -> Service | Endpoint:
        """Who answers in it."""
        found = self.service or self.endpoint
        assert found is not None  # one of the two, says the constraint
        return found

    @property
    def target_key(self) -> str:
        return target_key(service_id=self.service_id, endpoint_id=self.endpoint_id)


class Message(models.Model):
    """One turn. The assistant's is saved in pieces as it arrives; ``touched_at`` tells a living one from an orphan.

    ``parent`` is what it follows. Of an answer: ``first_token_ms`` and ``duration_ms`` from the asking on;
    ``tokens_per_second`` after the first token, reckoned from pieces when the model server counts no tokens.
    """

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="messages")
    # Messages go with their whole conversation or not at all, so nothing has to be loaded to delete one.
    parent = models.ForeignKey("self", models.DO_NOTHING, null=True, related_name="children")
    role = models.CharField(_("role"), max_length=10, choices=Role.choices)
    content = models.TextField(_("content"), blank=True)
    reasoning = models.TextField(_("reasoning"), blank=True)
    state = models.CharField(_("state"), max_length=10, choices=MessageState.choices, default=MessageState.COMPLETE)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    model = models.CharField(_("model"), max_length=200, blank=True)
    server_name = models.CharField(_("server"), max_length=200, blank=True)
    first_token_ms = models.PositiveIntegerField(null=True)
    duration_ms = models.PositiveIntegerField(null=True)
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    tokens_per_second = models.FloatField(null=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    touched_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:40]}"
