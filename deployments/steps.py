"""Advancing operations. A step claims its operation, asks the agents what is due, records, and ends.

Why a step may run twice or die half-way: the claim is a conditional UPDATE with a lease that runs out; every
request carries the instance's generation, which the agent takes once; what was answered is written by
condition on that generation. So the next step starts from the rows alone.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_noop

from deployments import closing, rollout
from deployments.commands import deploy_body
from deployments.models import Instance, Operation, OperationResult
from deployments.observations import NotAnObservation, Observation
from deployments.phases import ENDED, OPEN_STATES, OperationState, Phase, ResultState, Wanted
from deployments.reports import apply_observation
from inventory.agents import (
    AgentAddress,
    AgentError,
    AgentRejects,
    AgentSpeaksNonsense,
    AgentUnreachable,
    Answer,
    Ask,
    ask_each,
)

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=15)
NEXT_STEP = timedelta(seconds=1)


@dataclass(frozen=True)
class Due:
    """What one instance needs now: ``verb`` is deploy, stop, forget or tail."""

    verb: str
    result: OperationResult
    instance: Instance
    asked_at: datetime


def advance(operation_id: int) -> None:
    """Do the operation's next step; nothing when somebody else holds it or it is over."""
    operation = _claim(operation_id)
    if operation is None:
        return
    try:
        rollout.take_turns(operation)
        for ask, answer in ask_each(_due_asks(operation), while_waiting=lambda: _renew(operation_id)):
            _record(operation, ask.about, answer)
        closing.settle(operation)
    finally:
        Operation.objects.filter(pk=operation_id).update(leased_until=None, step_due_at=timezone.now() + NEXT_STEP)


def _claim(operation_id: int) -> Operation | None:
    now = timezone.now()
    free = Q(leased_until=None) | Q(leased_until__lt=now)
    claimed = Operation.objects.filter(free, pk=operation_id, state__in=OPEN_STATES).update(
        state=OperationState.RUNNING, leased_until=now + LEASE, stepped_at=now
    )
    if not claimed:
        return None
    return Operation.objects.select_related("service__model", "by", "revision").get(pk=operation_id)


def _renew(operation_id: int) -> None:
    Operation.objects.filter(pk=operation_id).update(leased_until=timezone.now() + LEASE)


def _due_asks(operation: Operation) -> Iterator[Ask]:
    unfinished = operation.results.filter(state__in=[ResultState.WAITING, ResultState.SENT], deferred=False)
    unfinished = unfinished.exclude(not_before__gt=timezone.now())
    results = unfinished.select_related("instance__placement__server", "instance__revision")
    for result in list(results):
        instance = result.instance
        if instance is None:
            closing.finish(result, ResultState.DONE)
        elif instance.generation != result.generation:
            closing.finish(
                result, ResultState.CANCELLED, reason=gettext_noop("Something newer was asked of this instance.")
            )
        elif not instance.placement.server.agent_token:
            _unaskable(operation, result, instance)
        elif verb := _verb_due(instance):
            yield _ask(operation, Due(verb, result, instance, timezone.now()))


def _verb_due(instance: Instance) -> str | None:
    """What to ask of the agent, from what is wanted and what is known; None while there is only to wait."""
    acked = instance.acked_generation == instance.generation
    if instance.wanted == Wanted.RUNNING:
        if not acked:
            return "deploy"
        over = instance.ready or instance.phase in ENDED or closing.keeps_failing(instance)
        return "tail" if over else None
    if not acked:
        return "stop"
    return "forget" if instance.wanted == Wanted.GONE and instance.phase in ENDED else None


def _ask(operation: Operation, due: Due) -> Ask:
    instance, address = due.instance, AgentAddress.of(due.instance.placement.server)
    path = f"/service/{instance.key}"
    if due.verb == "deploy":
        body = deploy_body(instance, operation.service)
        return Ask(address, "POST", f"{path}/deploy", body, about=due)
    if due.verb == "stop":
        return Ask(address, "POST", f"{path}/stop", {"generation": instance.generation}, about=due)
    if due.verb == "forget":
        return Ask(address, "DELETE", path, about=due)
    return Ask(address, "GET", f"{path}/status", about=due, timeout_seconds=5)


