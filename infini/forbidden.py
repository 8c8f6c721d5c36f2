"""What a page says to whom it is refused: which permission is missing, and which role has it."""

from typing import Any

from django.contrib import admin
from django.contrib.auth.models import Permission
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from infini.errors import Forbidden
from infini.roles import ROLES, WORDS, role_may

_PARTS = {"add": "add", "delete": "delete"}


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """``handler403``. A view that raises ``PermissionDenied`` with a permission has that one named."""
    permission = str(exception) if "." in str(exception) else missing_permission(request)
    if permission and request.user.has_perm(permission):
        permission = ""  # it is nobody's to do here
    if request.path.startswith(("/api/", "/v1/")):
        return JsonResponse(Forbidden(_("Your role does not allow this.")).as_json(), status=403)
    return refusal_page(request, permission)


def refusal_page(request: HttpRequest, permission: str) -> HttpResponse:
    """In the admin's frame, so that one may go on from there."""
    told = {"title": _("Not allowed"), "permission": permission, "role": least_role(permission)}
    return render(request, "pages/forbidden.html", {**admin.site.each_context(request), **told}, status=403)


def missing_permission(request: HttpRequest) -> str:
    """That of the admin's own pages, by their names; empty for a page that says itself what it needs."""
    match = request.resolver_match
    name, options = (match.url_name or "", match.kwargs) if match else ("", {})
    if name == "auth_user_password_change":  # Django's name, whatever app its people are in
        return "infini.change_user"
    for model_admin in admin.site._registry.values():
        prefix = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}_"
        if name.startswith(prefix):
            return _of_page(model_admin, name.removeprefix(prefix), str(options.get("name", "")), request.method or "")
    return ""


def _of_page(model_admin: Any, page: str, verb_name: str, method: str) -> str:
    if page == "do":
        found = (verb.permission for verb in model_admin.all_verbs() if verb.name == verb_name)
        return next(found, "") or ""
    part = "change" if page == "change" and method == "POST" else _PARTS.get(page, "view")
    own: dict[str, str] = getattr(model_admin, "needs", {})
    return own.get(part) or f"{model_admin.opts.app_label}.{part}_{model_admin.opts.model_name}"


def least_role(permission: str) -> str:
    """The least role that has it, in words; empty when none has."""
    app, _dot, code = permission.partition(".")
    row = Permission.objects.filter(content_type__app_label=app, codename=code).select_related("content_type").first()
    return next((str(WORDS[role]) for role in ROLES if row and role_may(role, row)), "")
