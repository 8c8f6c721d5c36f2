"""Logging in: attempts are limited, sessions are listed and can be ended."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from infini import events
from infini.addresses import current_address, neighbourhood
from infini.models import LoginFailure, LoginSession, User

WINDOW = timedelta(minutes=15)
FAILURES_OF_A_NAME = 5  # from one address within the window
FAILURES_OF_AN_ADDRESS = 30  # whatever the names
KEPT = timedelta(days=1)
SEEN_EVERY = timedelta(minutes=5)

_NOTED_MOST = 10_000
_noted: dict[str, datetime] = {}  # sessions this process has noted as seen, and until when that is enough


def seconds_to_wait(name: str) -> int:
    """How long the present address must wait until it may try ``name`` again; 0 when it may now.

    Only whoever fails is held up: nobody can lock another person out from elsewhere.
    """
    now = timezone.now()
    recent = LoginFailure.objects.filter(address=neighbourhood(current_address()), at__gt=now - WINDOW)
    of_name = _nth_newest(recent.filter(name=name.lower()[:150]), FAILURES_OF_A_NAME)
    of_address = _nth_newest(recent, FAILURES_OF_AN_ADDRESS)
    until = max((at + WINDOW for at in (of_name, of_address) if at), default=now)
    return max(0, round((until - now).total_seconds()))


def _nth_newest(failures: QuerySet[LoginFailure], n: int) -> datetime | None:
    times = list(failures.order_by("-at").values_list("at", flat=True)[:n])
    return times[-1] if len(times) == n else None


def note_failure(name: str) -> None:
    """Count it, and tell the timeline when it is somebody's name; what is older than a day is forgotten."""
    now = timezone.now()
    person = User.objects.filter(username__iexact=name).first()
    with transaction.atomic():
        LoginFailure.objects.filter(at__lt=now - KEPT).delete()
        LoginFailure.objects.create(name=name.lower()[:150], address=neighbourhood(current_address()))
        if person:
            events.record("user.login_failed", person, by=None, data={"address": current_address()})


def forget_failures(name: str) -> None:
    LoginFailure.objects.filter(name=name.lower()[:150], address=neighbourhood(current_address())).delete()


def note_login(sender: Any, request: HttpRequest, user: User, **_: Any) -> None:
    """Receiver of ``user_logged_in``: the session is listed from now on."""
    if not request.session.session_key:
        request.session.save()
    with transaction.atomic():
        LoginSession.objects.update_or_create(
            session_key=request.session.session_key,
            defaults={
                "user": user,
                "address": current_address(),
                "client": request.META.get("HTTP_USER_AGENT", "")[:200],
                "created_at": timezone.now(),
                "seen_at": timezone.now(),
            },
        )
        events.record("user.logged_in", user, by=user)
    _remember(request.session.session_key or "")


def note_logout(sender: Any, request: HttpRequest, user: User | None, **_: Any) -> None:
    """Receiver of ``user_logged_out``, called while the session still has its key."""
    with transaction.atomic():
        gone, _rows = LoginSession.objects.filter(session_key=request.session.session_key).delete()
        if gone and user:
            events.record("user.logged_out", user, by=user)


def note_seen(request: HttpRequest, user: User) -> None:
    """At most one look per session, process and five minutes; most requests ask nothing of the database.

    A changed password gives a session another key: it becomes a line of the list anew.
    """
    key, now = request.session.session_key or "", timezone.now()
    if _noted.get(key, now) > now:
        return
    _remember(key)
    session = LoginSession.objects.filter(session_key=key)
    if session.filter(seen_at__lt=now - SEEN_EVERY).update(seen_at=now, address=current_address()):
        return
    if not session.exists():
        client = request.META.get("HTTP_USER_AGENT", "")[:200]
        facts = {"user": user, "address": current_address(), "client": client}
        LoginSession.objects.get_or_create(session_key=key, defaults=facts)


def _remember(key: str) -> None:
    if len(_noted) >= _NOTED_MOST:
        _noted.clear()
    _noted[key] = timezone.now() + SEEN_EVERY


def open_sessions(user: User) -> QuerySet[LoginSession]:
    """Those that still open the site; what ran out is left out."""
    alive = Session.objects.filter(session_key=OuterRef("session_key"), expire_date__gt=timezone.now())
    return LoginSession.objects.filter(Exists(alive), user=user)


def end_sessions(user: User, *, by: events.Actor, only: int | None = None, spare: str | None = None) -> int:
    """End the session ``only``, else all but the one with the key ``spare``; returns how many.

    Sockets opened by them close when they next look whether they may go on, within half a minute.
    """
    chosen = LoginSession.objects.filter(Q(user=user) & ~Q(session_key=spare or ""))
    if only is not None:
        chosen = chosen.filter(pk=only)
    with transaction.atomic():
        keys = list(chosen.values_list("session_key", flat=True))
        ended, _ = Session.objects.filter(session_key__in=keys).delete()
        chosen.delete()
        if ended:
            events.record("user.sessions_ended", user, by=by, data={"count": ended})
    return ended
