"""What a request knows of the person behind it (address, language, time zone), and what pages may load."""

from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils import timezone, translation
from django.utils.deprecation import MiddlewareMixin

from infini import logins
from infini.account import zone_or_utc
from infini.addresses import address_of, set_current_address


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
        logins.note_seen(request, user)


# Everything from ourselves alone. The admin's theme sets styles in its pages and builds functions from attributes
# (Alpine), so those two are allowed, the second on its pages only.
_PAGES = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_ADMIN_PAGES = f"{_PAGES}; script-src 'self' 'unsafe-eval'"


class ContentSecurityMiddleware(MiddlewareMixin):
    """A page that somebody managed to write a script into does not run it."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.get("Content-Type", "").startswith("text/html"):
            policy = _ADMIN_PAGES if request.path.startswith("/admin/") else _PAGES
            response.headers.setdefault("Content-Security-Policy", policy)
        return response
