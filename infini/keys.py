"""Bearer keys: made once, kept as a digest, found again by it."""

import hashlib
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from infini import events, secrets
from infini.errors import Invalid
from infini.key_rules import checked_limits, checked_scopes
from infini.models import ApiKey, User

STATES = ("usable", "expired", "revoked")
_CHANGEABLE = ("name", "expires_at", "scopes", "limits")


def create_key(
    *,
    user: User,
    name: str,
    by: events.Actor,
    expires_at: datetime | None = None,
    scopes: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
) -> tuple[ApiKey, str]:
    """Make a key for ``user``; the text is returned this once and cannot be had again.

    ``scopes`` and ``limits`` as in ``infini.key_rules``; raises Invalid.
    """
    text = "inf_" + secrets.make_token()
    with transaction.atomic():
        key = ApiKey.objects.create(
            user=user,
            name=_checked_name(name),
            prefix=text[:8],
            digest=digest_of(text),
            expires_at=expires_at,
            scopes=checked_scopes(scopes or {}),
            limits=checked_limits(limits or {}),
        )
        events.record("apikey.created", key, by=by, data={"owner": user.get_username()})
    return key, text


def change_key(key: ApiKey, *, by: events.Actor, **values: Any) -> ApiKey:
    """Change ``name``, ``expires_at``, ``scopes`` or ``limits``; what is not given stays. Raises Invalid.

    Every gateway knows within a second. A revoked key stays revoked whatever is changed.
    """
    checks = {"name": _checked_name, "scopes": checked_scopes, "limits": checked_limits}
    after = {name: checks[name](value) if name in checks else value for name, value in values.items()}  # type: ignore[operator]
    assert set(after) <= set(_CHANGEABLE), after
    with transaction.atomic():
        before = ApiKey.objects.get(pk=key.pk)
        for name, value in after.items():
            setattr(key, name, value)
        changes = events.difference(before, key, set(after))
        if changes:
            ApiKey.objects.filter(pk=key.pk).update(**after, changed_at=timezone.now())
            events.record("apikey.changed", key, by=by, data=changes)
    return key


def revoke_key(key: ApiKey, *, by: events.Actor) -> None:
    """End a key, everywhere within a second; doing it twice changes nothing."""
    now = timezone.now()
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now, changed_at=now):
            events.record("apikey.revoked", key, by=by)


def find_key(text: str) -> ApiKey | None:
    """The usable key with this text, its user loaded; notes the use at most once a minute."""
    now = timezone.now()
    try:
        key = ApiKey.objects.usable(now).select_related("user").get(digest=digest_of(text))
    except ApiKey.DoesNotExist:
        return None
    if key.last_used_at is None or key.last_used_at < now - timedelta(minutes=1):
        unnoted = Q(last_used_at=None) | Q(last_used_at__lt=now - timedelta(minutes=1))
        ApiKey.objects.filter(unnoted, pk=key.pk).update(last_used_at=now)
    return key


def state_of(key: ApiKey) -> str:
    """One of ``STATES``; a revoked key is that first of all."""
    if key.revoked_at:
        return "revoked"
    return "expired" if key.expires_at and key.expires_at <= timezone.now() else "usable"


def in_state(state: str, now: datetime) -> Q:
    """Those keys of which ``state_of`` says ``state`` at ``now``."""
    revoked, expired = Q(revoked_at__isnull=False), Q(expires_at__isnull=False, expires_at__lte=now)
    return {"revoked": revoked, "expired": ~revoked & expired, "usable": ~revoked & ~expired}[state]


def digest_of(text: str) -> str:
    """What is kept of a key's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checked_name(name: str) -> str:
    if not name.strip():
        raise Invalid(_("A key needs a name."), fields={"name": [_("Say what the key is for.")]})
    return name.strip()
