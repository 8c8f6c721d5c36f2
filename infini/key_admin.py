"""API keys in the admin: everybody's own, and all of them for administrators."""

from functools import partial
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini import keys
from infini.admin_base import (
    BaseAdmin,
    DropdownFilter,
    MonoTextarea,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    display,
)
from infini.admin_verbs import Verb, names_of
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, BAD, GOOD, QUIET, Chip, ago
from infini.key_rules import LIMIT_MOST, LIMITS, Use, use_of
from infini.models import ApiKey, User

REVOKE = Verb(
    name="revoke",
    label=_("Revoke"),
    icon="key_off",
    permission=None,  # one's own always; the list holds no others without the permission
    run=keys.revoke_key,
    done=lambda rows: gettext("Revoked: %(names)s.") % {"names": names_of(rows)},
    effect=_("Whoever uses the key is refused from now on. This cannot be undone."),
    danger=True,
)
LIMIT_LABELS = {
    "requests_per_minute": (_("Requests a minute"), _("Empty: no limit, here and below.")),
    "tokens_per_minute": (_("Tokens a minute"), _("Prompt and answer; counted when a request ends.")),
    "concurrency": (_("Requests at once"), _("Those that stream included.")),
    "tokens_per_month": (_("Tokens a month"), _("A calendar month in UTC.")),
}


def _limit_field(name: str) -> forms.IntegerField:
    label, hint = LIMIT_LABELS[name]
    return forms.IntegerField(
        label=label,
        required=False,
        min_value=1,
        max_value=LIMIT_MOST,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text=hint,
    )


def _limit_of(name: str, key: ApiKey) -> int | None:
    return key.limits.get(name)


class KeyForm(forms.ModelForm):
    use = forms.ChoiceField(
        label=_("For"), choices=Use.choices, initial=Use.ALL, required=False, widget=UnfoldAdminSelectWidget
    )
    models = forms.CharField(
        label=_("Models"),
        required=False,
        widget=MonoTextarea(rows=3),
        help_text=_("One name per line, of a model, service or endpoint. Empty: all."),
    )
    requests_per_minute = _limit_field("requests_per_minute")
    tokens_per_minute = _limit_field("tokens_per_minute")
    concurrency = _limit_field("concurrency")
    tokens_per_month = _limit_field("tokens_per_month")

    class Meta:
        model = ApiKey
        fields = ["name", "expires_at"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            scopes = self.instance.scopes
            stored = {"use": use_of(scopes), "models": "\n".join(scopes.get("models", []))}
            self.initial = {**self.initial, **stored, **self.instance.limits}

    def clean_expires_at(self) -> Any:
        moment = self.cleaned_data["expires_at"]
        if moment and "expires_at" in self.changed_data and moment <= timezone.now():
            raise forms.ValidationError(gettext("This lies in the past."))
        return moment

    def values(self) -> dict[str, Any]:
        """What ``infini.keys`` takes."""
        given = self.cleaned_data
        names = [line.strip() for line in given["models"].splitlines() if line.strip()]
        return {
            "name": given["name"],
            "expires_at": given["expires_at"],
            "scopes": {"use": given["use"] or Use.ALL.value, "models": names},
            "limits": {name: given[name] for name in LIMITS},
        }


class KeyStateFilter(DropdownFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("usable", _("Usable")), ("ended", _("Expired or revoked"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        usable = ApiKey.objects.usable(timezone.now()).values("pk")
        if self.value() == "usable":
            return queryset.filter(pk__in=usable)
        return queryset.exclude(pk__in=usable) if self.value() == "ended" else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(BaseAdmin):
    """Everybody makes and revokes keys of their own; who may see all keys sees all, who may change them changes any."""

    form = KeyForm
    verbs = [REVOKE]
    list_display = [
        *("name", "prefix_shown", "user", "state_shown", "opens", "limits_shown", "expires", "used", "created")
    ]
    list_select_related = ["user"]
    list_filter = [KeyStateFilter]
    search_fields = ["name", "prefix", "user__username"]
    csv_columns = [
        *attributes("id", "name", "prefix", "user.username"),
        CsvColumn("state", keys.state_of),
        CsvColumn("use", lambda key: use_of(key.scopes)),
        CsvColumn("models", lambda key: ", ".join(key.scopes.get("models", []))),
        *(CsvColumn(name, partial(_limit_of, name)) for name in LIMITS),
        *attributes("created_at", "expires_at", "revoked_at", "last_used_at"),
    ]
    fieldsets = [
        (None, {"fields": ["name", "expires_at", "use", "models"]}),
        (_("Limits"), {"fields": list(LIMITS)}),
    ]
    empty_text = _("A key lets a program use the API and the models in your name.")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows if request.user.has_perm("infini.view_apikey") else rows.filter(user=request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return True

    def has_add_permission(self, request: HttpRequest) -> bool:
        return True

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """An administrator's alone: a limit its owner could lift would be none."""
        return bool(request.user.has_perm("infini.change_apikey")) and not (obj and obj.revoked_at)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        by: User = request.user  # type: ignore[assignment]
        if change:
            keys.change_key(obj, by=by, **form.values())
            return
        made, text = keys.create_key(user=by, by=by, **form.values())
        obj.pk, obj.prefix, obj.scopes = made.pk, made.prefix, made.scopes
        request.key_text = text  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """The key is shown this once, and stored nowhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Your new API key"),
            "opts": self.opts,
            "key": obj,
            "key_text": request.key_text,  # type: ignore[attr-defined]
            "use": use_of(obj.scopes),
            "site": request.build_absolute_uri("/").rstrip("/"),
            "list_url": reverse("admin:infini_apikey_changelist"),
        }
        response = TemplateResponse(request, "admin/infini/apikey/made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def response_post_save_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:infini_apikey_changelist"))

    @display(description=_("Key"))
    def prefix_shown(self, key: ApiKey) -> SafeString:
        return format_html('<code class="key-prefix">{}…</code>', key.prefix)

    @display(description=_("State"))
    def state_shown(self, key: ApiKey) -> Chip:
        state = keys.state_of(key)
        if state == "revoked":
            return Chip(gettext("Revoked"), QUIET, "key_off")
        if state == "expired":
            return Chip(gettext("Expired"), BAD, "event_busy")
        return Chip(gettext("Usable"), GOOD, "check_circle")

    @display(description=_("For"))
    def opens(self, key: ApiKey) -> str:
        use = use_of(key.scopes)
        names = key.scopes.get("models", [])
        what = [] if use == Use.ALL else [str(Use(use).label)]
        return "; ".join([*what, *([", ".join(names)] if names else [])]) or gettext("everything")

    @display(description=_("Limits"))
    def limits_shown(self, key: ApiKey) -> str:
        return "; ".join(f"{LIMIT_LABELS[n][0]}: {key.limits[n]:,}" for n in LIMITS if key.limits.get(n)) or ABSENT

    @display(description=_("Expires"), ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        return f"{timezone.localtime(key.expires_at):%Y-%m-%d %H:%M}" if key.expires_at else gettext("never")

    @display(description=_("Last used"), ordering="last_used_at")
    def used(self, key: ApiKey) -> SafeString:
        return ago(key.last_used_at)

    @display(description=_("Made"), ordering="created_at")
    def created(self, key: ApiKey) -> SafeString:
        return ago(key.created_at)
