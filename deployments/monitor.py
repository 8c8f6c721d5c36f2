"""The monitor: asks every agent for its report, records, finds the lost, raises alarms, and queues what is due.

One monitor leads, by a lease; others wait for it to run out. A slow agent holds up nobody: its answer is
taken whenever it comes, in a later round if need be.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone

from deployments import alarms, graves, queueing, reports
from deployments.models import Operation
from deployments.phases import OPEN_STATES
from deployments.reconcile import reconcile
from deployments.reports import Report
from infini import alert_delivery
from infini.models import Lease
from inventory.agents import AgentAddress, AgentClient, AgentError, Ask
from inventory.models import Server

logger = logging.getLogger(__name__)

LEASE = "monitor"
LEASE_SECONDS = 15.0
REPORT_TIMEOUT_SECONDS = 10.0
T = TypeVar("T")


class Monitor:
    """The loop's memory: when each server was asked, and which answers are outstanding."""

    def __init__(self) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}"
        self.tick_seconds = min(1.0, settings.MONITOR_INTERVAL_SECONDS)
        self.asked_at: dict[int, datetime] = {}
        self.pending: dict[int, asyncio.Task[Report]] = {}
        self._leads_until = 0.0

    def leads(self) -> bool:
        """Whether the lease is surely held; callable from any thread."""
        return time.monotonic() < self._leads_until

    async def run(self) -> None:
        async with AgentClient() as client:
            while True:
                started = asyncio.get_running_loop().time()
                if await _in_thread(lambda: Lease.take(LEASE, self.holder, seconds=LEASE_SECONDS)):
                    self._leads_until = started + LEASE_SECONDS - 1
                    await self.tick(client)
                spent = asyncio.get_running_loop().time() - started
                await asyncio.sleep(max(0.0, self.tick_seconds - spent))

    async def tick(self, client: AgentClient) -> None:
        """Ask whoever is due, give answers a moment to come, record those that did."""
        for address in await _in_thread(self._due):
            self.asked_at[address.server_id] = timezone.now()
            self.pending[address.server_id] = asyncio.create_task(_report(client, address))
        if self.pending:
            await asyncio.wait(self.pending.values(), timeout=self.tick_seconds)
        answered = [task.result() for task in self.pending.values() if task.done()]
        self.pending = {pk: task for pk, task in self.pending.items() if not task.done()}
        await _in_thread(lambda: _record(answered))

    def _due(self) -> list[AgentAddress]:
        """Agents not asked for a round; those with an open operation are asked every time."""
        now = timezone.now()
        limit = timedelta(seconds=settings.MONITOR_INTERVAL_SECONDS)
        hurried = set(
            Operation.objects.filter(state__in=OPEN_STATES).values_list("service__placements__server", flat=True)
        )
        servers = Server.objects.with_agent()
        return [
            AgentAddress.of(server)
            for server in servers
            if server.pk not in self.pending
            and (server.pk in hurried or now - self.asked_at.get(server.pk, now - limit) >= limit)
        ]


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
        graves.visit(answered)
        reconcile([report.server_id for report in answered if report.document is not None])
    reports.mark_lost()
    queueing.queue_due_steps()
    alarms.raise_alarms()
    alert_delivery.queue_delivery()


async def _in_thread(work: Callable[[], T]) -> T:
    """Database work, off the loop; a broken connection is dropped before, so that the next round has a new one."""

    def fresh() -> T:
        close_old_connections()
        return work()

    return await sync_to_async(fresh)()
