"""Bearer keys: made once, kept as a digest, found again by it."""

import hashlib
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from infini import events, secrets
from infini.errors import Invalid
from infini.models import ApiKey, User


def create_key(*, user: User, name: str, by: events.Actor, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """Make a key for ``user``; the text is returned this once and cannot be had again."""
    if not name.strip():
        raise Invalid(_("A key needs a name."), fields={"name": [_("Say what the key is for.")]})
    text = "inf_" + secrets.make_token()
    with transaction.atomic():
        key = ApiKey.objects.create(
            user=user, name=name.strip(), prefix=text[:8], digest=_digest(text), expires_at=expires_at
        )
        events.record("apikey.created", key, by=by, data={"owner": user.get_username()})
    return key, text


def revoke_key(key: ApiKey, *, by: events.Actor) -> None:
    """End a key; doing it twice changes nothing."""
    with transaction.atomic():
        if ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=timezone.now()):
            events.record("apikey.revoked", key, by=by)


def find_key(text: str) -> ApiKey | None:
    """The usable key with this text, its user loaded; notes the use at most once a minute."""
    now = timezone.now()
    key = ApiKey.objects.usable(now).select_related("user").filter(digest=_digest(text)).first()
    if key:
        unnoted = Q(last_used_at=None) | Q(last_used_at__lt=now - timedelta(minutes=1))
        if key.last_used_at is None or key.last_used_at < now - timedelta(minutes=1):
            ApiKey.objects.filter(unnoted, pk=key.pk).update(last_used_at=now)
    return key


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
