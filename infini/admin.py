"""People, their keys and the timeline in the admin."""

from typing import Any

import django_q.admin
from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini import alert_admin, events, keys, logins, two_step
from infini.admin_base import (
    AdminPasswordChangeForm,
    BaseAdmin,
    DropdownFilter,
    RelatedDropdownFilter,
    UnfoldAdminSelectWidget,
    UserChangeForm,
    UserCreationForm,
    display,
)
from infini.admin_verbs import Verb, names_of
from infini.display import ABSENT, BAD, GOOD, QUIET, Chip, ago, link
from infini.event_words import event_words
from infini.models import ApiKey, Event, User
from infini.roles import ROLES
from infini.timeline import event_text, subject_url, visible_events

__all__ = ["alert_admin"]  # registers itself

# Importing its admin has registered the queue's tables; they are inner works, not pages for people.
for _queue_model in (django_q.admin.Schedule, django_q.admin.Success, django_q.admin.Failure, django_q.admin.OrmQ):
    if admin.site.is_registered(_queue_model):
        admin.site.unregister(_queue_model)
admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, BaseAdmin):
    """The three roles are the table's of ``infini.roles``; further groups may be made beside them."""

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.prefetch_related("permissions__content_type")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and not (obj and obj.name in ROLES)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and obj.name in ROLES)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        queryset.exclude(name__in=ROLES).delete()


def _actor(request: HttpRequest) -> Any:
    """Whoever asks; the admin lets nobody in without a login."""
    return request.user


def _role_field() -> forms.ModelChoiceField:
    return forms.ModelChoiceField(
        Group.objects.filter(name__in=ROLES),
        label=_("Role"),
        required=False,
        empty_label=_("None: logs in and sees nothing"),
        widget=UnfoldAdminSelectWidget,
        help_text=_("Viewer reads and chats, operator also deploys and manages servers, administrator also people."),
    )


class NewUserForm(UserCreationForm):
    role = _role_field()


class UserForm(UserChangeForm):
    role = _role_field()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["role"] = self.instance.groups.filter(name__in=ROLES).first()


