"""Who asks, and whether they may. Used by every API view; a view that names no permission is closed."""

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.filters import BaseFilterBackend
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from infini import keys
from infini.key_rules import Use, use_of
from infini.models import ApiKey, User
from infini.visibility import visible

LOGGED_IN = "logged_in"


class KeyAuthentication(BaseAuthentication):
    """``Authorization: Bearer KEY``. Listed first, so that a request without credentials is answered 401."""

    def authenticate(self, request: Request) -> tuple[User, Any] | None:
        scheme, _, text = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return None
        key = keys.find_key(text.strip())
        if key is None:
            raise exceptions.AuthenticationFailed(gettext("This API key is unknown, expired or revoked."))
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionOrNothing(SessionAuthentication):
    """The site's session; unsafe requests need its CSRF token."""


class RolePermission(BasePermission):
    """Asks ``view.needs``: a permission for all methods, or one per method. A view that names none is closed."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user or not request.user.is_authenticated:
            return False
        method = "GET" if request.method == "HEAD" else request.method
        if method == "OPTIONS" or not hasattr(view, method.lower()):
            return True  # described, or answered 405
        if isinstance(request.auth, ApiKey):
            refuse_beyond_scope(request.auth, method)
        needs = getattr(view, "needs", LOGGED_IN if view.__module__.startswith("drf_spectacular") else None)
        needed = needs.get(method) if isinstance(needs, dict) else needs
        return needed is not None and (needed == LOGGED_IN or request.user.has_perm(needed))


class VisibleRows(BaseFilterBackend):
    """Lists and single objects of generic views: what the caller may not see is not there."""

    def filter_queryset(self, request: Request, queryset: Any, view: Any) -> Any:
        return visible(queryset, request.user) if isinstance(queryset, QuerySet) else queryset


def refuse_beyond_scope(key: ApiKey, method: str) -> None:
    """Raise PermissionDenied when the key is not for the API, or for reading it and ``method`` writes."""
    use = use_of(key.scopes)
    if use == Use.MODELS:
        raise exceptions.PermissionDenied(gettext("This API key is for talking to models only."))
    if use == Use.READ and method not in SAFE_METHODS:
        raise exceptions.PermissionDenied(gettext("This API key is for reading only."))


def crud_needs(app: str, model: str) -> dict[str, str]:
    """The permission each method takes on a plain object."""
    verbs = {"GET": "view", "POST": "add", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
    return {method: f"{app}.{verb}_{model}" for method, verb in verbs.items()}
