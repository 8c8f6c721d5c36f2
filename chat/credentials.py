"""Who calls the gateway. It stands before Django, so a session is checked here by Django's own parts."""

import io
from typing import Any, NoReturn

from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.utils.translation import get_language_from_request, gettext_noop
from rest_framework.authentication import CSRFCheck

from chat.refusals import Refusal
from infini.models import User


def bearer_of(scope: dict[str, Any]) -> str | None:
    """The text of the caller's key; None when the caller brings none."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, text = value.decode("latin-1").partition(" ")
            return text.strip() if scheme.lower() == "bearer" else None
    return None


def session_user(scope: dict[str, Any]) -> User:
    """The caller by session; reads the database.

    Raises Refusal 401 without a valid one, 403 when it comes without its CSRF token or from another origin.
    """
    request = _request(scope)
    SessionMiddleware(_never_called).process_request(request)
    AuthenticationMiddleware(_never_called).process_request(request)
    if not request.user.is_authenticated:
        message = gettext_noop("Log in, or send an API key as 'Authorization: Bearer KEY'.")
        raise Refusal(401, message, "not_authenticated", headers={"www-authenticate": "Bearer"})
    check = CSRFCheck(_never_called)
    check.process_request(request)
    reason = check.process_view(request, None, (), {})
    if reason:
        told = gettext_noop("The request's CSRF token or origin is not right: %(reason)s") % {"reason": reason}
        raise Refusal(403, told, "csrf_failed")
    user: User = request.user._wrapped if hasattr(request.user, "_wrapped") else request.user
    return user


def language_of(scope: dict[str, Any]) -> str:
    """What the caller reads, by its browser's wish or the language it chose here; English when it says nothing."""
    if not any(name in (b"accept-language", b"cookie") for name, _value in scope["headers"]):
        return "en"
    return get_language_from_request(_request(scope))


def _request(scope: dict[str, Any]) -> HttpRequest:
    """Django's request without a body: the token comes in a header, and a body here is never a form."""
    headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
    return ASGIRequest({**scope, "headers": headers}, io.BytesIO())


def _never_called(request: HttpRequest) -> HttpResponse | NoReturn:
    raise AssertionError("Only the middleware's first half is used here.")
