"""Cards with charts over time: what partials/history.html shows and history.js draws."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Func, IntegerField
from django.utils import timezone
from django.utils.translation import gettext as _

from infini.errors import Invalid

STEPS_SECONDS = (60, 300, 600, 900, 1800, 3600, 10800, 21600, 86400)
MOST_POINTS = 400
DEFAULT_SPAN = timedelta(hours=1)


@dataclass(frozen=True)
class Chart:
    """Lines of one unit in one frame; ``series`` are their names in the API, separated by spaces."""

    title: str
    series: str
    unit: str


@dataclass(frozen=True)
class HistoryCard:
    """Charts over one span, asked of one address. ``key`` tells it from others on its page, and keeps its span."""

    key: str
    title: str
    url: str
    charts: Sequence[Chart]
    names: Mapping[str, str]
    empty: str
    span: str = "1h"
    source: str = ""
    more_url: str = ""

    @property
    def names_json(self) -> str:
        return json.dumps(dict(self.names), ensure_ascii=False)


@dataclass(frozen=True)
class Frame:
    """``count`` steps of ``step`` seconds from ``begin``, a whole number of steps after the epoch."""

    begin: datetime
    end: datetime
    step: int
    count: int


def frame_of(begin: datetime | None, end: datetime | None, *, longest: timedelta, most: int = MOST_POINTS) -> Frame:
    """The steps from ``begin`` to ``end``, by default the last hour; at most ``most`` of them.

    Raises Invalid when the span ends before it begins, or is longer than ``longest``.
    """
    end = min(end or timezone.now(), timezone.now())
    begin = begin or end - DEFAULT_SPAN
    span = end - begin
    if span <= timedelta(0):
        raise Invalid(_("The span ends before it begins."), fields={"from": [_("Give a time before that of `to`.")]})
    if span > longest + DEFAULT_SPAN:
        text = _("The past is kept for %(days)s days; ask for less.") % {"days": longest.days}
        raise Invalid(text, fields={"from": [text]})
    step = next((step for step in STEPS_SECONDS if span.total_seconds() / step < most), STEPS_SECONDS[-1])
    first = int(begin.timestamp()) // step * step
    return Frame(datetime.fromtimestamp(first, UTC), end, step, -(-int(end.timestamp() - first) // step))


class Place(Func):
    """In which step of ``frame`` a time lies, reckoned by the database."""

    output_field = IntegerField()

    def __init__(self, moment: Any, frame: Frame) -> None:
        super().__init__(moment, first=int(frame.begin.timestamp()), step=int(frame.step))

    def as_sqlite(self, compiler: Any, connection: Any, **more: Any) -> Any:
        return self._sql("CAST(strftime('%%%%s', %(expressions)s) AS INTEGER)", compiler, connection, **more)

    def as_postgresql(self, compiler: Any, connection: Any, **more: Any) -> Any:
        return self._sql("CAST(FLOOR(EXTRACT(epoch FROM %(expressions)s)) AS BIGINT)", compiler, connection, **more)

    def _sql(self, seconds: str, compiler: Any, connection: Any, **more: Any) -> Any:
        return self.as_sql(compiler, connection, template=f"(({seconds} - %(first)s) / %(step)s)", **more)
