"""The library of saved commands."""

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import BaseForm, MonoTextarea, RecordAdmin, display
from infini.display import ABSENT
from infini.said import said
from scheduler import library
from scheduler.admin.fields import CommandField
from scheduler.admin.form import SAVED
from scheduler.models import SavedCommand


class SavedCommandForm(BaseForm):
    command = CommandField(label=_("Command"))
    parameters = forms.JSONField(
        label=_("Parameters"),
        required=False,
        initial=list,
        widget=MonoTextarea(rows=6),
        help_text=_(
            'A list like [{"name": "LIMIT", "label": "Limit", "default": "90", "allowed": ["80", "90"]}]; one that is '
            '"required": true must be given. Each reaches the command as an environment variable.'
        ),
    )

    class Meta:
        model = SavedCommand
        fields = ["name", "description", "command", "parameters"]

    def clean_parameters(self) -> Any:
        return self.cleaned_data["parameters"] or []


@admin.register(SavedCommand)
class SavedCommandAdmin(RecordAdmin):
    form = SavedCommandForm
    list_display = ["named", "parameters_shown", "use_shown"]
    list_display_links = ["named"]
    search_fields = ["name", "description", "command"]
    empty_text = _("Commands kept for use again, with parameters that are asked for each time.")
    fieldsets = [(None, {"fields": ["name", "description", "command", "parameters"]})]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        columns = list(super().get_list_display(request))
        return columns if request.user.has_perm("scheduler.run_task") else [c for c in columns if c != "use_shown"]

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        by: Any = request.user
        if change:
            version = form.cleaned_data.get("seen_version")
            library.change_command(obj, self.changed_columns(form) - {"seen_version"}, by=by, version=version)
        else:
            library.create_command(obj, by=by)

    @display(description=_("Command"), ordering="name", header=True)
    def named(self, saved: SavedCommand) -> list[str]:
        return [saved.name, said(saved.description)]

    @display(description=_("Parameters"))
    def parameters_shown(self, saved: SavedCommand) -> str:
        return ", ".join(one["name"] for one in saved.parameters) or ABSENT

    @display(description=_("Use"))
    def use_shown(self, saved: SavedCommand) -> SafeString:
        return format_html(
            '<span class="use"><a class="link" href="{}?{}={}">{}</a> · <a class="link" href="{}?{}={}">{}</a></span>',
            *(reverse("admin:scheduler_run_add"), SAVED, saved.pk, gettext("Run now")),
            *(reverse("admin:scheduler_task_add"), SAVED, saved.pk, gettext("New task")),
        )
