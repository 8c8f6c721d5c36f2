"""``/admin/lists/``: what people post above their lists; each leads back to the list."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from infini import saved_lists
from infini.confirmation import Question, ask, is_confirmed
from infini.errors import InfiniError
from infini.models import SavedList


def _told(view: Callable[..., HttpResponse | None]) -> Callable[..., HttpResponse]:
    """What a verb refuses is told on the list that it was asked from."""

    @wraps(view)
    def wrapped(request: HttpRequest, **names: Any) -> HttpResponse:
        page, query = _where(request, **names)
        try:
            return view(request, **names) or redirect(_address(page, query))
        except InfiniError as error:
            messages.error(request, error.message)
            return redirect(_address(page, query))

    return require_POST(login_required(wrapped))


def _where(request: HttpRequest, pk: int | None = None) -> tuple[str, str]:
    """The list that is meant, which its reader must be allowed to see, and how it was filtered."""
    if pk is not None:
        saved = _saved(request, pk)
        return saved.page, saved.query
    page = _listed(request).opts.label_lower
    return page, saved_lists.filters_of(request.POST.get("query", ""))


def _listed(request: HttpRequest) -> Any:
    """The admin whose list is meant; Http404 where there is none, or none for this reader."""
    page = request.POST.get("page", "")
    for listed in admin.site._registry.values():
        if listed.opts.label_lower == page and listed.has_view_permission(request):
            return listed
    raise Http404


def _address(page: str, query: str = "") -> str:
    return reverse(f"admin:{page.replace('.', '_')}_changelist") + (f"?{query}" if query else "")


def _saved(request: HttpRequest, pk: int) -> SavedList:
    return get_object_or_404(saved_lists.visible_to(request.user), pk=pk)  # type: ignore[arg-type]


@_told
def save_list(request: HttpRequest) -> HttpResponse | None:
    by: Any = request.user
    page, query = _where(request)
    name, shared = request.POST.get("name", ""), "shared" in request.POST
    saved = saved_lists.save_list(by=by, page=page, name=name, query=query, shared=shared)
    messages.success(request, _("%(name)s is a tab above the list now.") % {"name": saved})
    return None


@_told
def change_list(request: HttpRequest, pk: int) -> HttpResponse | None:
    by: Any = request.user
    saved_lists.change_list(
        _saved(request, pk), by=by, name=request.POST.get("name", ""), shared="shared" in request.POST
    )
    messages.success(request, _("Saved."))
    return None


@_told
def remove_list(request: HttpRequest, pk: int) -> HttpResponse | None:
    by: Any = request.user
    saved = _saved(request, pk)
    question = Question(
        title=_("Remove the tab %(name)s?") % {"name": saved},
        effect=_("It goes for everybody.") if saved.shared else _("The rows stay; only the kept filter goes."),
        button=_("Remove"),
        danger=True,
        back=_address(saved.page, saved.query),
    )
    if saved_lists.may_change(saved, by) and not is_confirmed(request):
        return ask(admin.site, request, question)
    saved_lists.remove_list(saved, by=by)
    return redirect(_address(saved.page))


@_told
def set_columns(request: HttpRequest) -> HttpResponse | None:
    """Those that were offered and left out are hidden."""
    user: Any = request.user
    listed = _listed(request)
    chosen = request.POST.getlist("column")
    offered = [column.name for column in listed.list_columns(request)]
    saved_lists.hide_columns(user, listed.opts.label_lower, [name for name in offered if name not in chosen])
    return None
