"""Usage stored and summed up: the verbs and questions on what was used, by whom, of which model."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Sum
from django.utils import timezone

from chat.models import Outcome, Usage, UsageDay
from infini.models import ApiKey
from infini.visibility import visible

SEE_ALL = "chat.see_all_usage"  # who has it sees everybody's; others see their own
_KEY = ("day", "user_id", "key_id", "service_id", "endpoint_id", "model")
_NAMES = ("user_name", "key_name", "service_name")
_SUMS = (
    *("requests", "cancelled", "failed", "estimated", "prompt_tokens", "completion_tokens"),
    *("first_token_ms", "first_tokens", "duration_ms"),
)
_PRUNE_BATCH = 5000
_NOTE_EVERY = timedelta(minutes=1)
_noted: dict[int, datetime] = {}  # when a key's use was last written down by this process


class Entry(NamedTuple):
    """One request on its way to the database: the columns of ``Usage``. A row object costs more than the request."""

    at: datetime
    user_id: int
    user_name: str
    key_id: int
    key_name: str
    service_id: int
    endpoint_id: int
    service_name: str
    instance: str
    model: str
    path: str
    streamed: bool
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    first_token_ms: int | None
    duration_ms: int
    outcome: str


def store(entries: Sequence[Entry]) -> None:
    """Store requests, add them to their day's sums and note the keys' use: all of it, or nothing."""
    sums = _summed(entries)
    used = {entry.key_id: entry.at for entry in entries if entry.key_id}
    keys = {key_id: at for key_id, at in used.items() if key_id not in _noted or at - _noted[key_id] > _NOTE_EVERY}
    with transaction.atomic():
        _insert(entries)
        _add_to_days(sums)
        for key_id, at in keys.items():
            ApiKey.objects.filter(pk=key_id).update(last_used_at=at)
    _noted.update(keys)


def _insert(entries: Iterable[Entry]) -> None:
    table = connection.ops.quote_name(Usage._meta.db_table)
    marks = ", ".join(["%s"] * len(Entry._fields))
    rows = [(connection.ops.adapt_datetimefield_value(entry.at), *entry[1:]) for entry in entries]
    with connection.cursor() as cursor:
        sql = f"INSERT INTO {table} ({', '.join(Entry._fields)}) VALUES ({marks})"  # noqa: S608  (our own names)
        cursor.executemany(sql, rows)


def _summed(entries: Iterable[Entry]) -> dict[tuple, list[Any]]:
    """``{key: [names and sums]}`` in the order of the columns."""
    sums: dict[tuple, list[Any]] = {}
    for entry in entries:
        key = (entry.at.date(), entry.user_id, entry.key_id, entry.service_id, entry.endpoint_id, entry.model)
        row = sums.setdefault(key, [*(getattr(entry, name) for name in _NAMES), *([0] * len(_SUMS))])
        one = (
            1,
            entry.outcome == Outcome.CANCELLED,
            entry.outcome in (Outcome.FAILED, Outcome.REFUSED),
            entry.estimated,
            entry.prompt_tokens,
            entry.completion_tokens,
            entry.first_token_ms or 0,
            entry.first_token_ms is not None,
            entry.duration_ms,
        )
        for position, amount in enumerate(one, len(_NAMES)):
            row[position] += int(amount)
    return sums


def _add_to_days(sums: dict[tuple, list[Any]]) -> None:
    """One upsert per sum. In a fixed order, so that two processes never wait for each other crosswise."""
    table = connection.ops.quote_name(UsageDay._meta.db_table)
    columns = [*_KEY, *_NAMES, *_SUMS]
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in _SUMS)
    named = ", ".join(f"{name} = excluded.{name}" for name in _NAMES)
    sql = (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608  (our own names)
        f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET {added}, {named}"
    )
    with connection.cursor() as cursor:
        cursor.executemany(sql, [[str(key[0]), *key[1:], *sums[key]] for key in sorted(sums)])


def prune(days: int) -> int:
    """Delete single requests older than ``days``, a batch at a time; the sums stay. Returns how many went."""
    oldest = timezone.now() - timedelta(days=days)
    gone = 0
    while ids := list(Usage.objects.filter(at__lt=oldest).order_by("pk").values_list("pk", flat=True)[:_PRUNE_BATCH]):
        for begin in range(0, len(ids), 500):
            gone += Usage.objects.filter(pk__in=ids[begin : begin + 500]).delete()[0]
    return gone


GROUPS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "service": ("service_id", "endpoint_id", "service_name"),
    "user": ("user_id", "user_name"),
    "key": ("key_id", "key_name", "user_name"),
    "day": ("day",),
}


def summed_by(
    group: str, *, first: Any, last: Any, user_id: int | None = None, service_id: int | None = None, viewer: Any = None
) -> list[dict[str, Any]]:
    """Sums from day ``first`` to ``last`` (both included) by one of ``GROUPS``; of one user or service, or of all
    that ``viewer`` may see.

    Most tokens first, days in order. One query.
    """
    rows = visible(UsageDay.objects.filter(day__gte=first, day__lte=last), viewer)
    if user_id is not None:
        rows = rows.filter(user_id=user_id)
    if service_id is not None:
        rows = rows.filter(service_id=service_id)
    columns = GROUPS[group]
    found = rows.order_by().values(*columns).annotate(**{f"sum_{name}": Sum(name) for name in _SUMS})
    tidy = [_tidy(row, columns) for row in found]
    if group == "day":
        return sorted(tidy, key=lambda row: row["day"])
    return sorted(tidy, key=lambda row: (-row["total_tokens"], -row["requests"], str(row[columns[-1]])))


def columns_of(group: str) -> list[str]:
    """What each row of ``summed_by`` tells, in order; there without rows as well."""
    nothing = dict.fromkeys([*GROUPS[group], *(f"sum_{name}" for name in _SUMS)])
    return list(_tidy(nothing, GROUPS[group]))


def _tidy(row: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    sums = {name: int(row[f"sum_{name}"] or 0) for name in _SUMS}
    firsts, requests = sums.pop("first_tokens"), sums["requests"]
    first, duration = sums.pop("first_token_ms"), sums.pop("duration_ms")
    return {
        **{name: row[name] for name in columns},
        **sums,
        "total_tokens": sums["prompt_tokens"] + sums["completion_tokens"],
        "mean_first_token_ms": round(first / firsts) if firsts else None,
        "mean_duration_ms": round(duration / requests) if requests else None,
    }
