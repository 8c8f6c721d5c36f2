"""Finding an object or a page by a few letters of its name, among what a person may see."""

from dataclasses import asdict, dataclass
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from infini.errors import NotLoggedIn
from infini.unfold_settings import navigation
from infini.visibility import visible

MOST_OF_A_KIND = 6
TEXT_MAX_CHARS = 100


@dataclass(frozen=True)
class Found:
    """One thing a person may go to."""

    kind: str
    name: str
    icon: str
    url: str


def find(request: HttpRequest, text: str) -> list[Found]:
    """Pages of the navigation first, then objects: one query per kind, at most six of each."""
    text = text.strip()[:TEXT_MAX_CHARS]
    found = _pages(request, text)
    if text:
        for model_admin in _findable():
            found += _objects(request, model_admin, text)
    return found


def _pages(request: HttpRequest, text: str) -> list[Found]:
    pages = []
    for group in navigation(request):
        for item in group["items"]:
            title = str(item["title"])
            if text.casefold() in title.casefold() and item.get("permission", lambda _: True)(request):
                pages.append(Found(str(group.get("title") or _("Page")), title, item["icon"], str(item["link"])))
    return pages


def _findable() -> list[Any]:
    return [model_admin for model_admin in admin.site._registry.values() if getattr(model_admin, "find_icon", "")]


def _objects(request: HttpRequest, model_admin: Any, text: str) -> list[Found]:
    if not model_admin.has_view_permission(request):
        return []
    shown = visible(model_admin.model._default_manager.all(), request.user)
    rows, _may_repeat = model_admin.get_search_results(request, shown, text)
    kind = str(model_admin.opts.verbose_name)
    return [
        Found(kind, str(row), model_admin.find_icon, _url(model_admin, row))
        for row in rows.distinct().order_by("pk")[:MOST_OF_A_KIND]
    ]


def _url(model_admin: Any, row: Any) -> str:
    if model_admin.page_template:
        return str(model_admin.page_url(row))
    return reverse(f"admin:{model_admin.opts.app_label}_{model_admin.opts.model_name}_change", args=[row.pk])


@require_safe
def find_view(request: HttpRequest) -> JsonResponse:
    """``/admin/find/?q=``: what the palette of Ctrl+K shows."""
    if not request.user.is_authenticated:
        return JsonResponse(NotLoggedIn(_("Log in again.")).as_json(), status=401)
    rows = [asdict(found) for found in find(request, request.GET.get("q", ""))]
    return JsonResponse({"found": rows}, headers={"Cache-Control": "no-store"})
