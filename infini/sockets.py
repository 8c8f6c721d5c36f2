"""Who opens a socket. Told before it is accepted, so that a page of another site gets no connection at all."""

import io
import logging
from typing import Any, NoReturn

from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.utils import translation

from infini.bodies import Asgi, Receive, Scope, Send
from infini.key_rules import Use, use_of
from infini.keys import find_key
from infini.models import User
from infini.off_loop import off_loop

logger = logging.getLogger(__name__)


def admitted(inner: Asgi) -> Asgi:
    """Wraps the socket routes: ``scope["user"]`` is who asks; nobody, or a wrong origin, is refused (HTTP 403)."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        user = await off_loop(identify, scope)
        if user is None:
            await refuse(scope, receive, send)
        else:
            with translation.override(user.language or translation.get_language_from_request(_request(scope))):
                await inner({**scope, "user": user}, receive, send)

    return app


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Closed before it is accepted, which a client sees as HTTP 403."""
    await receive()
    await send({"type": "websocket.close", "code": 4404})


def identify(scope: Scope) -> User | None:
    """The caller by ``Authorization: Bearer KEY``, else by session from our own origin; reads the database.

    A cookie is sent along by whichever page opens the socket, and there is no CSRF token here: the origin is all that
    tells our page from another's, so without one a session does not count. A key is sent by nobody but its owner.
    """
    request = _request(scope)
    scheme, _, text = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "bearer":
        key = find_key(text.strip())
        return key.user if key and use_of(key.scopes) == Use.ALL else None  # a narrower key opens no socket
    return _session_user(request) if _from_our_origin(request) else None


def _request(scope: Scope) -> HttpRequest:
    """The handshake as the request it is; Django's parts need a method and HTTP's name of the scheme."""
    scheme = {"ws": "http", "wss": "https"}.get(scope.get("scheme", "ws"), scope.get("scheme", "http"))
    return ASGIRequest({**scope, "type": "http", "method": "GET", "scheme": scheme}, io.BytesIO())


def _from_our_origin(request: HttpRequest) -> bool:
    try:
        own = f"{request.scheme}://{request.get_host()}"
    except DisallowedHost:
        logger.warning("socket.disallowed_host")
        return False
    origin = request.META.get("HTTP_ORIGIN", "")
    return origin == own or origin in settings.CSRF_TRUSTED_ORIGINS


def _session_user(request: HttpRequest) -> User | None:
    SessionMiddleware(_never_called).process_request(request)
    AuthenticationMiddleware(_never_called).process_request(request)
    found: Any = request.user
    if not found.is_authenticated:
        return None
    user: User = found._wrapped if hasattr(found, "_wrapped") else found
    return user


def _never_called(request: HttpRequest) -> HttpResponse | NoReturn:
    raise AssertionError("Only the middleware's first half is used here.")
