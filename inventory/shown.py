"""How servers are shown: their state as a chip, their figures as bars with source and age."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, CharField, IntegerField, OuterRef, QuerySet, Subquery, Value, When
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from infini.display import ABSENT, BAD, BUSY, GOOD, QUIET, WARN, Bar, Chip, Source, ago_text, clock, gib
from infini.models import Event
from infini.said import said
from inventory.models import Server
from inventory.querysets import ServerStatus

SSH_FIGURES_FRESH = timedelta(minutes=10)
MEMORY_LIMITS, DISK_LIMITS, CPU_LIMITS = (85, 95), (80, 90), (90, 98)
NEVER_RED = (101.0, 101.0)  # full device memory and full load are what such a machine is for


def worst_first(servers: QuerySet) -> QuerySet:
    """Adds ``rank``: offline, then never checked, then online. Needs ``with_status()``."""
    order = {ServerStatus.OFFLINE: 0, ServerStatus.UNKNOWN: 1}
    ranks = [When(status=status.value, then=Value(rank)) for status, rank in order.items()]
    return servers.annotate(rank=Case(*ranks, default=Value(2), output_field=IntegerField()))


def server_chip(server: Any) -> Chip:
    """Expects ``with_status()``."""
    if server.status == ServerStatus.ONLINE:
        return Chip(_("Online"), GOOD, "check_circle", _last_answer(server))
    if server.status == ServerStatus.OFFLINE:
        return Chip(_("Offline"), BAD, "cloud_off", offline_reason(server))
    return Chip(_("Not checked"), QUIET, "help", _("Never asked"))


def with_maintenance(servers: QuerySet) -> QuerySet:
    """Adds ``maintained_since`` and ``maintained_by``, as the timeline tells; looked up for servers that are in it."""
    told = _newest_events("server.changed", "server.created").filter(data__has_key="maintenance")

    def last(column: str) -> Case:
        return Case(When(maintenance=True, then=Subquery(told.values(column)[:1])))

    return servers.annotate(maintained_since=last("at"), maintained_by=last("actor_name"))


def with_unreachable(servers: QuerySet) -> QuerySet:
    """Adds ``unreachable_at``: when a check first found no answer after the last one that did."""
    return servers.annotate(unreachable_at=Subquery(_newest_events("server.unreachable").values("at")[:1]))


def _newest_events(*kinds: str) -> QuerySet[Event]:
    """About the server of the outer query."""
    about = {"subject_kind": "server", "subject_id": Cast(OuterRef("pk"), CharField())}
    return Event.objects.filter(**about, kind__in=kinds).order_by("-id")


def maintenance_chip(server: Any) -> Chip:
    """Since when and by whom, after ``with_maintenance()``."""
    since, by = getattr(server, "maintained_since", None), getattr(server, "maintained_by", "")
    title = _("Left alone on purpose")
    if since and by:
        title = _("Left alone since %(at)s by %(name)s") % {"at": clock(since), "name": by}
    elif since:
        title = _("Left alone since %(at)s") % {"at": clock(since)}
    return Chip(_("Maintenance"), BUSY, "construction", title)


def server_chips(server: Any) -> list[Chip]:
    """Its state, and whatever else one must know beside it. Expects ``with_status()`` and ``has_token``."""
    chips = [server_chip(server)]
    if server.host_key and server.host_key_offered:
        chips.append(key_chip(server))
    if server.username and not server.has_token:
        chips.append(Chip(_("No agent"), WARN, "sensors_off", _("SSH only; cannot deploy")))
    if server.maintenance:
        chips.append(maintenance_chip(server))
    return chips


def key_chip(server: Server) -> Chip:
    """Whether we know whom we talk to over SSH."""
    if server.host_key and server.host_key_offered:
        return Chip(_("Key changed"), BAD, "gpp_maybe", _("Refused until re-pinned"))
    if server.host_key:
        return Chip(_("Pinned"), GOOD, "verified_user", _("Only this key is talked to"))
    if server.host_key_offered:
        return Chip(_("Not confirmed"), WARN, "gpp_maybe", _("Refused until somebody has compared the fingerprint"))
    return Chip(_("Not seen yet"), QUIET, "help", _("Nobody has connected over SSH yet"))


def _last_answer(server: Server) -> str:
    if server.agent_seen_at and server.agent_is_heard:
        return _("Agent answered %(ago)s") % {"ago": ago_text(server.agent_seen_at)}
    checked = ago_text(server.last_check) if server.last_check else ABSENT
    return _("Answered a check %(ago)s") % {"ago": checked}


def offline_reason(server: Server) -> str:
    heard = max((at for at in (server.agent_seen_at,) if at), default=None)
    reason = server.agent_error or server.check_error
    since = _("No answer since %(when)s.") % {"when": clock(heard)} if heard else _("It never answered.")
    return f"{since} {said(reason)}".strip()


def ssh_measured_at(server: Server) -> datetime | None:
    """When the figures were measured over SSH; None for an agent's, or none at all."""
    at = server.figures.get("observed_at") if server.figures.get("source") == "ssh" else None
    return parse_datetime(at) if isinstance(at, str) else None


def ssh_error(server: Any) -> str:
    """Why the last measurement over SSH gave nothing; empty once what it tells of is settled. Expects ``has_token``."""
    about_key = server.figures.get("ssh_error_code") in ("host_key_unknown", "host_key_changed")
    settled = about_key and bool(server.host_key) and not server.host_key_offered
    return "" if server.has_token or settled else str(server.figures.get("ssh_error") or "")


