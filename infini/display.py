"""How pages show a state, a share, a moment: one shape each, always with a word and never by colour alone."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from infini.said import said

ABSENT = "–"
GOOD, BUSY, WARN, BAD, QUIET = "good", "busy", "warn", "bad", "quiet"


@dataclass(frozen=True)
class Chip:
    """A state: icon, word, colour by ``role``, and what it means as tooltip."""

    word: str
    role: str
    icon: str
    title: str = ""

    def __str__(self) -> SafeString:
        return format_html(
            '<span class="chip chip-{}" title="{}"><span class="material-symbols-outlined" aria-hidden="true">{}</span>'
            '<span class="chip-word">{}</span></span>',
            self.role,
            said(self.title),
            self.icon,
            self.word,
        )

    __html__ = __str__


@dataclass(frozen=True)
class Bar:
    """A share of 100 with its number; orange and red from the limits on. ``percent`` None is a dash with the reason.

    ``stale`` is hatched and dated: it was so at ``as_of``, and may not be so now.
    """

    label: str
    percent: float | None
    detail: str = ""
    limits: tuple[float, float] = (90, 98)
    stale: bool = False
    reason: str = ""
    as_of: datetime | None = None

    @property
    def role(self) -> str:
        if self.percent is None or self.percent < self.limits[0]:
            return BUSY
        return BAD if self.percent >= self.limits[1] else WARN

    def __str__(self) -> SafeString:
        if self.percent is None:
            return format_html('<span class="absent" title="{}">{}</span>', said(self.reason), ABSENT)
        since = f"{self.label}, {as_of_text(self.as_of)}" if self.stale and self.as_of else ""
        return format_html(
            '<span class="bar bar-{}{}"{}><progress max="100" value="{}" aria-label="{}"></progress>'
            '<span class="bar-number">{}%</span></span>',
            self.role,
            " is-stale" if self.stale else "",
            format_html(' title="{}"', since) if since else "",
            round(self.percent),
            since or self.label,
            round(self.percent),
        )

    __html__ = __str__


@dataclass(frozen=True)
class Source:
    """Where figures are from and how old they are: ``agent, 4 s ago``, or ``agent, as of 14:02:07`` with a clock."""

    word: str
    at: datetime | None = None
    stale: bool = False

    def __str__(self) -> SafeString:
        if self.at is None:
            return format_html('<span class="source">{}</span>', self.word)
        if not self.stale:
            return format_html('<span class="source">{}, {}</span>', self.word, ago(self.at))
        return format_html(
            '<span class="source is-stale"><span class="material-symbols-outlined" aria-hidden="true">schedule</span>'
            "{}, {}</span>",
            self.word,
            as_of_text(self.at),
        )

    __html__ = __str__


def as_of_text(moment: datetime) -> str:
    return _("as of %(at)s") % {"at": f"{timezone.localtime(moment):%Y-%m-%d %H:%M:%S}"}


def clock(moment: datetime) -> str:
    """``14:02`` of today on the reader's clock, else with its day."""
    local = timezone.localtime(moment)
    return f"{local:%H:%M}" if local.date() == timezone.localdate() else f"{local:%Y-%m-%d %H:%M}"


def day_text(day: date) -> str:
    """``2026-11-20``, and of the last two days a word before it."""
    words = {0: _("Today"), 1: _("Yesterday")}
    word = words.get((timezone.localdate() - day).days)
    return f"{word}, {day:%Y-%m-%d}" if word else f"{day:%Y-%m-%d}"


def ago(moment: datetime | None) -> SafeString:
    """``4 s ago``, kept up to date by age.js; the exact time as tooltip; a dash when there is none."""
    if moment is None:
        return mark_safe(f'<span class="absent">{ABSENT}</span>')  # noqa: S308  (a constant)
    exact = timezone.localtime(moment)
    return format_html(
        '<time datetime="{}" title="{}" data-age>{}</time>',
        exact.isoformat(timespec="seconds"),
        f"{exact:%Y-%m-%d %H:%M:%S %Z}",
        ago_text(moment),
    )


def ago_text(moment: datetime) -> str:
    age = timezone.now() - moment
    seconds = max(0, int(age.total_seconds()))
    if seconds < 60:
        return _("%(n)d s ago") % {"n": seconds}
    if seconds < 3600:
        return _("%(n)d min ago") % {"n": seconds // 60}
    if age < timedelta(days=1):
        return _("%(n)d h ago") % {"n": seconds // 3600}
    return f"{timezone.localtime(moment):%Y-%m-%d %H:%M}"


def number(value: float | int | None, unit: str = "", *, absent: str = "") -> SafeString:
    """Right-aligned, tabular digits; a dash with the reason, by default that nobody publishes it."""
    if value is None:
        return format_html('<span class="num absent" title="{}">{}</span>', absent or _("Not published"), ABSENT)
    shown = f"{value:,.10g}" if isinstance(value, float) else f"{value:,}"
    return format_html('<span class="num">{}{}</span>', shown, f" {unit}" if unit else "")


def link(url: str | None, text: Any) -> SafeString:
    return format_html('<a class="link" href="{}">{}</a>', url, text) if url else format_html("{}", text)


def links(pairs: Iterable[tuple[str, Any]]) -> SafeString:
    """In a row, with commas that stay at the name before them."""
    told = list(pairs)
    ends = [*[","] * (len(told) - 1), ""]
    rows = ((url, text, end) for (url, text), end in zip(told, ends, strict=bool(told)))
    joined = format_html_join(" ", '<span class="whole"><a class="link" href="{}">{}</a>{}</span>', rows)
    return format_html("<span>{}</span>", joined) if joined else joined


def gib(amount: float | int | None) -> str:
    """Bytes as GiB: one decimal below a hundred."""
    if amount is None:
        return ABSENT
    value = amount / 1024**3
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


@functools.lru_cache(maxsize=10_000)
def url_of(name: str, *args: Any) -> str:
    """``reverse``, asked once for each object: a list leads to hundreds, and they stay where they are."""
    return reverse(name, args=args)


def url_or_none(name: str, *args: Any) -> str | None:
    """The address of a page that another app may not have."""
    try:
        return url_of(name, *args)
    except NoReverseMatch:
        return None
