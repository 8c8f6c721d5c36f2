"""The monitor: asks every agent for its report, records, finds the lost, raises alarms, queues what is due.

One monitor leads, by a lease; others wait for it to run out. Each agent has its turn once a round, and the turns are
spread over the round's ticks. A slow agent holds up nobody: its answer is taken whenever it comes, in a later tick if
need be.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone

from deployments import alarms, graves, queueing, reports, trials, unknown
from deployments.models import Operation
from deployments.phases import OPEN_STATES
from deployments.reconcile import reconcile
from deployments.reports import Report
from infini import alert_delivery
from infini.models import Lease
from inventory.agents import AgentAddress, AgentClient, AgentError, Ask
from inventory.installation.queueing import queue_due_installations
from inventory.models import Server
from inventory.samples import Samples
from inventory.terminals.rows import tend as tend_terminals

logger = logging.getLogger(__name__)

LEASE = "monitor"
LEASE_SECONDS = 15.0
REPORT_TIMEOUT_SECONDS = 10.0
SPREAD = 0.618034  # neighbouring multiples of the golden section lie far apart, whatever their number
T = TypeVar("T")


class Monitor:
    """The loop's memory: when each server is asked next, which answers are outstanding, and who was late last time."""

    def __init__(self) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.tick_seconds = min(1.0, settings.MONITOR_INTERVAL_SECONDS)
        self.turns: dict[int, float] = {}
        self.pending: dict[int, asyncio.Task[Report]] = {}
        self.late: set[int] = set()
        self.samples = Samples()
        self._leads_until = 0.0

    def leads(self) -> bool:
        """Whether the lease is surely held; callable from any thread."""
        return time.monotonic() < self._leads_until

    async def run(self) -> None:
        """Tick on the beat, so that a round takes the time it is set to, however long its work takes."""
        clock = asyncio.get_running_loop().time
        async with AgentClient() as client:
            beat = clock()
            while True:
                asked_at = clock()
                if await _in_thread(lambda: Lease.take(LEASE, self.holder, seconds=LEASE_SECONDS)):
                    self._leads_until = asked_at + LEASE_SECONDS - 1
                    await self.tick(client)
                beat = max(beat + self.tick_seconds, clock() - self.tick_seconds)
                await asyncio.sleep(max(0.0, beat - clock()))

    async def tick(self, client: AgentClient) -> None:
        """Ask those whose turn it is, give answers half a tick to come, record those that did.

        Who was late last time is not waited for again: the others' answers would be late with it.
        """
        for address in await _in_thread(self._due):
            self.pending[address.server_id] = asyncio.create_task(_report(client, address))
        prompt = [task for pk, task in self.pending.items() if pk not in self.late]
        if prompt:
            await asyncio.wait(prompt, timeout=self.tick_seconds / 2)
        answered = [task.result() for task in self.pending.values() if task.done()]
        self.pending = {pk: task for pk, task in self.pending.items() if not task.done()}
        self.late = (self.late | set(self.pending)) - {r.server_id for r in answered if r.document is not None}
        await _in_thread(lambda: _record(answered))
        await _in_thread(lambda: self.samples.take((r.server_id, r.document) for r in answered if r.document))

    def _due(self) -> list[AgentAddress]:
        """Agents whose turn it is; those with an open operation are asked every time."""
        hurried = set(
            Operation.objects.filter(state__in=OPEN_STATES).values_list("service__placements__server", flat=True)
        )
        known = set(Server.objects.with_agent().values_list("pk", flat=True))
        self.turns = {pk: at for pk, at in self.turns.items() if pk in known}
        now = time.monotonic()
        due = [pk for pk in known if pk not in self.pending and (pk in hurried or self._has_turn(pk, now))]
        for pk in due:
            self.turns[pk] = self._next_turn(pk, now)
        if not due:
            return []
        columns = ("name", "host_ip", "agent_port", "agent_token", "agent_certificate")
        return [AgentAddress.of(server) for server in Server.objects.filter(pk__in=due).only(*columns)]

    def _has_turn(self, pk: int, now: float) -> bool:
        """Half a tick early, because a beat is never to the millisecond."""
        return self.turns.get(pk, now) <= now + self.tick_seconds / 2

    def _next_turn(self, pk: int, now: float) -> float:
        """A round from now; after its first time a server gets a place in the round of its own."""
        interval: float = settings.MONITOR_INTERVAL_SECONDS
        if pk in self.turns:
            return now + interval
        return now + max(self.tick_seconds, interval * (pk * SPREAD % 1))


async def _report(client: AgentClient, address: AgentAddress) -> Report:
    asked_at = timezone.now()
    try:
        answer = await client.ask(Ask(address, "GET", "/report", timeout_seconds=REPORT_TIMEOUT_SECONDS))
    except AgentError as error:
        return Report(address.server_id, asked_at, None, error.message)
    return Report(address.server_id, asked_at, answer)


def _record(answered: list[Report]) -> None:
    if answered:
        reports.record_reports(answered)
        unknown.note_unknown(answered)
        graves.visit(answered)
        reconcile([report.server_id for report in answered if report.document is not None])
    reports.mark_lost()
    trials.judge()
    queueing.queue_due_steps()
    queue_due_installations()
    alarms.raise_alarms()
    alert_delivery.queue_delivery()
    tend_terminals()


async def _in_thread(work: Callable[[], T]) -> T:
    """Database work, off the loop; a broken connection is dropped before, so that the next round has a new one."""

    def fresh() -> T:
        close_old_connections()
        return work()

    return await sync_to_async(fresh)()
