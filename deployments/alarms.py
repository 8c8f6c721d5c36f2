"""What alerts are about: silent servers, failed instances, the brake. Read from the rows each round, so that nothing
is lost with a process: what the last round missed, the next one finds.

Silence alone is no fault of a server: the monitor may have been down. It must have been asked lately, in vain.
"""

from dataclasses import dataclass, field
from datetime import timedelta

from django.db import transaction
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.utils import timezone
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from deployments.agent_words import lasting
from deployments.models import Instance
from deployments.phases import Phase, Wanted
from deployments.reconcile import braked
from infini import alerts
from infini.alerts import Subject
from infini.models import AlertKind
from inventory.models import Server
from inventory.querysets import agent_silence_limit

KEEPS_FAILING = 3  # restarts in a row
SOUND_AFTER = timedelta(minutes=1)  # of being ready: one that is ready for moments between two ends has not recovered
SITE = Subject("site", "", "Infini")


@dataclass
class Findings:
    """Of one kind: what is wrong and not known yet, and what was and is over, each with a sentence."""

    wrong: dict[Subject, str] = field(default_factory=dict)
    over: dict[Subject, str] = field(default_factory=dict)


def raise_alarms() -> int:
    """Open and end alerts as the rows stand; returns how many changed. A number of queries that does not grow.

    Looking takes no write lock. Only what has changed is looked at again, in the transaction that writes it.
    """
    if not any(found.wrong or found.over for found in _look().values()):
        return 0
    with transaction.atomic():
        return sum(
            alerts.open_all(kind, found.wrong) + alerts.recover_all(kind, found.over) for kind, found in _look().items()
        )


def _look() -> dict[AlertKind, Findings]:
    """The brake first: it explains the others."""
    known = alerts.open_subjects()
    return {
        AlertKind.BRAKE: _brake(known[AlertKind.BRAKE]),
        AlertKind.SERVER_OFFLINE: _servers(known[AlertKind.SERVER_OFFLINE]),
        AlertKind.INSTANCE_FAILED: _instances(known[AlertKind.INSTANCE_FAILED]),
    }


def _brake(known: set[Subject]) -> Findings:
    reason = braked()
    if reason and SITE not in known:
        return Findings(wrong={SITE: reason})
    return Findings(over={SITE: _("Automatic action goes on.")}) if SITE in known and not reason else Findings()


def _servers(known: set[Subject]) -> Findings:
    limit = timezone.now() - agent_silence_limit()
    asked_in_vain = Q(agent_seen_at__lt=limit, agent_asked_at__gte=limit)
    has_agent = ~Q(agent_token="")
    rows = Server.objects.filter(Q(asked_in_vain & has_agent, maintenance=False) | Q(pk__in=_ids(known)))
    rows = rows.annotate(has_agent=ExpressionWrapper(has_agent, BooleanField()))
    found, gone = Findings(), {subject.id: subject for subject in known}
    for server in rows.only("name", "maintenance", "agent_seen_at"):
        subject = Subject.of(server)
        gone.pop(subject.id, None)
        seen = server.agent_seen_at
        if subject not in known:
            found.wrong[subject] = _("%(server)s: no answer since %(at)s UTC.") % {
                "server": server.name,
                "at": f"{seen:%Y-%m-%d %H:%M:%S}",
            }
        elif not server.has_agent:
            found.over[subject] = _("%(server)s is not asked any more: no token is stored.") % {"server": server.name}
        elif server.maintenance:
            found.over[subject] = _("%(server)s is in maintenance.") % {"server": server.name}
        elif seen and seen >= limit:
            found.over[subject] = _("%(server)s answers again.") % {"server": server.name}
    found.over |= {subject: _("%(server)s was removed.") % {"server": subject.name} for subject in gone.values()}
    return found


def _instances(known: set[Subject]) -> Findings:
    """Failed, or started again and again by its policy, until ready for a while or not wanted: what is merely tried
    once more has not recovered.

    The streak stands until the run after it has ended too; a run that was ready, and is not now, is not of it.
    """
    not_yet_sound = Q(phase=Phase.STARTING) | Q(ready=True, ready_since__gt=timezone.now() - SOUND_AFTER)
    failed = Q(phase=Phase.FAILED) | Q(not_yet_sound, restart_streak__gte=KEEPS_FAILING)
    alarming = Q(failed, wanted=Wanted.RUNNING, placement__server__maintenance=False)
    rows = Instance.objects.filter(alarming | Q(pk__in=_ids(known)))
    found, gone = Findings(), {subject.id: subject for subject in known}
    for instance in rows.select_related("placement__service", "placement__server").defer(
        "placement__server__figures", "placement__server__agent_certificate"
    ):
        subject = Subject("instance", str(instance.pk), str(instance.placement))
        gone.pop(subject.id, None)
        if subject not in known:
            found.wrong[subject] = _what_is_wrong(instance, subject.name)
        elif over := _why_over(instance, subject.name):
            found.over[subject] = over
    found.over |= {subject: _("%(instance)s is gone.") % {"instance": subject.name} for subject in gone.values()}
    return found


def _what_is_wrong(instance: Instance, name: str) -> str:
    why = lasting(instance.reason) or _("the process ended")
    if instance.phase == Phase.FAILED:
        return _("%(instance)s failed: %(why)s") % {"instance": name, "why": why}
    words = {"instance": name, "n": instance.restart_streak, "why": why}
    return _("%(instance)s keeps failing, started again %(n)d times in a row: %(why)s") % words


def _why_over(instance: Instance, name: str) -> str:
    if instance.wanted != Wanted.RUNNING:
        return _("%(instance)s is not wanted any more.") % {"instance": name}
    if instance.placement.server.maintenance:
        return _("%(instance)s: its server is in maintenance.") % {"instance": name}
    since = instance.ready_since
    unproven = instance.restart_streak > 0 and (since is None or since > timezone.now() - SOUND_AFTER)
    return "" if not instance.ready or unproven else _("%(instance)s is ready.") % {"instance": name}


def _ids(known: set[Subject]) -> list[int]:
    return [int(subject.id) for subject in known]
