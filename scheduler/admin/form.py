"""The forms of a task, and of a command that runs once."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.utils.dates import WEEKDAYS
from django.utils.translation import gettext_lazy as _

from infini.admin_base import (
    BaseForm,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)
from infini.errors import InfiniError
from scheduler.admin.fields import CommandField, ParametersField, ServersField, parameter_fields
from scheduler.models import SavedCommand, Task
from scheduler.parameters import filled
from scheduler.schedules import resolve, zone_named
from scheduler.states import ScheduleType

LOCAL_FORMAT = "%Y-%m-%dT%H:%M"
SAVED = "saved"  # in the address of a form: the saved command it begins with
_FIELDS = {"server_ids": "on_servers"}


def saved_command(request: HttpRequest | None) -> SavedCommand | None:
    """The saved command that a new task or run shall begin with."""
    asked = request.GET.get(SAVED, "") if request else ""
    return SavedCommand.objects.filter(pk=int(asked)).first() if asked.isascii() and asked.isdigit() else None


class OnServersForm(forms.ModelForm):
    """What a task and a single run have in common: the command, its parameters, where it goes."""

    command = CommandField(
        label=_("Command"), help_text=_("A shell script of at most 64 kB, run by a login shell on each server.")
    )
    environment = ParametersField(
        label=_("Parameters"),
        help_text=_("One NAME=text a line, given to the command as environment variables. No secrets: they are shown."),
    )
    on_servers = ServersField()
    selector = forms.CharField(
        label=_("Label selector"),
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text=_(
            "Also on servers whose labels fit when it runs: name, name=text, name!=text, !name, with commas between. "
            "Every server has name, environment and brand."
        ),
    )
    account = forms.CharField(
        label=_("Account"),
        required=False,
        max_length=100,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("Optional; logs in with the server's own password or key. Empty: the server's SSH account."),
    )

    def begin_with(self, saved: SavedCommand | None) -> None:
        """Fill a new form from a saved command and ask for its parameters one by one."""
        self.saved = None if self.instance.pk else saved
        if saved is None or self.instance.pk:
            return
        self.initial = {"name": saved.name, "command": saved.command, **self.initial}

    def show(self, error: InfiniError) -> None:
        """The verbs' names of fields in place of this form's."""
        texts = {_FIELDS.get(name, name): said for name, said in error.fields.items()}
        super().show(type(error)(error.message, fields=texts, code=error.code))  # type: ignore[misc]

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        if "environment" in self.cleaned_data:
            try:
                self.cleaned_data["environment"] = self._merged_environment()
            except InfiniError as error:
                self.show(error)
        return self.cleaned_data

    def _merged_environment(self) -> dict[str, str]:
        """What was written by lines, and the fields of the saved command's parameters; raises Invalid where that is
        not what the saved command allows.
        """
        own = {
            name.removeprefix("param_"): str(self.cleaned_data.get(name) or "")
            for name in self.fields
            if name.startswith("param_")
        }
        merged = own | (self.cleaned_data.get("environment") or {})
        return filled(self.saved.parameters, merged) if self.saved else merged


def with_parameters(form: type[forms.ModelForm], saved: SavedCommand | None) -> type[forms.ModelForm]:
    """``form`` with a field for each parameter of ``saved``."""
    fields = parameter_fields(saved.parameters) if saved else {}
    for field in fields.values():
        widget = UnfoldAdminSelectWidget if isinstance(field, forms.ChoiceField) else UnfoldAdminTextInputWidget
        choices = getattr(field, "choices", None)
        field.widget = widget()
        if choices is not None:
            field.choices = choices  # type: ignore[attr-defined]
    return type(form.__name__, (form,), {**fields, "__module__": form.__module__}) if fields else form


class TaskForm(OnServersForm, BaseForm):
    run_at = forms.DateTimeField(
        label=_("At"),
        required=False,
        input_formats=[LOCAL_FORMAT, f"{LOCAL_FORMAT}:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"],
        widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"}),
        help_text=_("In the task's time zone."),
    )
    time_of_day = forms.TimeField(
        label=_("Time of day"),
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"type": "time"}),
        help_text=_(
            "In the task's time zone. Where clocks go forward over it, it runs at the end of the gap; where they go "
            "back over it, the first time."
        ),
    )
    weekday = forms.TypedChoiceField(
        label=_("Weekday"),
        required=False,
        coerce=int,
        empty_value=None,
        choices=[("", "–"), *((str(number), name) for number, name in WEEKDAYS.items())],
        widget=UnfoldAdminSelectWidget,
    )
    interval_seconds = forms.IntegerField(
        label=_("Every (seconds)"),
        required=False,
        min_value=1,
        max_value=366 * 86400,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text=_("Counted from when it is saved."),
    )
    timezone = forms.CharField(
        label=_("Time zone"),
        max_length=64,
        initial="UTC",
        widget=UnfoldAdminTextInputWidget(attrs={"list": "zones", "autocomplete": "off"}),
        help_text=_("For example Europe/Berlin or Asia/Shanghai."),
    )

    class Meta:
        model = Task
        fields = [
            *("name", "command", "environment", "selector", "account", "schedule_type", "cron", "enabled"),
            *("window_opens", "window_closes", "misfire", "catch_up_most", "late_most_seconds", "overlap"),
            *Task.POLICY,
            *("notify", "long_after_seconds"),
        ]
        help_texts = {
            "cron": _(
                "Minute, hour, day of month, month, day of week in the task's time zone, as in 0 3 * * 1-5. Where "
                "clocks go forward over it, it runs at the end of the gap; where they go back over it, the first time. "
                "With * as minute or hour it follows the time that really passes."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begin_with(saved_command(self.request))
        if self.instance.pk:
            self.initial.update({name: getattr(self.instance, name) for name in self._kept_beside()})
            self.initial["run_at"] = self._local(self.instance)
            self.initial["on_servers"] = list(self.instance.servers.values_list("pk", flat=True))
        else:
            self.initial = {"schedule_type": ScheduleType.DAILY, "time_of_day": "03:00", **self.initial}

    @staticmethod
    def _kept_beside() -> tuple[str, ...]:
        return ("time_of_day", "weekday", "interval_seconds", "timezone")

    @staticmethod
    def _local(task: Task) -> str:
        try:
            return f"{task.run_at.astimezone(zone_named(task.timezone)):{LOCAL_FORMAT}}" if task.run_at else ""
        except InfiniError:
            return ""

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        at, zone = self.cleaned_data.get("run_at"), self.cleaned_data.get("timezone")
        if at is not None and zone:
            try:
                self.cleaned_data["run_at"] = resolve(at.replace(tzinfo=None), zone_named(zone))
            except InfiniError as error:
                self.show(error)
        return self.cleaned_data

    def written(self) -> set[str]:
        """The columns the editor changed."""
        names = {name for name in self.changed_data if not name.startswith("param_")}
        if any(name.startswith("param_") for name in self.changed_data):
            names.add("environment")
        return names & {field.name for field in Task._meta.concrete_fields}

    def put_beside(self, task: Task) -> None:
        """The columns that are no fields of the model form."""
        for name in ("run_at", *self._kept_beside()):
            if name in self.cleaned_data:
                setattr(task, name, self.cleaned_data[name])


class RunForm(OnServersForm, BaseForm):
    """A command that runs once, now."""

    class Meta:
        model = Task
        fields = ["command", "environment", "selector", "account", *Task.POLICY]
        widgets = dict.fromkeys(Task.POLICY, UnfoldAdminIntegerFieldWidget) | {
            "stagger_seconds": UnfoldAdminTextInputWidget
        }

    name = forms.CharField(
        label=_("Name"), required=False, max_length=100, widget=UnfoldAdminTextInputWidget, help_text=_("Optional.")
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.begin_with(saved_command(self.request))
