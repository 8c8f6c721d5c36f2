"""The verbs: what people ask for, and taking it back. The work itself is done by ``runner``."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from infini import events
from infini.errors import Conflict, Invalid
from inventory import local
from inventory.installation.plans import fresh_steps
from inventory.installation.queueing import queue_work
from inventory.installation.states import ENDED_BADLY, OPEN_STATES, Kind, State, StepState
from inventory.models import Installation, Server


@dataclass(frozen=True)
class Asked:
    """What was begun, and which servers were passed over, each with the reason."""

    batch: str
    installations: list[Installation]
    refused: dict[int, str]


def ask_for(
    servers: Iterable[Server],
    kind: Kind,
    *,
    by: events.Actor,
    dry_run: bool = False,
    stop_instances: bool = False,
) -> Asked:
    """Begin one installation per server, worked on in the background; one that cannot take it keeps no other.

    ``stop_instances`` counts for a removal alone.
    """
    batch, begun, refused = secrets.token_hex(16), [], {}
    with transaction.atomic():
        for server in servers:
            try:
                begun.append(_begin(server, kind, batch, by=by, dry_run=dry_run, stop_instances=stop_instances))
            except (Conflict, Invalid) as error:
                refused[server.pk] = error.message
        if begun:
            queue_work(len(begun))
    return Asked(batch, begun, refused)


def ask_for_one(server: Server, kind: Kind, *, by: events.Actor, **options: bool) -> Installation:
    """The same for one server; raises Conflict while one is open there, Invalid for the site's own agent."""
    with transaction.atomic():
        begun = _begin(server, kind, secrets.token_hex(16), by=by, **options)
        queue_work(1)
    return begun


def retry(installations: Sequence[Installation], *, by: events.Actor) -> int:
    """Those that failed or were cancelled once more, from their first step; what is right already stays. How many."""
    now, again = timezone.now(), 0
    with transaction.atomic():
        for row in installations:
            values = {"state": State.QUEUED, "reason": "", "cancel_asked": False, "queued_at": now, "finished_at": None}
            values |= {"attempts": 0, "leased_until": None}
            steps = fresh_steps(row.kind)
            try:
                with transaction.atomic():
                    ended = Installation.objects.filter(pk=row.pk, state__in=ENDED_BADLY, server__isnull=False)
                    moved = ended.update(**values, steps=steps)
            except IntegrityError:
                continue  # another one is open on this server by now
            if moved:
                again += 1
                _event(row, "asked_again", by=by)
        if again:
            queue_work(again)
    return again


def cancel(installations: Sequence[Installation], *, by: events.Actor) -> int:
    """Those that have not begun end now, those that run as soon as their step can be left. How many."""
    touched = 0
    who = by.get_username() if by else "the site"
    for row in installations:
        with transaction.atomic():
            waiting = Installation.objects.filter(pk=row.pk, state=State.QUEUED)
            ended = waiting.update(
                state=State.CANCELLED,
                reason=gettext_noop("Cancelled by %(who)s before it began.") % {"who": who},
                finished_at=timezone.now(),
            )
            asked = (
                0 if ended else Installation.objects.filter(pk=row.pk, state=State.RUNNING).update(cancel_asked=True)
            )
            if ended or asked:
                touched += 1
                _event(row, "cancel_asked", by=by)
    return touched


def _begin(
    server: Server, kind: Kind, batch: str, *, by: events.Actor, dry_run: bool = False, stop_instances: bool = False
) -> Installation:
    if local.is_own(server):
        raise Invalid(
            _("The agent of %(server)s belongs to this site, which starts, upgrades and ends it by itself.")
            % {"server": server}
        )
    if kind == Kind.UPGRADE and not server.agent_token:
        raise Invalid(_("%(server)s has no agent that the site knows of; install it.") % {"server": server})
    row = Installation(
        batch=batch,
        server=server,
        server_name=server.name,
        kind=kind,
        dry_run=dry_run,
        stop_instances=stop_instances and kind == Kind.REMOVE,
        by=by,
        steps=fresh_steps(kind),
    )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        open_one = Installation.objects.filter(server=server, state__in=OPEN_STATES).first()
        what = f"{open_one.get_kind_display().lower()} #{open_one.pk}" if open_one else _("another one")
        raise Conflict(
            _("%(server)s is busy with: %(what)s. Wait for it, or cancel it.") % {"server": server, "what": what},
            code="installation_open",
        ) from None
    if not dry_run:
        _event(row, "asked", by=by)
    return row


def _event(row: Installation, what: str, *, by: events.Actor) -> None:
    if row.server_id is not None:
        data = {"installation": row.pk}
        events.record(
            f"server.agent_{row.kind}_{what}", Server(pk=row.server_id, name=row.server_name), by=by, data=data
        )


def as_skipped(steps: list[dict[str, str]]) -> list[dict[str, str]]:
    """Steps of an installation that ended early: what had not begun never will."""
    return [step | {"state": StepState.SKIPPED.value} if step["state"] == StepState.WAITING else step for step in steps]
