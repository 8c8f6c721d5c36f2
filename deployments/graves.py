"""Ending what was deleted by force while its server was silent."""

from django_q.tasks import async_task

from deployments.models import Tombstone
from deployments.reports import Report
from infini import events
from inventory.agents import AgentAddress, AgentError, AgentRejects, Ask, ask_each


def visit(answered: list[Report]) -> None:
    """Queue the ending of buried instances on servers that speak again."""
    speaking = [r.server_id for r in answered if r.document is not None]
    found = list(Tombstone.objects.filter(server__in=speaking).values_list("server_id", flat=True).distinct())
    if found:
        async_task("deployments.tasks.end_buried", found)


def end_buried(server_ids: list[int]) -> None:
    """Stop and forget them. May run twice: stopping and forgetting are idempotent, an unknown one is done."""
    stones = list(Tombstone.objects.filter(server__in=server_ids).select_related("server"))
    asks = [
        Ask(AgentAddress.of(s.server), "POST", f"/service/{s.key}/stop", {"generation": s.generation}, about=s)
        for s in stones
    ]
    stopped = [ask.about for ask, answer in ask_each(asks) if not isinstance(answer, AgentError) or _unknown(answer)]
    asks = [Ask(AgentAddress.of(s.server), "DELETE", f"/service/{s.key}", about=s) for s in stopped]
    for ask, answer in ask_each(asks):
        if not isinstance(answer, AgentError) or _unknown(answer):
            ask.about.delete()
            events.record("instance.buried_ended", ask.about, by=None, data={"server": ask.address.server_name})


def _unknown(answer: AgentError) -> bool:
    return isinstance(answer, AgentRejects) and answer.status == 404
