"""Asking the agents outside the monitor's rounds."""

from django.utils import timezone

from deployments import reports, unknown
from deployments.reports import Report
from inventory.agents import AgentAddress, AgentError, Ask, ask_each
from inventory.models import Server

REFRESH_TIMEOUT_SECONDS = 8.0


def refresh_now() -> None:
    """Ask every agent that serves something for its report now, and record what they say."""
    servers = Server.objects.with_agent().filter(placements__isnull=False).distinct()
    asked_at = timezone.now()
    asks = [
        Ask(AgentAddress.of(server), "GET", "/report", about=server.pk, timeout_seconds=REFRESH_TIMEOUT_SECONDS)
        for server in servers
    ]
    answered = [
        Report(ask.about, asked_at, None, answer.message)
        if isinstance(answer, AgentError)
        else Report(ask.about, asked_at, answer)
        for ask, answer in ask_each(asks)
    ]
    reports.record_reports(answered)
    unknown.note_unknown(answered)
    reports.mark_lost()
