"""When schedules fire: both days of the year on which clocks change, in three zones; windows; lines that are none."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest

from infini.errors import Invalid
from scheduler.schedules import Schedule, Window, check_cron, zone_named

# Per zone: the day with a gap, the moment clocks go forward; the day with a fold, the moment they go back.
ZONES = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2026-04-04T15:00"),  # by half an hour
}
ALL = pytest.mark.parametrize("zone", sorted(ZONES))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def changes(zone: str) -> tuple[datetime, datetime]:
    gap, fold = ZONES[zone]
    return utc(gap), utc(fold)


def schedule(kind: str, zone: str = "UTC", **values: Any) -> Schedule:
    return Schedule(type=kind, zone=zone_named(zone), **values)


def wall(moment: datetime, zone: str) -> datetime:
    return moment.astimezone(zone_named(zone)).replace(tzinfo=None)


@ALL
def test_a_daily_time_in_the_gap_fires_at_its_end_once(zone: str) -> None:
    gap, _fold = changes(zone)
    last_before = wall(gap - timedelta(minutes=1), zone)
    inside = (last_before + timedelta(minutes=16)).time()  # a quarter past the last minute: no clock shows it
    for kind, extra in (("daily", {"time_of_day": inside}), ("cron", {"cron": f"{inside.minute} {inside.hour} * * *"})):
        one = schedule(kind, zone, **extra)
        fires = one.upcoming(gap - timedelta(hours=30), 3)
        assert fires[1] == gap, kind
        assert [wall(at, zone).time() for at in (fires[0], fires[2])] == [inside, inside], kind


@ALL
def test_a_daily_time_in_the_fold_fires_the_first_time_only(zone: str) -> None:
    _gap, fold = changes(zone)
    twice = wall(fold - timedelta(minutes=15), zone).time()
    for kind, extra in (("daily", {"time_of_day": twice}), ("cron", {"cron": f"{twice.minute} {twice.hour} * * *"})):
        one = schedule(kind, zone, **extra)
        fires = one.upcoming(fold - timedelta(hours=30), 3)
        assert fires[1] == fold - timedelta(minutes=15), kind
        assert wall(fires[2], zone).date() == wall(fires[1], zone).date() + timedelta(days=1), kind
        # Asked in the second of the two equal hours, it is the next day's turn.
        assert one.after(fold + timedelta(minutes=1)) == fires[2], kind


@ALL
def test_a_weekly_time_follows_the_same_rule(zone: str) -> None:
    gap, _fold = changes(zone)
    day = wall(gap, zone).date()
    inside = (wall(gap - timedelta(minutes=1), zone) + timedelta(minutes=16)).time()
    one = schedule("weekly", zone, time_of_day=inside, weekday=day.weekday())
    assert one.after(gap - timedelta(hours=30)) == gap
    following = one.after(gap)
    assert following and wall(following, zone) == datetime.combine(day + timedelta(days=7), inside)


@ALL
def test_what_follows_real_time_neither_pauses_nor_doubles(zone: str) -> None:
    for change in changes(zone):
        begin = change - timedelta(hours=2)
        minutes = schedule("cron", zone, cron="*/10 * * * *").upcoming(begin, 24)
        hours = schedule("interval", zone, interval=timedelta(minutes=10), anchor=begin).upcoming(begin, 24)
        assert minutes == hours == [begin + timedelta(minutes=10 * n) for n in range(1, 25)]


@ALL
def test_a_daily_time_elsewhere_keeps_its_wall_clock(zone: str) -> None:
    for change in changes(zone):
        fires = schedule("daily", zone, time_of_day=time(8)).upcoming(change - timedelta(days=3), 6)
        assert {wall(at, zone).time() for at in fires} == {time(8)}
        assert len({wall(at, zone).date() for at in fires}) == 6


def test_a_day_that_never_was() -> None:
    """Samoa skipped 30 December 2011: that day's time falls on the first moment after it."""
    fires = schedule("daily", "Pacific/Apia", time_of_day=time(8)).upcoming(utc("2011-12-28T20:00"), 3)
    assert [str(wall(at, "Pacific/Apia")) for at in fires] == [
        "2011-12-29 08:00:00",
        "2011-12-31 00:00:00",
        "2011-12-31 08:00:00",
    ]


def test_once_fires_once() -> None:
    at = utc("2026-05-01T12:00")
    one = schedule("once", run_at=at)
    assert one.after(at - timedelta(seconds=1)) == at
    assert one.after(at) is None and one.upcoming(at - timedelta(days=1), 5) == [at]


def test_an_interval_counts_from_its_anchor() -> None:
    anchor = utc("2026-05-01T12:00:07")
    one = schedule("interval", interval=timedelta(seconds=45), anchor=anchor)
    assert one.after(anchor) == anchor + timedelta(seconds=45)
    assert one.after(anchor + timedelta(seconds=44, microseconds=999_999)) == anchor + timedelta(seconds=45)
    assert one.after(anchor + timedelta(seconds=45)) == anchor + timedelta(seconds=90)
    assert one.after(anchor - timedelta(days=1)) == anchor + timedelta(seconds=45)  # nothing before it was made


def test_the_latest_times_of_a_long_outage() -> None:
    since, until = utc("2024-01-01T00:00"), utc("2026-01-01T00:00")
    one = schedule("cron", cron="* * * * *")
    assert one.latest(since, until, 3) == [until - timedelta(minutes=n) for n in (2, 1, 0)]
    assert one.latest(until - timedelta(minutes=1), until, 20) == [until - timedelta(minutes=1), until]
    assert schedule("daily", time_of_day=time(3)).latest(since, until, 2) == [
        utc("2025-12-30T03:00"),
        utc("2025-12-31T03:00"),
    ]


def test_a_window_holds_back_what_lies_outside() -> None:
    night = Window(time(22), time(4))
    one = schedule(
        "interval", "Europe/Berlin", interval=timedelta(hours=1), anchor=utc("2026-06-01T00:30"), window=night
    )
    hours = [wall(at, "Europe/Berlin").hour for at in one.upcoming(utc("2026-06-01T00:30"), 8)]
    assert hours == [3, 22, 23, 0, 1, 2, 3, 22]
    assert one.may_begin(utc("2026-06-01T20:00")) and not one.may_begin(utc("2026-06-01T02:00"))
    day = schedule("daily", time_of_day=time(12), window=night)
    assert day.after(utc("2026-06-01T00:00")) is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("0 0 30 2 *", "never comes true"),
        ("0 0 31 4,6,9,11 *", "never comes true"),
        ("0 0 31 2 *", "never comes true"),
        ("* * * *", "five parts"),
        ("0 * * * * *", "five parts"),
        ("", "five parts"),
        ("61 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day-of-month"),
        ("* * * 13 *", "month"),
        ("* * * * MOON", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("@daily", "five parts"),
    ],
)
def test_a_line_that_is_none(line: str, says: str) -> None:
    with pytest.raises(Invalid, match=says) as caught:
        check_cron(line)
    assert list(caught.value.fields) == ["cron"]


@pytest.mark.parametrize("line", ["0  3 * * 1-5", "*/5 * * * *", "0 0 29 2 *", "0 0 L * *", "0 12 * JAN MON#2"])
def test_a_line_that_is_one(line: str) -> None:
    assert check_cron(line) == " ".join(line.split())


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime", "\0"])
def test_a_zone_there_is_none_of(name: str) -> None:
    with pytest.raises(Invalid, match="no time zone") as caught:
        zone_named(name)
    assert list(caught.value.fields) == ["timezone"]
