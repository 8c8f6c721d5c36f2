"""Writing down by what an agent is reached, and that it is not reached any more."""

from typing import Any

from django.db.models import Q
from django.utils import timezone

from infini import events, records
from inventory.models import Server

_COLUMNS = ("agent_token", "agent_certificate")


def record_agent_access(server_id: int, *, token: str, certificate: str, by: events.Actor) -> Server:
    """Store what opens the agent of a server; nothing happens when it is stored already. Raises NotFound."""
    return _write(server_id, token, certificate, by)


def forget_agent_access(server_id: int, *, by: events.Actor) -> Server:
    """The server has no agent any more: token and certificate go together, and what was observed of it lapses."""
    server = _write(server_id, "", "", by)
    Server.objects.filter(pk=server_id, agent_token="").update(agent_asked_at=None, agent_error="", agent_version="")
    server.devices.update(present=False)
    return server


def record_first_report(server_id: int, report: dict[str, Any]) -> None:
    """What an agent said to us just now, so that no page waits for the monitor's next round."""
    agent = report.get("agent")
    agent = agent if isinstance(agent, dict) else {}
    now = timezone.now()
    older = Q(agent_seen_at=None) | Q(agent_seen_at__lt=now)
    Server.objects.filter(older, pk=server_id).update(
        agent_seen_at=now,
        agent_asked_at=now,
        agent_error="",
        agent_version=str(agent.get("version") or "")[:40],
        boot_id=str(agent.get("boot_id") or "")[:64],
    )


def _write(server_id: int, token: str, certificate: str, by: events.Actor) -> Server:
    """Through the one way rows are changed; a row that is gone is told by it."""
    server = Server.objects.filter(pk=server_id).first() or Server(pk=server_id)
    server.agent_token, server.agent_certificate = token, certificate
    return records.change(server, _COLUMNS, by=by)
