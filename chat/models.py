"""Talking to a service: conversations and their messages."""

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from chat.gateway_models import Endpoint, Outcome, TrafficRule, Usage, UsageDay
from deployments.models import Service

__all__ = ["Conversation", "Endpoint", "Message", "MessageState", "Outcome", "Role", "TrafficRule", "Usage", "UsageDay"]


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
    """One person's talk with one service; nobody else reads it."""

    service = models.ForeignKey(Service, models.CASCADE, related_name="conversations", verbose_name=_("service"))
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="conversations")
    title = models.CharField(_("title"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)

    class Meta:
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        ordering = ["-pk"]
        permissions = [("use_chat", "Can talk to services")]
        indexes = [models.Index(fields=["service", "user", "-id"], name="conversation_of_user")]

    def __str__(self) -> str:
        return self.title or f"{self.service} #{self.pk}"


class Message(models.Model):
    """One turn. The assistant's is saved in pieces as it arrives; ``touched_at`` tells a living one from an orphan."""

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="messages")
    role = models.CharField(_("role"), max_length=10, choices=Role.choices)
    content = models.TextField(_("content"), blank=True)
    state = models.CharField(_("state"), max_length=10, choices=MessageState.choices, default=MessageState.COMPLETE)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    model = models.CharField(_("model"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    touched_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:40]}"
