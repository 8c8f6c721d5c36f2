"""People, their keys and the timeline in the admin."""

from typing import Any

import django_q.admin
from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini import alert_admin, events, key_admin, logins, two_step
from infini.admin_base import (
    AdminPasswordChangeForm,
    BaseAdmin,
    PageChangeList,
    RelatedDropdownFilter,
    UnfoldAdminSelectWidget,
    UserChangeForm,
    UserCreationForm,
    display,
)
from infini.admin_verbs import Verb, names_of
from infini.csv_export import CsvColumn, attributes
from infini.display import ABSENT, GOOD, QUIET, Chip, ago, day_text, link
from infini.event_facts import event_text
from infini.event_filters import AboutFilter, ActorFilter, SinceFilter
from infini.event_words import event_words
from infini.models import Event, User
from infini.roles import ROLES, WORDS
from infini.timeline import subject_url, visible_events

__all__ = ["alert_admin", "key_admin"]  # they register themselves

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

    remove = staticmethod(lambda group, by: group.delete())


def _actor(request: HttpRequest) -> Any:
    """Whoever asks; the admin lets nobody in without a login."""
    return request.user


class _RoleField(forms.ModelChoiceField):
    def label_from_instance(self, group: Any) -> str:
        return str(WORDS[group.name])


def _role_field() -> forms.ModelChoiceField:
    return _RoleField(
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


def _roles(user: User) -> list[str]:
    return [group.name for group in user.groups.all() if group.name in ROLES]


def _remove(user: User, by: Any) -> None:
    with transaction.atomic():
        events.record("user.deleted", user, by=by)
        user.delete()


@admin.register(User)
class UserAdmin(DjangoUserAdmin, BaseAdmin):
    find_icon = "person"
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    verbs = [END_SESSIONS, TURN_OFF_TWO_STEP]
    remove = staticmethod(_remove)
    removed_effect = _("They can no longer log in, and their API keys and chats are deleted with them.")
    list_display = ["username", "role_shown", "email", "active_shown", "two_step_shown", "last_login_shown"]
    list_filter = [("groups", RelatedDropdownFilter)]
    search_fields = ["username", "first_name", "last_name", "email"]
    csv_columns = [
        *attributes("id", "username", "first_name", "last_name", "email"),
        CsvColumn("role", lambda user: "superuser" if user.is_superuser else ", ".join(_roles(user))),
        *attributes("is_active"),
        CsvColumn("two_step", lambda user: bool(user.totp_secret)),
        *attributes("date_joined", "last_login"),
    ]
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
        """Nobody changes his own role or locks himself out. Who may only look is shown what he sees in the list."""
        if obj is not None and not self.has_change_permission(request, obj):
            return [(None, {"fields": ["username", "role_shown", "active_shown"]}), self.fieldsets[1]]
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
            data |= self.set_more(request, obj, form)
            events.record(f"user.{'changed' if change else 'created'}", obj, by=_actor(request), data=data)

    def set_more(self, request: HttpRequest, obj: User, form: Any) -> dict[str, Any]:
        """For what another app adds to the form: writes it, and returns what differs."""
        return {}

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The role is written with the person."""

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            events.record("user.password_changed", User.objects.get(pk=id), by=_actor(request))
        return response

    @display(description=_("Role"))
    def role_shown(self, user: User) -> str:
        names = [str(WORDS[group.name]) for group in user.groups.all() if group.name in WORDS]
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


class EventChangeList(PageChangeList):
    """By day. Each row knows who reads it: not every subject's page is everybody's."""

    def heading_of(self, row: Event) -> str:
        """Its day on the reader's clock, unless somebody has sorted by something else than time."""
        in_order = not self.get_ordering_field_columns().keys() - {self.list_display.index("when")}
        return day_text(timezone.localdate(row.at)) if in_order else ""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        for event in self.result_list:
            event.reader = request.user


@admin.register(Event)
class EventAdmin(BaseAdmin):
    """The timeline: read-only for everybody."""

    list_display = ["when", "subject_shown", "does", "actor_shown", "details"]
    list_display_links = None
    search_fields = ["kind", "subject_name", "actor_name"]
    list_filter = [AboutFilter, ActorFilter, SinceFilter]
    search_help_text = _("Search what, subject or actor")
    list_units = _("events")
    empty_text = _("Everything that changes is written down here.")
    csv_columns = attributes(
        *("id", "at", "kind", "subject_kind", "subject_id", "subject_name", "actor_name", "address", "data")
    )

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """An event has no page of its own."""
        if not self.has_view_permission(request) or request.method == "POST":
            raise PermissionDenied
        return HttpResponseRedirect("../../")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return visible_events(request.user)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return EventChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        ours = ("about", "by", "since")
        return lookup in (*ours, "subject_kind__exact", "subject_id__exact", "kind__exact", "actor__id__exact")

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
    def subject_shown(self, event: Any) -> SafeString:
        return link(subject_url(event, event.reader), event.subject_said)

    @display(description=_("What"), ordering="kind")
    def does(self, event: Event) -> SafeString:
        return format_html('<span title="{}">{}</span>', event.kind, event_words(event))

    @display(description=_("Who"), ordering="actor_name", header=True)
    def actor_shown(self, event: Event) -> list[str]:
        return [event.actor_name or gettext("the system"), event.address]

    @display(description=_("Details"))
    def details(self, event: Event) -> SafeString:
        return format_html('<span class="event-data">{}</span>', event_text(event))
