"""Reading the timeline: who may see which events, and where each one's subject is found."""

from typing import Any

from django.db.models import Model, Q, QuerySet

from infini.display import url_or_none
from infini.models import Event
from infini.visibility import limits_of, subjects_within

# Whose permission an event about people, their keys and where alerts go takes; their own is everybody's.
_GUARDED = {
    "apikey": "infini.view_apikey",
    "user": "infini.view_user",
    "group": "auth.view_group",
    "alerttarget": "infini.view_alerttarget",
}
_APPS = {
    "environment": "inventory",
    "brand": "inventory",
    "card": "inventory",
    "aimodel": "inventory",
    "server": "inventory",
    "service": "deployments",
    "operation": "deployments",
    "user": "infini",
    "apikey": "infini",
    "alerttarget": "infini",
    "task": "scheduler",
    "run": "scheduler",
    "savedcommand": "scheduler",
    "endpoint": "chat",
    "trafficrule": "chat",
}
PERMISSION = "infini.view_event"
_WITH_PAGE = ("brand", "server", "service", "operation", "alerttarget", "task", "run")


def visible_events(user: Any) -> QuerySet[Event]:
    """Events this person may read: those about other people and their keys only with the permission for them, those
    about what he does not see not at all, except what he did himself.
    """
    hidden, limits = hidden_kinds(user), limits_of(user)
    events = Event.objects.all()
    if hidden:
        events = events.filter(~Q(subject_kind__in=hidden) | Q(actor=user))
    return events if limits is None else events.filter(subjects_within(limits) | Q(actor=user))


def hidden_kinds(user: Any) -> list[str]:
    """Kinds of subjects of which this person reads only what he did himself."""
    return [kind for kind, permission in _GUARDED.items() if not user.has_perm(permission)]


def events_about(user: Any, row: Model, count: int = 10) -> list[Event]:
    about = visible_events(user).filter(subject_kind=row._meta.model_name, subject_id=str(row.pk))
    return list(about[:count])


def subject_url(event: Event, reader: Any = None) -> str | None:
    """The page of what an event tells of; it may be gone by now. None when ``reader`` would be refused there."""
    app = _APPS.get(event.subject_kind)
    if app is None or event.kind.endswith(".deleted"):
        return None
    guard = _GUARDED.get(event.subject_kind) if event.subject_kind != "apikey" else None  # one's own keys have a page
    if guard and reader is not None and not reader.has_perm(guard):
        return None
    page = "page" if event.subject_kind in _WITH_PAGE else "change"
    return url_or_none(f"admin:{app}_{event.subject_kind}_{page}", event.subject_id)
