"""Who is let in to what: credentials, role, method, path, body, model, limits, in this order, from memory alone.

Only a session is looked up in the database: a browser's, for the chat.
"""

import time
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext_noop

from chat.asks import Ask
from chat.callers import PERMISSION, Caller, caller_of_user
from chat.credentials import bearer_of, session_user
from chat.directory import Knowledge, directory
from chat.models import target_key
from chat.paths import Route
from chat.readiness import why_not_ready
from chat.refusals import Refusal
from chat.targets import Target
from deployments.models import Service
from infini.key_rules import Use
from infini.keys import digest_of
from infini.off_loop import off_loop

__all__ = [
    "PERMISSION",
    "Admission",
    "admit_caller",
    "choose_target",
    "find_target",
    "refuse_closed",
    "why_closed_now",
]


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller let in with what was asked, and what shall answer it."""

    caller: Caller
    target: Target
    ask: Ask


async def admit_caller(scope: dict[str, Any], route: Route) -> Caller:
    """Check credentials 401, the key's use and the role 403, the method 405; each raises Refusal."""
    caller = await _identified(scope)
    if caller.use == Use.READ:
        raise Refusal(403, gettext_noop("This API key is for reading the API only."), "key_scope")
    if not caller.may_chat:
        raise Refusal(
            403, gettext_noop("Your role does not allow talking to services (chat.use_chat)."), "permission_denied"
        )
    if route.kind is None and not route.models:
        raise Refusal(404, gettext_noop("There is nothing at this path."), "not_found")
    if scope["method"] != route.method:
        raise Refusal(
            405,
            gettext_noop("Send a %(method)s request.") % {"method": route.method},
            "method_not_allowed",
            headers={"allow": route.method},
        )
    return caller


async def _identified(scope: dict[str, Any]) -> Caller:
    text = bearer_of(scope)
    if text is None:
        user = await off_loop(session_user, scope)
        return await off_loop(caller_of_user, user)
    digest = digest_of(text)
    found = (await directory().current()).callers.get(digest) or (await directory().newest()).callers.get(digest)
    if found is None or found.expires_at <= time.time():
        message = gettext_noop("This API key is unknown, expired or revoked.")
        raise Refusal(401, message, "invalid_api_key", headers={"www-authenticate": "Bearer"})
    return found


async def find_target(caller: Caller, *, service_id: int | None = None, endpoint_id: int | None = None) -> Target:
    """The service or endpoint with this id, as far as the caller's key is for it; raises Refusal 404 or 403."""
    key = target_key(service_id=service_id, endpoint_id=endpoint_id)
    found = (await directory().current()).by_key.get(key) or (await directory().newest()).by_key.get(key)
    seen = found is not None and found.open_to(caller.environments)
    if not seen and endpoint_id:
        told = gettext_noop("This endpoint is switched off or was removed.")
        raise Refusal(404, told, "endpoint_not_found")
    if found is None or not seen:
        raise Refusal(
            404, gettext_noop("There is no service %(service_id)s.") % {"service_id": service_id}, "service_not_found"
        )
    if not caller.allows(found.name, found.served_model):
        raise _not_for(found.name)
    return found


async def choose_target(caller: Caller, model: str, *, least_busy: Any) -> Target:
    """What answers to the name ``model``: of several the least busy that is open; raises Refusal 400, 404 or 403."""
    if not model:
        raise Refusal(400, gettext_noop("Say which model: GET /v1/models lists them."), "model_missing", param="model")
    name = model.casefold()
    found = _seen(caller, await directory().current(), name) or _seen(caller, await directory().newest(), name)
    if not found:
        raise Refusal(
            404,
            gettext_noop("There is no model %(model)r. GET /v1/models lists them.") % {"model": model[:200]},
            "model_not_found",
            param="model",
        )
    allowed = [target for target in found if caller.allows(model, target.name, target.served_model)]
    if not allowed:
        raise _not_for(model)
    if len(allowed) == 1:
        return allowed[0]
    return least_busy([target for target in allowed if target.upstreams] or allowed)


def _seen(caller: Caller, known: Knowledge, name: str) -> list[Target]:
    return [target for target in known.by_name.get(name, ()) if target.open_to(caller.environments)]


async def refuse_closed(target: Target) -> Target:
    """The target with its upstreams; raises Refusal 503 with the reason when the newest look finds none either."""
    if target.upstreams:
        return target
    known: Knowledge = await directory().newest()
    newest = known.by_key.get(target.key)
    if newest and newest.upstreams:
        return newest
    why = await why_closed_now(target)
    raise Refusal(
        503,
        why or gettext_noop("%(name)s cannot answer now.") % {"name": target.name},
        "service_not_ready",
        headers={"retry-after": "5"},
    )


async def why_closed_now(target: Target) -> str:
    """Why the target has no ready instance; empty when it has one. For when its instances could not be reached."""
    if not target.service_id:
        return ""
    return await off_loop(_why_closed, target.service_id, target.name)


def _why_closed(service_id: int, name: str) -> str:
    row = Service.objects.with_status().filter(pk=service_id).first()
    if row is None:
        return gettext_noop("%(name)s cannot answer now. It was deleted.") % {"name": name}
    why = why_not_ready(row)
    if not why and row.ready_count:  # type: ignore[attr-defined]
        return ""
    return gettext_noop("%(name)s cannot answer now. %(what)s") % {
        "name": name,
        "what": why or gettext_noop("Its ready instances have no port to be reached at."),
    }


def _not_for(name: str) -> Refusal:
    return Refusal(
        403,
        gettext_noop("This API key is not for the model %(name)r.") % {"name": name[:200]},
        "model_not_allowed",
        param="model",
    )
