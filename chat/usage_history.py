"""Requests and tokens per minute over time, from the requests that reached a model server."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, F, Sum
from django.utils import timezone

from chat.models import Usage
from infini.charts import Place, frame_of
from infini.visibility import visible

NOW = timedelta(minutes=5)
_NAMES = ("requests", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class UsageLine:
    """One line; value n is the mean a minute in the step from ``begin`` + n steps on. Nothing asked is 0, no gap."""

    name: str
    values: list[float]
    unit: str = "per_minute"
    device: None = None


@dataclass(frozen=True)
class UsageHistory:
    begin: datetime
    end: datetime
    step_seconds: int
    series: list[UsageLine]


@dataclass(frozen=True)
class Rate:
    """What was asked a minute, as the mean of the last ``NOW``."""

    requests: float
    tokens: float
    last_at: datetime | None


def _of(user_id: int | None, viewer: Any, service_id: int | None = None) -> Any:
    narrowed = {"user_id": user_id, "service_id": service_id}
    rows = visible(Usage.objects.order_by(), viewer)
    return rows.filter(**{name: pk for name, pk in narrowed.items() if pk is not None})


def usage_history(
    begin: datetime | None = None,
    end: datetime | None = None,
    *,
    user_id: int | None = None,
    service_id: int | None = None,
    viewer: Any = None,
) -> UsageHistory:
    """One query; of one person and one service, or of all that ``viewer`` may see. Raises Invalid for a bad span."""
    frame = frame_of(begin, end, longest=timedelta(days=settings.SAMPLES_KEEP_DAYS))
    rows = _of(user_id, viewer, service_id).filter(at__gte=frame.begin, at__lt=frame.end)
    rows = rows.annotate(place=Place(F("at"), frame)).values("place")
    sums = rows.annotate(
        requests=Count("pk"), prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens")
    ).values_list("place", "requests", "prompt", "completion")
    found = {place: told for place, *told in sums}
    minutes, nothing = frame.step / 60, [0, 0, 0]
    lines = [
        UsageLine(name, [round(found.get(n, nothing)[column] / minutes, 1) for n in range(frame.count)])
        for column, name in enumerate(_NAMES)
    ]
    return UsageHistory(frame.begin, frame.end, frame.step, lines)


def rate_now(*, user_id: int | None = None, viewer: Any = None) -> Rate:
    """One query over the last minutes, and one that finds when the last request was."""
    recent = _of(user_id, viewer).filter(at__gte=timezone.now() - NOW)
    sums = recent.aggregate(n=Count("pk"), tokens=Sum(F("prompt_tokens") + F("completion_tokens")))
    minutes = NOW.total_seconds() / 60
    last = _of(user_id, viewer).order_by("-pk").values_list("at", flat=True).first()
    return Rate(sums["n"] / minutes, (sums["tokens"] or 0) / minutes, last)


def service_rates() -> dict[int, float]:
    """Requests a minute of each service that was asked in the last ``NOW``, by its id. One query."""
    recent = Usage.objects.order_by().filter(at__gte=timezone.now() - NOW, service_id__gt=0)
    minutes = NOW.total_seconds() / 60
    return {pk: n / minutes for pk, n in recent.values_list("service_id").annotate(n=Count("pk"))}
