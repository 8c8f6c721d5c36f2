"""Errors at the API's edge: Django's, DRF's and our own, all in one shape."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as ModelValidationError
from django.http import Http404
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from infini.api import JSONRenderer
from infini.errors import Forbidden, InfiniError, Invalid, NotFound, NotLoggedIn


def error_response(error: Exception, context: dict) -> Response | None:
    """DRF's exception handler: every error in the one shape. None lets Django log what nobody expected."""
    translated = translate(error)
    if translated is None:
        return None
    set_rollback()
    _answer_in_json(context.get("request"))
    headers = {}
    if isinstance(error, exceptions.APIException):
        if getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = error.auth_header
        if getattr(error, "wait", None):
            headers["Retry-After"] = str(int(error.wait))
    return Response(translated.as_json(), status=translated.http_status, headers=headers)


def _answer_in_json(request: Any) -> None:
    """Pages and documents too say what is wrong in the one shape; only the browsable API dresses it."""
    chosen = getattr(request, "accepted_renderer", None)
    if chosen is not None and chosen.format not in ("json", "api"):
        request.accepted_renderer = JSONRenderer()
        request.accepted_media_type = JSONRenderer.media_type


def translate(error: Exception) -> InfiniError | None:
    """The project's own error for one of Django's or DRF's; None for a fault of ours."""
    if isinstance(error, InfiniError):
        return error
    if isinstance(error, Http404):
        return NotFound(_("There is no such object."))
    if isinstance(error, exceptions.ValidationError):
        fields = _flat_fields(error.detail)
        return Invalid(_summary(fields), fields=fields)
    if isinstance(error, ModelValidationError):
        fields = getattr(error, "message_dict", {"non_field_errors": error.messages})
        return Invalid(_summary(fields), fields=fields)
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        return NotLoggedIn(str(error.detail))
    if isinstance(error, exceptions.PermissionDenied | PermissionDenied):
        return Forbidden(str(getattr(error, "detail", "")) or _("Your role does not allow this."))
    if isinstance(error, exceptions.APIException):
        code = error.default_code if isinstance(error.default_code, str) else "error"
        other = InfiniError(str(error.detail), code=code)
        other.http_status = error.status_code
        return other
    return None


def _flat_fields(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """DRF's nested details as ``{"a.b": [sentences]}``."""
    if isinstance(detail, dict):
        flat: dict[str, list[str]] = {}
        for name, inner in detail.items():
            flat |= _flat_fields(inner, f"{prefix}.{name}" if prefix else str(name))
        return flat
    if isinstance(detail, Sequence) and not isinstance(detail, str):
        if all(isinstance(item, str) for item in detail):
            return {prefix or "non_field_errors": [str(item) for item in detail]}
        flat = {}
        for position, inner in enumerate(detail):
            flat |= _flat_fields(inner, f"{prefix}.{position}" if prefix else str(position))
        return flat
    return {prefix or "non_field_errors": [str(detail)]}


def _summary(fields: dict[str, list[str]]) -> str:
    name, texts = next(iter(fields.items()), ("", [_("The request is not valid.")]))
    text = texts[0] if texts else _("Not valid.")
    return text if name == "non_field_errors" else f"{name}: {text}"
