"""Makes and reads rows of a running site: a process that answers one JSON line per line, in the site's database."""

import json
import sys
from datetime import timedelta
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import Group  # noqa: E402
from django.db.models import F, Sum  # noqa: E402
from django.test import Client  # noqa: E402
from django.utils import timezone  # noqa: E402

from chat.history import messages_of  # noqa: E402
from chat.models import Endpoint, Message, TrafficRule, Usage, UsageDay  # noqa: E402
from deployments.models import Instance, Placement, Revision, Service  # noqa: E402
from infini.keys import create_key, digest_of, revoke_key  # noqa: E402
from infini.models import ApiKey, User  # noqa: E402
from inventory.models import Server  # noqa: E402


def user(name: str, role: str | None) -> dict[str, Any]:
    """A person with a key and a session's cookies."""
    made = User.objects.create_user(name, password="a-long-password", is_staff=True)
    if role:
        made.groups.add(Group.objects.get(name=role))
    _key, text = create_key(user=made, name="test", by=made)
    client = Client()
    client.force_login(made)
    return {"name": name, "key": text, "session": client.cookies[settings.SESSION_COOKIE_NAME].value}


def service(name: str, ports: list[int], prefix: str, served_model: str) -> int:
    """A deployed service with one ready instance per port, each on a server of its own."""
    made = Service.objects.create(name=name, path_prefix=prefix, served_model=served_model, wanted="running")
    revision = Revision.objects.create(service=made, number=1, command="serve")
    Service.objects.filter(pk=made.pk).update(current_revision=revision)
    for number, port in enumerate(ports):
        server = Server.objects.create(name=f"{name} server {number} 机", host_ip="127.0.0.1")
        placement = Placement.objects.create(service=made, server=server)
        Instance.objects.create(
            placement=placement, revision=revision, key=f"{made.pk}-{number}", phase="running", ready=True, port=port
        )
    return made.pk


def key(owner: str, scopes: dict | None = None, limits: dict | None = None, expires_in: float | None = None) -> str:
    """A further key of somebody's; its text."""
    expires_at = timezone.now() + timedelta(seconds=expires_in) if expires_in else None
    user = User.objects.get(username=owner)
    _key, text = create_key(user=user, name="made", by=None, scopes=scopes, limits=limits, expires_at=expires_at)
    return text


def revoke(text: str) -> None:
    revoke_key(ApiKey.objects.get(digest=digest_of(text)), by=None)


def lock_out(name: str, locked: bool) -> None:
    User.objects.filter(username=name).update(is_active=not locked)


def traffic(service_id: int, **values: Any) -> None:
    TrafficRule.objects.create(service_id=service_id, **values)


def endpoint(name: str, base_url: str, key: str, served_model: str) -> int:
    return Endpoint.objects.create(name=name, base_url=base_url, key=key, served_model=served_model).pk


def switch_off(endpoint_id: int) -> None:
    Endpoint.objects.filter(pk=endpoint_id).update(enabled=False, version=F("version") + 1)


def used(service_id: int = 0, endpoint_id: int = 0) -> list[dict[str, Any]]:
    """What is stored of a target's usage, oldest first."""
    rows = Usage.objects.filter(service_id=service_id, endpoint_id=endpoint_id).order_by("pk")
    names = ("user_name", "key_name", "instance", "model", "path", "streamed", "prompt_tokens", "completion_tokens")
    return list(rows.values(*names, "estimated", "first_token_ms", "duration_ms", "outcome"))


def used_by_day(service_id: int) -> dict[str, int]:
    names = ("requests", "prompt_tokens", "completion_tokens", "cancelled", "failed", "estimated")
    found = UsageDay.objects.filter(service_id=service_id).aggregate(**{f"n_{name}": Sum(name) for name in names})
    return {name: found[f"n_{name}"] or 0 for name in names}


def unready(service_id: int, phase: str, reason: str) -> None:
    Instance.objects.filter(placement__service=service_id).update(phase=phase, ready=False, reason=reason)


def stop(service_id: int) -> None:
    Instance.objects.filter(placement__service=service_id).update(phase="stopped", ready=False, wanted="stopped")
    Service.objects.filter(pk=service_id).update(wanted="stopped")


def orphan(service_id: int) -> None:
    """Makes the service's last answer look like one whose process died."""
    last = Message.objects.filter(conversation__service=service_id).order_by("-pk").first()
    assert last is not None
    Message.objects.filter(pk=last.pk).update(state="streaming", touched_at=timezone.now() - timedelta(seconds=61))


def states(name: str, service_id: int) -> list[str]:
    """How the person's messages ended, as any reader is told."""
    who = User.objects.get(username=name)
    return [message.state for message in messages_of(user_id=who.pk, service_id=service_id)]


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        answer = globals()[asked["do"]](**asked["with"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
