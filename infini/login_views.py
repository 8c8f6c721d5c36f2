"""Logging in, in one step or two. The second step begins only after the password was right, and ends with the login."""

import time
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.auth import authenticate, login
from django.contrib.auth import views as auth_views
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.generic import FormView

from infini import logins, two_step
from infini.admin_base import AuthenticationForm, UnfoldAdminTextInputWidget
from infini.models import User

PENDING = "login_pending"
PENDING_SECONDS = 300


def _refuse_while_waiting(name: str) -> None:
    seconds = logins.seconds_to_wait(name)
    if seconds:
        minutes = max(1, round(seconds / 60))
        raise ValidationError(
            _("Too many failed logins from your address. Try again in %(n)d min.") % {"n": minutes}, code="wait"
        )


class LoginForm(AuthenticationForm):
    """Django's, with attempts counted. A blocked attempt checks no password: it tells nothing about it."""

    def clean(self) -> dict[str, Any]:
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not (name and password):
            return self.cleaned_data
        _refuse_while_waiting(name)
        self.user_cache = authenticate(self.request, username=name, password=password)
        if self.user_cache is None:
            logins.note_failure(name)
            raise ValidationError(_("The user name or the password is not right."), code="invalid_login")
        self.confirm_login_allowed(self.user_cache)
        return self.cleaned_data


class _Frame:
    """What the admin's pages before the login show around the form."""

    request: HttpRequest

    def frame(self) -> dict[str, Any]:
        return {
            **admin.site.each_context(self.request),
            "title": _("Log in"),
            "app_path": self.request.get_full_path(),
            "username": self.request.user.get_username(),
        }


class LoginView(_Frame, auth_views.LoginView):
    template_name = "admin/login.html"
    authentication_form = LoginForm
    next_page = "admin:index"
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**self.frame(), **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        user: Any = form.get_user()
        if user.totp_secret:
            self.request.session[PENDING] = {"user": user.pk, "at": time.time(), "next": self.get_success_url()}
            return redirect("login-code")
        logins.forget_failures(user.get_username())
        login(self.request, user)
        return HttpResponseRedirect(self.get_success_url())


class CodeForm(forms.Form):
    code = forms.CharField(
        max_length=30,
        widget=UnfoldAdminTextInputWidget({"autocomplete": "one-time-code", "autofocus": True, "inputmode": "text"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.fields["code"].label = _("Code")
        self.fields["code"].help_text = _("The six digits your app shows, or one of your recovery codes.")

    def clean_code(self) -> str:
        _refuse_while_waiting(self.user.get_username())
        code: str = self.cleaned_data["code"]
        if not two_step.accept_code(self.user, code):
            logins.note_failure(self.user.get_username())
            raise ValidationError(_("This code is not right, or was used already."), code="invalid_code")
        return code


class CodeView(_Frame, FormView):
    """The second step, for whoever's password was right within the last five minutes."""

    template_name = "admin/login_code.html"
    form_class = CodeForm

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        pending = request.session.get(PENDING) or {}
        fresh = time.time() - pending.get("at", 0) < PENDING_SECONDS
        self.user = User.objects.filter(pk=pending.get("user", 0), is_active=True).first() if fresh else None
        if self.user is None or not self.user.totp_secret:
            request.session.pop(PENDING, None)
            return redirect("admin:login")
        self.next = str(pending.get("next") or "")
        return super().dispatch(request, *args, **kwargs)

    def get_form_kwargs(self) -> dict[str, Any]:
        return {**super().get_form_kwargs(), "user": self.user}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**self.frame(), **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        assert self.user is not None
        self.request.session.pop(PENDING, None)
        logins.forget_failures(self.user.get_username())
        login(self.request, self.user, backend="django.contrib.auth.backends.ModelBackend")
        safe = url_has_allowed_host_and_scheme(self.next, allowed_hosts={self.request.get_host()})
        return HttpResponseRedirect(self.next if safe else reverse("admin:index"))
