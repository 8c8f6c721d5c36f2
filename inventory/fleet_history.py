"""How the whole fleet did over time: means of all servers and devices that reported.

Of a large fleet not every sample is read: one in so many minutes, so that the cost is bounded by ``MOST_ROWS`` however
many servers there are. The answer says how far apart the minutes are.
"""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection

from infini.charts import MOST_POINTS, Frame, frame_of
from infini.visibility import limits_of, visible
from inventory.history import UNITS, Series
from inventory.models import Sample, Server

MOST_ROWS = 12_500
MINUTE = 60
_HOST = ("cpu_percent", "memory_percent")
_DEVICE = ("utilization_percent", "device_memory_percent")


class _Form(NamedTuple):
    """How a database says it: a sample's second, the moments and the ids asked for, its devices, the figures of one."""

    epoch: str
    moments: str
    numbers: str
    devices: str
    figure: str


_FORMS = {
    "sqlite": _Form(
        "CAST(strftime('%%s', s.at) AS INTEGER)",
        "SELECT value FROM json_each(%s)",
        "SELECT value FROM json_each(%s)",
        "json_each(s.devices)",
        "json_extract(d.value, '$[{}]')",
    ),
    "postgresql": _Form(
        "CAST(EXTRACT(epoch FROM s.at) AS BIGINT)",
        "SELECT CAST(value AS timestamptz) FROM jsonb_array_elements_text(CAST(%s AS jsonb))",
        "SELECT CAST(value AS bigint) FROM jsonb_array_elements_text(CAST(%s AS jsonb))",
        "jsonb_each(s.devices)",
        "CAST(d.value ->> {} AS double precision)",
    ),
}


@dataclass(frozen=True)
class FleetHistory:
    """Lines over ``begin`` to ``end``; value n stands for the step from ``begin`` + n steps on."""

    begin: datetime
    end: datetime
    step_seconds: int
    read_every_seconds: int
    series: list[Series]


def fleet_history(begin: datetime | None = None, end: datetime | None = None, *, user: Any = None) -> FleetHistory:
    """Three queries, whatever the fleet and the span; by default the last hour; of the servers
    ``user`` may see. Raises Invalid for a bad span.
    """
    only: list[int] | None = None
    if limits_of(user) is not None:
        only = list(visible(Server.objects.order_by(), user).values_list("pk", flat=True))
    servers = Server.objects.count() if only is None else len(only)
    most = max(12, min(MOST_POINTS, MOST_ROWS // max(servers, 1)))
    frame = frame_of(begin, end, longest=timedelta(days=settings.SAMPLES_KEEP_DAYS), most=most)
    every = _distance(frame, servers)
    found = _read(frame, every, only)
    series = [
        Series(
            name,
            "servers" if name == "servers" else UNITS[name],
            [found.get(n, {}).get(name) for n in range(frame.count)],
        )
        for name in ("servers", *_HOST, *_DEVICE)
    ]
    return FleetHistory(frame.begin, frame.end, frame.step, every, series)


def _distance(frame: Frame, servers: int) -> int:
    """Seconds between the minutes that are read: all of them, or as many of each step as ``MOST_ROWS`` allows."""
    affordable = max(1, MOST_ROWS // (max(servers, 1) * frame.count))
    minutes = frame.step // MINUTE
    return next(n for n in range(1, minutes + 1) if minutes % n == 0 and minutes // n <= affordable) * MINUTE


def _read(frame: Frame, every: int, only: list[int] | None) -> dict[int, dict[str, float | None]]:
    """By step, the means of what was told in it; a step of which nothing was told is not there."""
    first = int(frame.begin.timestamp())
    moments = [datetime.fromtimestamp(at, frame.begin.tzinfo) for at in range(first, int(frame.end.timestamp()), every)]
    # What stands in the text are the model's own names; all values are parameters.
    table, form = connection.ops.quote_name(Sample._meta.db_table), _FORMS[connection.vendor]
    stored = json.dumps([connection.ops.adapt_datetimefield_value(at) for at in moments], default=str)
    slot, within = f"({form.epoch} - %s) / %s", f"s.at IN ({form.moments})"
    values: list[int | str] = [first, frame.step, stored]
    if only is not None:
        within += f" AND s.server_id IN ({form.numbers})"
        values.append(json.dumps(only))
    host = (
        f"SELECT {slot}, COUNT(DISTINCT s.server_id), AVG(s.cpu_percent), AVG(s.memory_percent) "  # noqa: S608
        f"FROM {table} AS s WHERE {within} GROUP BY 1"
    )
    devices = (
        f"SELECT {slot}, AVG({form.figure.format(0)}), AVG({form.figure.format(1)}) "  # noqa: S608
        f"FROM {table} AS s, {form.devices} AS d WHERE {within} GROUP BY 1"
    )
    found: dict[int, dict[str, float | None]] = {}
    with connection.cursor() as cursor:
        for sql, names in ((host, ("servers", *_HOST)), (devices, _DEVICE)):
            cursor.execute(sql, values)
            for place, *means in cursor.fetchall():
                found.setdefault(place, {}).update(zip(names, map(_rounded, means), strict=True))
    return found


def _rounded(mean: Any) -> float | None:
    return None if mean is None else round(mean, 1)