END_SESSIONS = Verb(
    name="end_sessions",
    label=_("End sessions"),
    icon="logout",
    permission="infini.change_user",
    run=lambda user, by: logins.end_sessions(user, by=by),
    done=lambda rows: gettext("Logged out everywhere: %(names)s.") % {"names": names_of(rows)},
    effect=_("They are logged out in every browser and have to log in again. Their API keys go on working."),
    danger=True,
)
TURN_OFF_TWO_STEP = Verb(
    name="turn_off_two_step",
    label=_("Turn off two-step login"),
    icon="phonelink_erase",
    permission="infini.change_user",
    run=lambda user, by: two_step.turn_off(user, by=by),
    done=lambda rows: gettext("The password alone opens the site again for: %(names)s.") % {"names": names_of(rows)},
    effect=_("For somebody who lost his telephone and his recovery codes. Make sure that it is he who asks."),
    danger=True,
)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, BaseAdmin):
    find_icon = "person"
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    verbs = [END_SESSIONS, TURN_OFF_TWO_STEP]
    list_display = ["username", "role_shown", "email", "active_shown", "two_step_shown", "last_login_shown"]
    list_filter = [("groups", RelatedDropdownFilter)]
    search_fields = ["username", "first_name", "last_name", "email"]
    filter_horizontal = []
    fieldsets = [
        (None, {"fields": ["username", "password", "role", "is_active"]}),
        (_("Person"), {"fields": ["first_name", "last_name", "email"]}),
    ]
    add_fieldsets = [(None, {"fields": ["username", "role", "usable_password", "password1", "password2"]})]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.prefetch_related("groups")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A superuser is changed by superusers alone."""
        above = obj is not None and obj.is_superuser and not request.user.is_superuser
        return super().has_change_permission(request, obj) and not above

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody removes himself: the last administrator would be gone."""
        above = obj is not None and (obj == request.user or (obj.is_superuser and not request.user.is_superuser))
        return super().has_delete_permission(request, obj) and not above

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Nobody changes his own role or locks himself out."""
        if obj is None or obj != request.user:
            return super().get_fieldsets(request, obj)
        return [(None, {"fields": ["username", "password"]}), self.fieldsets[1]]

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        """Everybody here works in the admin, so everybody is staff; what they may do is their role's."""
        columns = set(form.changed_data) & {field.name for field in obj._meta.concrete_fields}
        before = User.objects.filter(pk=obj.pk).first()
        obj.is_staff = True
        with transaction.atomic():
            obj.save(update_fields=columns | {"is_staff"} if change else None)
            data = events.difference(before, obj, columns - {"password", "last_login"})
            if "role" in form.changed_data and obj != request.user:
                data |= _set_role(obj, form.cleaned_data["role"])
            events.record(f"user.{'changed' if change else 'created'}", obj, by=_actor(request), data=data)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The role is written with the person."""

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        with transaction.atomic():
            events.record("user.deleted", obj, by=_actor(request))
            obj.delete()

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            events.record("user.password_changed", User.objects.get(pk=id), by=_actor(request))
        return response

    @display(description=_("Role"))
    def role_shown(self, user: User) -> str:
        names = [group.name for group in user.groups.all() if group.name in ROLES]
        return gettext("superuser") if user.is_superuser else ", ".join(names) or ABSENT

    @display(description=_("State"), ordering="is_active")
    def active_shown(self, user: User) -> Chip:
        if user.is_active:
            return Chip(gettext("Active"), GOOD, "check_circle")
        return Chip(gettext("Locked"), QUIET, "block", gettext("Cannot log in; keys do not work"))

    @display(description=_("Two-step login"))
    def two_step_shown(self, user: User) -> str:
        return gettext("on") if user.totp_secret else ABSENT

    @display(description=_("Last login"), ordering="last_login")
    def last_login_shown(self, user: User) -> SafeString:
        return ago(user.last_login)


def _set_role(user: User, role: Group | None) -> dict[str, Any]:
    had = user.groups.filter(name__in=ROLES)
    before = sorted(group.name for group in had)
    user.groups.remove(*had)
    if role:
        user.groups.add(role)
    return {"role": [before, [role.name] if role else []]}


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
    """Everybody makes and revokes keys of their own; who may see all keys, sees all."""

    verbs = [REVOKE]
    list_display = ["name", "prefix_shown", "user", "state_shown", "expires", "used", "created"]
    list_select_related = ["user"]
    list_filter = [KeyStateFilter]
    search_fields = ["name", "prefix", "user__username"]
    fieldsets = [(None, {"fields": ["name", "expires_at"]})]
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
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        by: Any = request.user
        made, text = keys.create_key(user=by, name=obj.name, expires_at=obj.expires_at, by=by)
        obj.pk, obj.prefix = made.pk, made.prefix
        request.key_text = text  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """The key is shown this once, and stored nowhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Your new API key"),
            "opts": self.opts,
            "key": obj,
            "key_text": request.key_text,  # type: ignore[attr-defined]
            "site": request.build_absolute_uri("/").rstrip("/"),
            "list_url": reverse("admin:infini_apikey_changelist"),
        }
        response = TemplateResponse(request, "admin/infini/apikey/made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @display(description=_("Key"))
    def prefix_shown(self, key: ApiKey) -> SafeString:
        return format_html("<code>{}…</code>", key.prefix)

    @display(description=_("State"))
    def state_shown(self, key: ApiKey) -> Chip:
        if key.revoked_at:
            return Chip(gettext("Revoked"), QUIET, "key_off")
        if key.expires_at and key.expires_at <= timezone.now():
            return Chip(gettext("Expired"), BAD, "event_busy")
        return Chip(gettext("Usable"), GOOD, "check_circle")

    @display(description=_("Expires"), ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        return f"{timezone.localtime(key.expires_at):%Y-%m-%d %H:%M}" if key.expires_at else gettext("never")

    @display(description=_("Last used"), ordering="last_used_at")
    def used(self, key: ApiKey) -> SafeString:
        return ago(key.last_used_at)

    @display(description=_("Made"), ordering="created_at")
    def created(self, key: ApiKey) -> SafeString:
        return ago(key.created_at)


@admin.register(Event)
class EventAdmin(BaseAdmin):
    """The timeline: read-only for everybody."""

    list_display = ["when", "subject_shown", "does", "actor_shown", "details"]
    list_display_links = None
    search_fields = ["kind", "subject_name", "actor_name"]
    search_help_text = _("Search what, subject or actor")
    empty_text = _("Everything that changes is written down here.")

    def get_urls(self) -> list[Any]:
        back = self.admin_site.admin_view(lambda request, **_kept: HttpResponseRedirect("../../"))
        return [path("<int:pk>/change/", back), *super().get_urls()]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return visible_events(request.user)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup in ("subject_kind__exact", "subject_id__exact", "kind__exact", "actor__id__exact")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @display(description=_("When"), ordering="id")
    def when(self, event: Event) -> SafeString:
        return ago(event.at)

    @display(description=_("Subject"), ordering="subject_name")
    def subject_shown(self, event: Event) -> SafeString:
        return link(subject_url(event), event.subject_name)

    @display(description=_("What"), ordering="kind")
    def does(self, event: Event) -> SafeString:
        return format_html('<span title="{}">{}</span>', event.kind, event_words(event))

    @display(description=_("Who"), ordering="actor_name", header=True)
    def actor_shown(self, event: Event) -> list[str]:
        return [event.actor_name or gettext("the system"), event.address]

    @display(description=_("Details"))
    def details(self, event: Event) -> SafeString:
        return format_html('<span class="event-data">{}</span>', event_text(event))
