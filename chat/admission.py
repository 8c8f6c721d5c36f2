"""All the gateway asks of the database before it turns to an upstream: one visit, then the connection is free."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

from chat.credentials import bearer_of, identify
from chat.readiness import why_not_ready
from chat.refusals import Refusal
from deployments.models import Service
from deployments.upstreams import Upstream, upstreams_of

PERMISSION = "chat.use_chat"

# Who was let in with a key is not looked up again so soon: a revoked key opens the door for this long at most.
REMEMBERED_SECONDS = 0.9
_REMEMBERED_MOST = 10_000


@dataclass(frozen=True)
class Admission:
    """A caller let in to a service. ``upstreams`` are its ready instances; without any, ``closed`` says why."""

    user_id: int
    service_id: int
    service_name: str
    served_model: str
    upstreams: list[Upstream]
    closed: str


_remembered: dict[tuple[bytes, int], tuple[float, Admission]] = {}


def recall(scope: dict[str, Any], service_id: int) -> Admission | None:
    """What ``admit`` would say, if it said so a moment ago in this process; only for keys and open services."""
    until, admission = _remembered.get((_digest(scope), service_id), (0.0, None))
    return admission if scope["method"] == "POST" and until > time.monotonic() else None


def admit(scope: dict[str, Any], service_id: int) -> Admission:
    """Check, in this order: credentials 401, role 403, method 405, service 404; each raises Refusal."""
    asked_at = time.monotonic()
    user = identify(scope)
    if not user.has_perm(PERMISSION):
        raise Refusal(403, "Your role does not allow talking to services (chat.use_chat).", "permission_denied")
    if scope["method"] != "POST":
        raise Refusal(405, "Send a POST request.", "method_not_allowed", headers={"allow": "POST"})
    service = Service.objects.filter(pk=service_id).only("pk", "name", "served_model").first()
    if service is None:
        raise Refusal(404, f"There is no service {service_id}.", "service_not_found")
    upstreams = upstreams_of(service.pk)
    closed = "" if upstreams else _why_closed(service)
    admission = Admission(user.pk, service.pk, service.name, service.served_model, upstreams, closed)
    if bearer_of(scope) and not closed:
        _remember((_digest(scope), service_id), asked_at, admission)
    return admission


def why_closed_now(service_id: int) -> str:
    """Why the service has no ready instance; empty when it has one. For when its instances could not be reached."""
    if upstreams_of(service_id):
        return ""
    service = Service.objects.filter(pk=service_id).first()
    return _why_closed(service) if service else "The service was deleted."


def _remember(key: tuple[bytes, int], asked_at: float, admission: Admission) -> None:
    if len(_remembered) >= _REMEMBERED_MOST:
        _remembered.clear()
    _remembered[key] = (asked_at + REMEMBERED_SECONDS, admission)


def _digest(scope: dict[str, Any]) -> bytes:
    return hashlib.sha256(bearer_of(scope).encode()).digest()


def _why_closed(service: Service) -> str:
    row = Service.objects.with_status().filter(pk=service.pk).first()
    why = why_not_ready(row) if row else "It was deleted."
    return f"{service.name} cannot answer now. {why or 'Its ready instances have no port to be reached at.'}"
