"""When a schedule fires: pure arithmetic on moments, each schedule in its own time zone.

Where clocks change, one rule holds for daily, weekly and cron times alike. A time that does not exist is taken at the
end of the gap; one that exists twice is taken the first time. Intervals, and cron lines whose minute or hour begins
with ``*``, follow the time that really passes: they never pause and run through both of two equal hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from django.utils.translation import gettext as _

from infini.errors import Invalid
from scheduler.states import ScheduleType

CRON_FIELDS = 5
_WINDOWS_TRIED = 800  # days, if each fire falls outside of the window: it never falls into it


@dataclass(frozen=True)
class Window:
    """The time of day in which a run may begin; from late to early means over midnight."""

    opens: time
    closes: time

    def holds(self, local: datetime) -> bool:
        at = local.time()
        if self.opens < self.closes:
            return self.opens <= at < self.closes
        return at >= self.opens or at < self.closes


@dataclass(frozen=True)
class Schedule:
    """One of five kinds; what the others need is empty. ``anchor`` is where an interval counts from."""

    type: str
    zone: ZoneInfo
    run_at: datetime | None = None
    interval: timedelta = timedelta(0)
    anchor: datetime | None = None
    time_of_day: time = time(0)
    weekday: int | None = None
    cron: str = ""
    window: Window | None = None

    def after(self, moment: datetime) -> datetime | None:
        """The first fire later than ``moment``, in UTC; None when there is none."""
        for _try in range(_WINDOWS_TRIED):
            found = self._after(moment)
            if found is None or self.may_begin(found):
                return found
            moment = self._before_next_opening(found)
        return None

    def upcoming(self, moment: datetime, most: int) -> list[datetime]:
        """At most so many fires after ``moment``."""
        found: list[datetime] = []
        while len(found) < most:
            following = self.after(found[-1] if found else moment)
            if following is None:
                break
            found.append(following)
        return found

    def latest(self, since: datetime, until: datetime, most: int) -> list[datetime]:
        """The last fires, at most so many, of those from ``since`` to ``until``, both included; oldest first."""
        span = timedelta(minutes=1)
        while True:
            begin = max(since, until - span)
            found = list(self._between(begin, until))
            if len(found) >= most or begin == since:
                return found[-most:]
            span *= 4

    def may_begin(self, moment: datetime) -> bool:
        """Whether ``moment`` lies in the window; always without one."""
        return self.window is None or self.window.holds(moment.astimezone(self.zone))

    def _between(self, since: datetime, until: datetime) -> Iterator[datetime]:
        found = self.after(since - timedelta(microseconds=1))
        while found is not None and found <= until:
            yield found
            found = self.after(found)

    def _before_next_opening(self, moment: datetime) -> datetime:
        assert self.window is not None
        return _next_local(moment, self.window.opens, None, self.zone) - timedelta(microseconds=1)

    def _after(self, moment: datetime) -> datetime | None:
        match self.type:
            case ScheduleType.ONCE:
                return self.run_at if self.run_at and self.run_at > moment else None
            case ScheduleType.INTERVAL:
                return self._after_interval(moment)
            case ScheduleType.CRON:
                return _next_cron(self.cron, self.zone, moment)
        weekday = self.weekday if self.type == ScheduleType.WEEKLY else None
        return _next_local(moment, self.time_of_day, weekday, self.zone)

    def _after_interval(self, moment: datetime) -> datetime | None:
        assert self.anchor is not None
        passed = (moment - self.anchor) // self.interval
        return self.anchor + self.interval * max(1, passed + 1)


@lru_cache(maxsize=512)
def zone_named(name: str) -> ZoneInfo:
    """The IANA zone; raises Invalid for a name there is none of."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        text = _("There is no time zone %(name)r; write it as in Europe/Berlin.") % {"name": name}
        raise Invalid(text, fields={"timezone": [text]}) from None


def check_cron(line: str) -> str:
    """The line with single blanks; raises Invalid when it is none, or can never come true."""
    line = " ".join(line.split())
    if len(line.split(" ")) != CRON_FIELDS:
        raise _wrong_cron(_("A cron line has five parts: minute, hour, day of month, month, day of week."))
    try:
        next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise _wrong_cron(_("This never comes true: no date is like that.")) from None
    except CronSimError as error:
        part = str(error).removeprefix("Bad ")
        if part == "day-of-month" and _days_are_written_well(line):
            raise _wrong_cron(_("This never comes true: no month named has such a day.")) from None
        raise _wrong_cron(_("The part for the %(part)s cannot be read.") % {"part": part}) from None
    return line


def _days_are_written_well(line: str) -> bool:
    """Whether the days alone are the fault, not how they are written."""
    minute, hour, day, *_rest = line.split(" ")
    try:
        CronSim(f"{minute} {hour} {day} * *", datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _wrong_cron(text: str) -> Invalid:
    return Invalid(text, fields={"cron": [text]})


def _next_cron(line: str, zone: ZoneInfo, moment: datetime) -> datetime | None:
    """cronsim may answer an earlier or equal moment where clocks change; those are passed over."""
    try:
        for found in CronSim(line, moment.astimezone(zone)):
            at = found.astimezone(UTC)
            if at > moment:
                return at
    except StopIteration:
        return None
    return None


def _next_local(moment: datetime, at: time, weekday: int | None, zone: ZoneInfo) -> datetime:
    day = moment.astimezone(zone).date() - timedelta(days=1)  # yesterday's may have been put off by a gap
    while True:
        if weekday is None or day.weekday() == weekday:
            found = resolve(datetime.combine(day, at), zone)
            if found > moment:
                return found
        day += timedelta(days=1)


def resolve(local: datetime, zone: ZoneInfo) -> datetime:
    """The moment, in UTC, of a wall clock's time: the first of two, and for none the end of the gap it lies in."""
    found = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    while found.astimezone(zone).replace(tzinfo=None) != local:
        local = local.replace(second=0, microsecond=0) + timedelta(minutes=1)
        found = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    return found
