"""What each request knows of the person behind it: where he is, his language, his time zone."""

import time
from typing import Any

from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.deprecation import MiddlewareMixin

from infini import logins
from infini.account import zone_or_utc
from infini.addresses import address_of, set_current_address

_LOOKED_MOST = 10_000
_looked: dict[str, float] = {}  # sessions noted as seen lately by this process, so that most requests write nothing


class PersonMiddleware(MiddlewareMixin):
    """Comes after Django's own for sessions, languages and people."""

    def process_request(self, request: HttpRequest) -> None:
        meta = request.META
        set_current_address(
            address_of(peer=meta.get("REMOTE_ADDR", ""), forwarded=meta.get("HTTP_X_FORWARDED_FOR", ""))
        )
        timezone.deactivate()
        user: Any = getattr(request, "user", None)
        if user is None or not request.session.session_key or not user.is_authenticated:
            return
        if user.language:
            translation.activate(user.language)
            request.LANGUAGE_CODE = translation.get_language()
        if user.time_zone:
            timezone.activate(zone_or_utc(user.time_zone))
        _note_seen(request, user)


def _note_seen(request: HttpRequest, user: Any) -> None:
    key, now = request.session.session_key or "", time.monotonic()
    if _looked.get(key, 0.0) > now:
        return
    if len(_looked) >= _LOOKED_MOST:
        _looked.clear()
    _looked[key] = now + logins.SEEN_EVERY.total_seconds()
    logins.note_seen(key, user=user, client=request.META.get("HTTP_USER_AGENT", ""))