def figures_are_fresh(server: Server) -> bool:
    """Whether they still tell how the server does: an agent's of its last rounds, or a measurement just made."""
    measured = ssh_measured_at(server)
    return server.agent_is_heard if measured is None else measured >= timezone.now() - SSH_FIGURES_FRESH


def figures_at(server: Server) -> datetime | None:
    """When what we show of it was told or measured."""
    return ssh_measured_at(server) or server.agent_seen_at


def figures_source(server: Server) -> Source:
    word = "SSH" if ssh_measured_at(server) else _("agent")
    at = figures_at(server)
    if at is None:
        return Source(_("no agent has reported"))
    return Source(word, at, stale=not figures_are_fresh(server))


def devices_source(server: Server) -> Source:
    word = _("vendor's tool, over SSH") if ssh_measured_at(server) else _("vendor's tool, through the agent")
    return Source(word, figures_at(server), stale=not figures_are_fresh(server))


def last_heard(server: Server) -> datetime | None:
    checked = server.last_check if server.reachable else None
    return max((at for at in (server.agent_seen_at, checked, ssh_measured_at(server)) if at), default=None)


@dataclass(frozen=True)
class Figure:
    """One resource: its bar, what it is made of, and why it is absent."""

    label: str
    bar: Bar
    detail: str


FIGURES = (
    *("cpu_percent", "memory_percent", "memory_used_bytes", "memory_total_bytes"),
    *("disk_percent", "disk_used_bytes", "disk_total_bytes"),
)


def figure_of(server: Server, name: str) -> float | None:
    """The last that was told of one of ``FIGURES``."""
    value = server.figures.get(name)
    return value if _is_number(value) else None


def cpu(server: Server) -> Bar:
    return _bar(server, _("CPU"), "cpu_percent", CPU_LIMITS)


def memory(server: Server) -> Bar:
    return _bar(server, _("Memory"), "memory_percent", MEMORY_LIMITS)


def disk(server: Server) -> Bar:
    return _bar(server, _("Disk"), "disk_percent", DISK_LIMITS)


def device_memory(server: Server) -> Bar:
    """All its devices' together, of those whose tool tells."""
    listed = server.figures.get("devices")
    told = [d for d in listed if isinstance(d, dict)] if isinstance(listed, list) else []
    pairs = [(d.get("memory_used_bytes"), d.get("memory_total_bytes")) for d in told]
    known = [(used, total) for used, total in pairs if _is_number(used) and _is_number(total) and total]
    label = _("Device memory")
    if not known:
        return Bar(label, None, reason=_("No device's tool has told.") if told else _("It has no devices."))
    used, total = (sum(column) for column in zip(*known, strict=True))
    return Bar(
        label,
        100 * used / total,
        detail=f"{gib(used)} / {gib(total)} GiB",
        limits=NEVER_RED,
        stale=not figures_are_fresh(server),
        as_of=figures_at(server),
    )


def figures(server: Server) -> list[Figure]:
    count = server.figures.get("cpu_count")
    return [
        Figure(_("CPU"), cpu(server), ngettext("%(n)s core", "%(n)s cores", count) % {"n": count} if count else ""),
        Figure(_("Memory"), memory(server), _of(server, "memory")),
        Figure(_("Disk"), disk(server), _of(server, "disk")),
    ]


@dataclass(frozen=True)
class Fact:
    """A figure that is no share of anything."""

    label: str
    text: str


def host_facts(server: Server) -> list[Fact]:
    """Network, load and uptime, as far as the agent told them."""
    told = server.figures
    ways = ((_("Network in"), "in"), (_("Network out"), "out"))
    rates = [(label, told.get(f"network_{way}_bytes_per_second")) for label, way in ways]
    facts = [Fact(label, rate_text(rate)) for label, rate in rates if _is_number(rate)]
    loads = [told.get(f"load_{minutes}m") for minutes in (1, 5, 15)]
    if all(map(_is_number, loads)):
        facts.append(Fact(_("Load in 1, 5, 15 minutes"), " · ".join(f"{load:g}" for load in loads)))
    uptime = told.get("uptime_seconds")
    return [*facts, Fact(_("Up for"), _duration(uptime))] if _is_number(uptime) else facts


def rate_text(rate: float) -> str:
    """Bytes per second in the unit that keeps it short."""
    for unit in ("B/s", "KB/s", "MB/s", "GB/s"):
        if rate < 1000:
            return f"{rate:.0f} {unit}" if unit == "B/s" or rate >= 100 else f"{rate:.1f} {unit}"
        rate /= 1000
    return f"{rate:.1f} TB/s"


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    if days:
        return _("%(d)d d %(h)d h") % {"d": days, "h": hours}
    return _("%(h)d h %(m)d min") % {"h": hours, "m": minutes}


def _of(server: Server, name: str) -> str:
    used, total = (server.figures.get(f"{name}_{part}_bytes") for part in ("used", "total"))
    return f"{gib(used)} / {gib(total)} GiB" if _is_number(used) and _is_number(total) else ""


def _bar(server: Server, label: str, name: str, limits: tuple[float, float]) -> Bar:
    value = server.figures.get(name)
    if not _is_number(value):
        return Bar(label, None, reason=_why_absent(server, name))
    return Bar(label, value, limits=limits, stale=not figures_are_fresh(server), as_of=figures_at(server))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _why_absent(server: Server, name: str) -> str:
    errors = server.figures.get("errors")
    if isinstance(errors, dict) and errors.get(name):
        return str(errors[name])
    if server.agent_seen_at is None:
        if server.username:
            return _("No agent has reported from this server, and nobody has measured it over SSH.")
        return _("No agent has reported from this server.")
    return _("The agent has not measured it yet.")
