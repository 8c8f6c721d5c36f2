"""Questions about servers that lists, filters and single pages must answer alike."""

from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import models
from django.db.models import Case, Q, Value, When
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from inventory.models import Server

MISSED_ROUNDS = 3


class ServerStatus(models.TextChoices):
    ONLINE = "online", _("Online")
    OFFLINE = "offline", _("Offline")
    UNKNOWN = "unknown", _("Not checked")


def agent_silence_limit() -> timedelta:
    """How long an agent may be silent before its server counts as not heard from: three rounds, at least 15 s."""
    return timedelta(seconds=max(15.0, MISSED_ROUNDS * settings.MONITOR_INTERVAL_SECONDS))


class ServerQuerySet(models.QuerySet["Server"]):
    def with_status(self) -> "ServerQuerySet":
        """Adds ``status``, derived from what was observed; never stored, so it cannot be stale or stuck.

        Online: the agent reported lately or the last check reached it. Offline: both failed. Else unknown.
        """
        heard = Q(agent_seen_at__gte=timezone.now() - agent_silence_limit())
        failed = Q(reachable=False) | (Q(agent_asked_at__isnull=False) & ~Q(agent_token=""))
        return self.annotate(
            status=Case(
                When(heard | Q(reachable=True), then=Value(ServerStatus.ONLINE.value)),
                When(failed, then=Value(ServerStatus.OFFLINE.value)),
                default=Value(ServerStatus.UNKNOWN.value),
            )
        )

    def with_agent(self) -> "ServerQuerySet":
        """Servers whose agent can be asked: they have a token."""
        return self.exclude(agent_token="")
