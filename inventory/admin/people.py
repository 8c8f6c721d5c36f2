"""What environments add to the pages of people: to which of them somebody is limited."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin import NewUserForm, UserAdmin, UserForm
from infini.admin_base import UnfoldAdminSelect2MultipleWidget, display
from infini.display import ABSENT
from infini.models import User
from infini.roles import ADMINISTRATOR
from inventory.limits import limit, limited_to
from inventory.models import Environment


def _limits_field() -> forms.ModelMultipleChoiceField:
    return forms.ModelMultipleChoiceField(
        Environment.objects.all(),
        label=_("Limited to"),
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text=_(
            "Environments. Empty: sees everything. Else only their servers, and of services, tasks and runs those "
            "whose servers all lie in them; the rest is as if it were not there."
        ),
    )


class _Limited(forms.Form):
    """Said at the field: whoever may change people is not limited."""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        role = cleaned.get("role")
        above = (role is not None and role.name == ADMINISTRATOR) or self.instance.is_superuser  # type: ignore[attr-defined]
        if above and cleaned.get("limited_to"):
            self.add_error("limited_to", gettext("Administrators are not limited: they could lift it themselves."))
        return cleaned


class LimitedNewUserForm(_Limited, NewUserForm):
    limited_to = _limits_field()


class LimitedUserForm(_Limited, UserForm):
    limited_to = _limits_field()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["limited_to"] = [environment.pk for environment in limited_to(self.instance)]


admin.site.unregister(User)


@admin.register(User)
class LimitedUserAdmin(UserAdmin):
    form = LimitedUserForm
    add_form = LimitedNewUserForm
    list_display = ["username", "role_shown", "limits_shown", *UserAdmin.list_display[2:]]
    fieldsets = [
        (None, {"fields": ["username", "password", "role", "limited_to", "is_active"]}),
        *UserAdmin.fieldsets[1:],
    ]
    add_fieldsets = [
        (None, {"fields": ["username", "role", "limited_to", "usable_password", "password1", "password2"]})
    ]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return super().annotated(request, rows).prefetch_related("environment_limits__environment")

    def set_more(self, request: HttpRequest, obj: User, form: Any) -> dict[str, Any]:
        if "limited_to" not in form.changed_data or obj == request.user:
            return {}
        return limit(obj, form.cleaned_data["limited_to"])

    @display(description=_("Limited to"))
    def limits_shown(self, user: User) -> str:
        names = [str(one.environment) for one in user.environment_limits.all()]
        return ", ".join(sorted(names)) or ABSENT
