"""The pages on which a person talks to services, in the admin's frame. They come with data; scripts draw it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from chat import conversations
from chat.admission import PERMISSION
from chat.models import Conversation, Endpoint
from chat.page_texts import page_texts
from chat.target_choices import target_choices, target_of_model
from chat.threads import as_list_row, as_summary, shown_turns
from deployments.models import Service
from infini.errors import NotFound
from infini.visibility import visible_or_404

LISTED = 50
COMPARED = 2

View = Callable[..., HttpResponse]


def _page(view: View) -> View:
    """A page for whoever may chat; the others are told which permission is missing."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        if not request.user.has_perm(PERMISSION):
            told = {**admin.site.each_context(request), "title": _("Chat"), "permission": PERMISSION, "forbidden": True}
            return render(request, "pages/chat.html", told, status=403)
        return view(request, *args, **options)

    return require_safe(login_required(ensure_csrf_cookie(guarded)))


@_page
def chat_page(request: HttpRequest) -> HttpResponse:
    """A new conversation, with ``?service=`` or ``?endpoint=``; it is stored with its first question."""
    return _render_chat(request, None)


@_page
def conversation_page(request: HttpRequest, pk: int) -> HttpResponse:
    try:
        conversation = conversations.own(user_id=request.user.pk, conversation_id=pk)  # type: ignore[arg-type]
    except NotFound as error:
        raise Http404(error.message) from None
    return _render_chat(request, conversation)


@_page
def service_chat(request: HttpRequest, pk: int) -> HttpResponse:
    """Where a service's Chat button leads: to the last conversation with it, or to a new one."""
    visible_or_404(Service.objects.only("pk"), request.user, pk=pk)
    return _go_on(request, "service", pk)


@_page
def endpoint_chat(request: HttpRequest, pk: int) -> HttpResponse:
    """The same for an endpoint."""
    visible_or_404(Endpoint.objects.only("pk"), request.user, pk=pk)
    return _go_on(request, "endpoint", pk)


@_page
def model_chat(request: HttpRequest, pk: int) -> HttpResponse:
    """Where a model's Chat link leads: to what serves it and can answer, else to what serves it at all."""
    found = target_of_model(pk, request.user)
    if found is None:
        raise Http404(_("Nothing serves this model: deploy a service of it, or enter an endpoint for it."))
    return _go_on(request, *found)


def _go_on(request: HttpRequest, kind: str, pk: int) -> HttpResponse:
    """To the person's last conversation with it, or to a new one."""
    last = conversations.listed(user_id=request.user.pk).filter(**{kind: pk}).first()  # type: ignore[arg-type]
    if last:
        return redirect("chat_conversation", last.pk)
    return redirect(f"{reverse('chat')}?{kind}={pk}")


@_page
def compare_page(request: HttpRequest) -> HttpResponse:
    """One prompt to two of them side by side; ``?targets=service-1,endpoint-2`` chooses them."""
    data = {**_addresses(request), "services": target_choices(request.user), "panes": COMPARED}
    shown = {"title": _("Compare"), "data": data, "texts": page_texts(), "panes": range(COMPARED)}
    return render(request, "pages/compare.html", {**admin.site.each_context(request), **shown})


def _render_chat(request: HttpRequest, conversation: Conversation | None) -> HttpResponse:
    rows = conversations.listed(user_id=request.user.pk)  # type: ignore[arg-type]
    data: dict[str, Any] = {
        **_addresses(request),
        "listed_most": LISTED,
        "services": target_choices(request.user),
        "conversations": [as_list_row(row) for row in rows[:LISTED]],
        "conversation": None,
        "turns": [],
        "more": False,
    }
    if conversation:
        data["turns"], data["more"] = shown_turns(conversation)
        settings_ = {"system_prompt": conversation.system_prompt, "parameters": conversation.parameters}
        data["conversation"] = {**as_summary(conversation), **settings_}
    title = (conversation.title if conversation else "") or _("Chat")
    shown = {"title": title, "data": data, "texts": page_texts()}
    return render(request, "pages/chat.html", {**admin.site.each_context(request), **shown})


def _addresses(request: HttpRequest) -> dict[str, Any]:
    return {
        "page_url": reverse("chat"),
        "compare_url": reverse("chat_compare"),
        "api_url": "/api/conversations",
        "services_url": "/api/chat/services",
        "may_deploy": request.user.has_perm("deployments.deploy_service"),
        "csrf_cookie": settings.CSRF_COOKIE_NAME,
    }
