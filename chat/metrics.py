"""Requests and tokens through the gateway and the chat page, for Prometheus."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Q, Sum

from chat.models import UsageDay
from chat.usage import SEE_ALL
from infini.metrics import Metric
from infini.visibility import visible

_SUMS = {
    "requests": ("infini_requests", "Requests that reached a model server."),
    "failed": ("infini_failed_requests", "Requests that failed."),
    "cancelled": ("infini_cancelled_requests", "Requests whose client left."),
    "prompt_tokens": ("infini_prompt_tokens", "Tokens asked with."),
    "completion_tokens": ("infini_completion_tokens", "Tokens answered with."),
}


def figures(user: Any) -> Iterator[Metric]:
    """One query: the sums of all days, which are kept for good, so that they only grow. One's own, or everybody's."""
    mine = Q() if user.has_perm(SEE_ALL) else Q(user_id=user.pk)
    days = visible(UsageDay.objects.filter(mine), user).order_by().values("service_name", "model")
    rows: Any = days.annotate(**{f"all_{column}": Sum(column) for column in _SUMS})
    found = list(rows)
    for column, (name, about) in _SUMS.items():
        samples = [([row["service_name"], row["model"]], row[f"all_{column}"]) for row in found]
        yield Metric(name, about, ["service", "model"], samples, grows=True)