def _record(operation: Operation, due: Due, answer: Answer) -> None:
    if due.verb == "tail":
        _record_tail(due, answer)
    elif isinstance(answer, AgentRejects) and answer.status == 404 and due.verb in ("stop", "forget"):
        _nothing_there(due)
    elif isinstance(answer, AgentError):
        _record_failure(operation, due, answer)
    elif due.verb == "forget":
        _forgotten(due)
    else:
        _record_taken(operation, due, answer)


def _record_taken(operation: Operation, due: Due, answer: dict[str, Any]) -> None:
    try:
        seen = Observation.parse(answer)
    except NotAnObservation as problem:
        server = due.instance.placement.server.name
        nonsense = AgentSpeaksNonsense(
            gettext_noop("The agent on %(server)s answered something else than promised: %(problem)s.")
            % {"server": server, "problem": problem}
        )
        _record_failure(operation, due, nonsense)
        return
    with transaction.atomic():
        Instance.objects.filter(pk=due.instance.pk, generation=due.result.generation).update(
            acked_generation=F("generation")
        )
        apply_observation(due.instance, seen, asked_at=timezone.now())
        closing.mark_sent(due.result, seen)


def _record_tail(due: Due, answer: Answer) -> None:
    """Keep the last lines beside the result; without them the result stands all the same."""
    lines = answer.get("log_tail") if isinstance(answer, dict) else None
    text = "\n".join(str(line) for line in lines) if isinstance(lines, list) else ""
    OperationResult.objects.filter(pk=due.result.pk).update(log_tail=text[-20_000:])
    closing.finish_by_instance(due.result)


def _nothing_there(due: Due) -> None:
    """The agent knows no such instance: nothing is left to stop or forget."""
    if due.verb == "forget" or due.instance.wanted == Wanted.GONE:
        _forgotten(due)
        return
    Instance.objects.filter(pk=due.instance.pk, generation=due.result.generation).update(
        acked_generation=F("generation"), phase=Phase.STOPPED, ready=False, pid=None, observed_at=timezone.now()
    )
    closing.finish(due.result, ResultState.DONE, reason=gettext_noop("There was nothing to stop."))


def _forgotten(due: Due) -> None:
    with transaction.atomic():
        closing.finish(due.result, ResultState.DONE)
        Instance.objects.filter(pk=due.instance.pk, generation=due.result.generation).delete()


def _record_failure(operation: Operation, due: Due, error: AgentError) -> None:
    """The agent did not take it. A server that cannot be reached makes the instance lost, not failed.

    One that was heard a moment ago may only be restarting: it is asked again until it counts as silent.
    """
    logger.warning("deploy.refused", extra={"instance": due.instance.key, "verb": due.verb, "code": error.code})
    if operation.force and due.instance.wanted == Wanted.GONE:
        closing.leave_tombstone(due.result)
        return
    unreachable = isinstance(error, AgentUnreachable)
    if unreachable and due.instance.placement.server.agent_is_heard:
        closing.leave_open(due.result, error.message)
        return
    with transaction.atomic():
        if unreachable or due.verb == "deploy":
            phase = Phase.LOST if unreachable else Phase.FAILED
            Instance.objects.filter(pk=due.instance.pk, generation=due.result.generation).update(
                phase=phase, ready=False, reason=error.message[:500], observed_at=timezone.now()
            )
        closing.finish(due.result, ResultState.FAILED, reason=error.message)


def _unaskable(operation: Operation, result: OperationResult, instance: Instance) -> None:
    """A server without agent access: say so, and do not hold up the others."""
    if instance.wanted == Wanted.GONE and (operation.force or instance.acked_generation == 0):
        closing.leave_tombstone(result)
        return
    reason = gettext_noop("%(server_name)s has no agent token; install an agent there or enter its token.") % {
        "server_name": result.server_name
    }
    Instance.objects.filter(pk=instance.pk, generation=result.generation).update(
        phase=Phase.FAILED, ready=False, reason=reason
    )
    closing.finish(result, ResultState.FAILED, reason=reason)
