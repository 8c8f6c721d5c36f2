"""Who calls the gateway. It stands before Django, so a session is checked here by Django's own parts."""

import io
from typing import Any, NoReturn

from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import CSRFCheck

from chat.refusals import Refusal
from infini.keys import find_key
from infini.models import User


def identify(scope: dict[str, Any]) -> User:
    """The caller, by ``Authorization: Bearer KEY`` or else by session; reads the database.

    Raises Refusal 401 without valid credentials, 403 when a session comes without its CSRF token or from
    another origin.
    """
    scheme, _, text = _header(scope, b"authorization").partition(" ")
    if scheme.lower() == "bearer":
        key = find_key(text.strip())
        if key is None:
            raise _unknown("This API key is unknown, expired or revoked.", "invalid_api_key")
        return key.user
    return _session_user(_request(scope))


def bearer_of(scope: dict[str, Any]) -> str:
    """The text of the caller's key; empty when the caller brings none."""
    scheme, _, text = _header(scope, b"authorization").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else ""


def _header(scope: dict[str, Any], wanted: bytes) -> str:
    for name, value in scope["headers"]:
        if name == wanted:
            return value.decode("latin-1")
    return ""


def _request(scope: dict[str, Any]) -> HttpRequest:
    """Django's request without a body: the token comes in a header, and a body here is never a form."""
    headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-type", b"content-length")]
    return ASGIRequest({**scope, "headers": headers}, io.BytesIO())


def _session_user(request: HttpRequest) -> User:
    SessionMiddleware(_never_called).process_request(request)
    AuthenticationMiddleware(_never_called).process_request(request)
    if not request.user.is_authenticated:
        raise _unknown("Log in, or send an API key as 'Authorization: Bearer KEY'.", "not_authenticated")
    check = CSRFCheck(_never_called)
    check.process_request(request)
    reason = check.process_view(request, None, (), {})
    if reason:
        raise Refusal(403, f"The request's CSRF token or origin is not right: {reason}", "csrf_failed")
    user: User = request.user._wrapped if hasattr(request.user, "_wrapped") else request.user
    return user


def _never_called(request: HttpRequest) -> HttpResponse | NoReturn:
    raise AssertionError("Only the middleware's first half is used here.")


def _unknown(message: str, code: str) -> Refusal:
    return Refusal(401, message, code, headers={"www-authenticate": "Bearer"})
