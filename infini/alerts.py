"""Alerts: what is wrong with a subject and that it is over, with whom to tell of it.

Opening and recovering are conditional and safe to repeat; call them in the transaction that saw the fact. Nothing is
sent here: deliveries become due, and ``infini.alert_delivery`` sends them.

Flapping is damped. A recovery is told only to those who were told of the opening, or may have been. An alert that opens
again within ``FLAPPING`` of its recovery is the same one and is told to nobody, unless it then stays open for so long:
otherwise the last thing people heard would be that all is well.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import models, transaction
from django.db.models import QuerySet
from django.utils import timezone

from infini.models import Alert, AlertDelivery, AlertKind, AlertPhase, AlertState, AlertTarget, DeliveryState, Event

FLAPPING = timedelta(minutes=5)


@dataclass(frozen=True)
class Subject:
    """What an alert is about; two with the same kind and id are the same."""

    kind: str
    id: str
    name: str = field(compare=False)

    @classmethod
    def of(cls, row: models.Model) -> "Subject":
        return cls(row._meta.model_name or "", str(row.pk), str(row))

    @classmethod
    def of_alert(cls, alert: Alert) -> "Subject":
        return cls(alert.subject_kind, alert.subject_id, alert.subject_name)


def open_alert(kind: AlertKind, subject: Subject, message: str) -> bool:
    """Say that ``subject`` has this fault; False when that was known."""
    return bool(open_all(kind, {subject: message}))


def recover(kind: AlertKind, subject: Subject, why: str = "") -> bool:
    """Say that ``subject`` has this fault no more; False when it had no open alert."""
    return bool(recover_all(kind, {subject: why}))


def open_subjects() -> dict[str, set[Subject]]:
    """What is open now, by kind: one query."""
    found: dict[str, set[Subject]] = defaultdict(set)
    for alert in Alert.objects.filter(state=AlertState.OPEN):
        found[alert.kind].add(Subject.of_alert(alert))
    return found


@transaction.atomic
def open_all(kind: AlertKind, messages: Mapping[Subject, str]) -> int:
    """Open an alert for each subject that has none; a number of statements that does not grow. Returns how many."""
    known = {Subject.of_alert(alert) for alert in _about(kind, messages).filter(state=AlertState.OPEN)}
    lacking = {subject: text for subject, text in messages.items() if subject not in known}
    if not lacking:
        return 0
    now = timezone.now()
    again = _open_again(kind, lacking, now)
    known = {Subject.of_alert(alert) for alert in again}
    made = Alert.objects.bulk_create(
        Alert(
            kind=kind,
            subject_kind=subject.kind,
            subject_id=subject.id,
            subject_name=subject.name[:200],
            message=text[:500],
            opened_at=now,
        )
        for subject, text in lacking.items()
        if subject not in known
    )
    targets = _targets(kind)
    _make_due(((alert, target) for alert in made for target in targets), AlertPhase.OPENED, now)
    Event.objects.bulk_create(
        _event("alert.opened", alert, alert.message, again=alert.pk in {a.pk for a in again})
        for alert in [*again, *made]
    )
    return len(again) + len(made)


@transaction.atomic
def recover_all(kind: AlertKind, reasons: Mapping[Subject, str]) -> int:
    """End the open alerts of these subjects, each with why; returns how many."""
    alerts = [a for a in _about(kind, reasons).filter(state=AlertState.OPEN) if Subject.of_alert(a) in reasons]
    if not alerts:
        return 0
    now = timezone.now()
    for alert in alerts:
        alert.state, alert.recovered_at = AlertState.RECOVERED, now
        alert.ending = reasons[Subject.of_alert(alert)][:500]
    Alert.objects.bulk_update(alerts, ["state", "recovered_at", "ending"], batch_size=100)
    opened = AlertDelivery.objects.filter(alert__in=alerts, phase=AlertPhase.OPENED)
    opened.filter(state=DeliveryState.DUE, attempts=0).delete()
    told = opened.exclude(state=DeliveryState.FAILED).select_related("alert", "target")
    _make_due(((delivery.alert, delivery.target) for delivery in told), AlertPhase.RECOVERED, now)
    Event.objects.bulk_create(_event("alert.recovered", alert, alert.ending) for alert in alerts)
    return len(alerts)


def _about(kind: AlertKind, subjects: Collection[Subject]) -> QuerySet[Alert]:
    """Alerts of these subjects, and perhaps of others with the id of one and the kind of another."""
    return Alert.objects.filter(
        kind=kind, subject_kind__in={s.kind for s in subjects}, subject_id__in={s.id for s in subjects}
    )


def _open_again(kind: AlertKind, messages: Mapping[Subject, str], now: datetime) -> list[Alert]:
    """Those of these subjects that were over for less than ``FLAPPING`` are open again."""
    lately = _about(kind, messages).filter(state=AlertState.RECOVERED, recovered_at__gt=now - FLAPPING)
    newest = {Subject.of_alert(alert): alert for alert in lately.order_by("pk")}
    again = {subject: alert for subject, alert in newest.items() if subject in messages}
    for subject, alert in again.items():
        alert.state, alert.recovered_at, alert.ending = AlertState.OPEN, None, ""
        alert.message = messages[subject][:500]
    Alert.objects.bulk_update(again.values(), ["state", "recovered_at", "ending", "message"], batch_size=100)
    _tell_later(list(again.values()), _targets(kind), now)
    return list(again.values())


def _tell_later(alerts: list[Alert], targets: list[AlertTarget], now: datetime) -> None:
    """Whoever still takes the alert for open hears nothing; who does not hears of it if it stays open."""
    known = AlertDelivery.objects.filter(alert__in=alerts)
    rows = {(row.alert_id, row.target_id, row.phase): row for row in known}
    dropped, later = [row.pk for row in rows.values() if row.phase == AlertPhase.RECOVERED], []
    for alert in alerts:
        for target in targets:
            opened = rows.get((alert.pk, target.pk, AlertPhase.OPENED))
            recovered = rows.get((alert.pk, target.pk, AlertPhase.RECOVERED))
            unaware = opened is None or opened.state == DeliveryState.FAILED
            if not unaware and not (recovered and recovered.attempts):
                continue
            later.append((alert, target))
            dropped += [opened.pk] if opened else []
    known.filter(pk__in=dropped).delete()
    _make_due(later, AlertPhase.OPENED, now + FLAPPING)


def _targets(kind: AlertKind) -> list[AlertTarget]:
    return [target for target in AlertTarget.objects.filter(enabled=True).defer("secret") if target.wants(kind)]


def _make_due(pairs: Iterable[tuple[Alert, AlertTarget]], phase: AlertPhase, at: datetime) -> None:
    rows = [AlertDelivery(alert=alert, target=target, phase=phase, next_at=at) for alert, target in pairs]
    AlertDelivery.objects.bulk_create(rows, ignore_conflicts=True)


def _event(kind: str, alert: Alert, said: str, *, again: bool = False) -> Event:
    data = {"alert": str(alert.kind), "message": said} | ({"again": True} if again else {})
    return Event(
        kind=kind,
        subject_kind=alert.subject_kind,
        subject_id=alert.subject_id,
        subject_name=alert.subject_name,
        data=data,
    )
