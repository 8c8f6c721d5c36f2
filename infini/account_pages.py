"""``/admin/account/``: one's own language, time zone and rows, two-step login, and where one is logged in."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_POST, require_safe

from infini import account, logins, two_step
from infini.admin_base import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget
from infini.confirmation import Question, ask, is_confirmed
from infini.errors import InfiniError
from infini.visibility import limits_of

NEW_SECRET = "two_step_secret"  # kept in the session until a code shows that the app has it


class PreferencesForm(forms.Form):
    language = forms.ChoiceField(
        label=gettext_lazy("Language"),
        required=False,
        choices=[("", gettext_lazy("As the browser asks")), *settings.LANGUAGES],
        widget=UnfoldAdminSelectWidget,
    )
    time_zone = forms.CharField(
        label=gettext_lazy("Time zone"),
        required=False,
        widget=UnfoldAdminTextInputWidget({"list": "time-zones", "placeholder": "UTC", "autocomplete": "off"}),
        help_text=gettext_lazy("Times on all pages are shown in it. Empty: UTC."),
    )
    compact_lists = forms.BooleanField(
        label=gettext_lazy("Compact rows in lists"), required=False, widget=UnfoldBooleanSwitchWidget
    )


def _own(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For whoever is logged in; what a verb refuses is told as a message."""

    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except InfiniError as error:
            messages.error(request, error.message)
            return redirect("account")

    return login_required(wrapped)


@require_safe
@_own
def account_page(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    new_secret = "" if user.totp_secret else request.session.get(NEW_SECRET, "")
    context = {
        **admin.site.each_context(request),
        "title": _("Your account"),
        "form": PreferencesForm(initial={name: getattr(user, name) for name in PreferencesForm.base_fields}),
        "zones": account.time_zones(),
        "two_step_on": bool(user.totp_secret),
        "codes_left": len(user.recovery_digests),
        "new_secret": new_secret,
        "picture": two_step.enrolment_picture(user, new_secret) if new_secret else "",
        "limits": ", ".join(str(one) for one in user.environment_limits.all()) if limits_of(user) else "",
        "sessions": logins.open_sessions(user),
        "this_session": request.session.session_key,
    }
    response = render(request, "pages/account.html", context)
    response["Cache-Control"] = "no-store"
    return response


@require_POST
@_own
def set_preferences(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    language, zone = (request.POST.get(name, "").strip() for name in ("language", "time_zone"))
    account.set_preferences(user, language=language, time_zone=zone, compact_lists="compact_lists" in request.POST)
    messages.success(request, _("Saved."))
    return redirect("account")


@require_POST
@_own
def begin_two_step(request: HttpRequest) -> HttpResponse:
    request.session[NEW_SECRET] = two_step.new_secret()
    return redirect("account")


@require_POST
@_own
def turn_on_two_step(request: HttpRequest) -> HttpResponse:
    """The recovery codes are shown this once."""
    user: Any = request.user
    codes = two_step.turn_on(
        user, secret=request.session.get(NEW_SECRET, ""), code=request.POST.get("code", ""), by=user
    )
    request.session.pop(NEW_SECRET, None)
    context = {**admin.site.each_context(request), "title": _("Your recovery codes"), "codes": codes}
    response = render(request, "pages/recovery_codes.html", context)
    response["Cache-Control"] = "no-store"
    return response


@require_POST
@_own
def turn_off_two_step(request: HttpRequest) -> HttpResponse:
    """Takes the password: an open screen is not enough."""
    user: Any = request.user
    if not user.check_password(request.POST.get("password", "")):
        messages.error(request, _("The password is not right; two-step login stays on."))
        return redirect("account")
    two_step.turn_off(user, by=user)
    messages.success(request, _("Two-step login is off."))
    return redirect("account")


@require_POST
@_own
def end_sessions(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    only = request.POST.get("session", "")
    question = _ending_question(request, only)
    if not is_confirmed(request):
        return ask(admin.site, request, question)
    if only:
        ended = logins.end_sessions(user, by=user, only=int(only) if only.isdigit() else 0)
    else:
        ended = logins.end_sessions(user, by=user, spare=request.session.session_key)
    messages.success(request, _("Sessions ended: %(n)d.") % {"n": ended})
    return redirect("account")


def _ending_question(request: HttpRequest, only: str) -> Question:
    sessions = [s for s in logins.open_sessions(request.user) if s.session_key != request.session.session_key]  # type: ignore[arg-type]
    chosen = [s for s in sessions if not only or str(s.pk) == only]
    count = len(chosen)
    return Question(
        title=ngettext("End %(n)d session?", "End %(n)d sessions?", count) % {"n": count},
        effect=_("Whoever uses it there has to log in again. API keys go on working."),
        button=ngettext("End %(n)d session", "End %(n)d sessions", count) % {"n": count},
        names=[", ".join(part for part in (s.address, s.client) if part) for s in chosen],
        danger=True,
        back=reverse("account"),
    )
