"""The form of a service: what is wanted, where, and how it is started."""

import re
from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.utils.translation import gettext_lazy as _

from deployments.admin import health
from deployments.admin.env import EnvField, SecretEnvField
from deployments.models import Service
from deployments.phases import RestartPolicy
from deployments.presets import preset, presets
from deployments.specs import check_spec
from infini.admin_base import (
    MonoTextarea,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)
from infini.errors import InfiniError
from inventory.models import Server

# Fields of the form -> columns of a revision.
SPEC = {
    "deploy_command": "command",
    "stop_command": "stop_command",
    "env": "env",
    "secret_env": "secret_env",
    "run_as": "run_as",
    "cwd": "cwd",
    "port": "port",
    "restart": "restart",
    "devices": "devices",
}
_PATH_PREFIX = RegexValidator(
    re.compile(r"^(/[A-Za-z0-9._~/-]*)?$"), _("A path begins with / and has letters, digits and . _ ~ - in it.")
)
_STORED = "stored"


def _preset_choices() -> list[tuple[str, Any]]:
    return [("", _("Nothing")), *((one.key, one.shown_name) for one in presets())]


class ServiceForm(health.HealthForm):
    placed_on = forms.ModelMultipleChoiceField(
        Server.objects.all(),
        label=_("Servers"),
        required=False,
        widget=UnfoldAdminSelect2MultipleWidget,
        help_text=_("It runs once on each."),
    )
    preset = forms.ChoiceField(
        label=_("Start from"),
        required=False,
        choices=_preset_choices,
        widget=UnfoldAdminSelectWidget,
        help_text=_("An engine fills what is still empty here; change what you like."),
    )
    deploy_command = forms.CharField(
        label=_("Deploy command"),
        required=False,
        strip=False,
        widget=MonoTextarea(rows=6),
        help_text=_(
            "Starts the model server and stays in the foreground. {port}, {host}, {service} and {model} are filled in, "
            "quoted for the shell; all other braces stay as they are."
        ),
    )
    stop_command = forms.CharField(
        label=_("Stop command"),
        required=False,
        strip=False,
        widget=MonoTextarea(rows=2),
        help_text=_("Optional; without it the process group gets SIGTERM, after 5 s SIGKILL."),
    )
    port = forms.IntegerField(
        label=_("Port"),
        required=False,
        min_value=1,
        max_value=65535,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text=_("Empty: a free one is taken where the command asks for {port}."),
    )
    env = EnvField(
        label=_("Environment variables"),
        widget=MonoTextarea(rows=3),
        help_text=_("One NAME=value per line, or JSON."),
    )
    secret_env = SecretEnvField(
        label=_("Secret environment variables"),
        lines=3,
        help_text=_(
            "One NAME=value per line, stored encrypted and never shown again. What you enter replaces all of them."
        ),
    )
    run_as = forms.CharField(
        label=_("Account"),
        required=False,
        max_length=100,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("Optional; the account on the server that runs it, the agent's own when empty."),
    )
    cwd = forms.CharField(
        label=_("Working directory"), required=False, max_length=500, widget=UnfoldAdminTextInputWidget
    )
    restart = forms.ChoiceField(
        label=_("Start again by itself"),
        required=False,
        choices=RestartPolicy.choices,
        initial=RestartPolicy.NEVER,
        widget=UnfoldAdminSelectWidget,
        help_text=_("When the process ends by itself; the agent waits longer each time, from 1 s up to 5 min."),
    )
    devices = forms.IntegerField(
        label=_("Devices per instance"),
        required=False,
        min_value=0,
        max_value=64,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text=_("Accelerators it gets for itself and sees alone. Empty: none is reserved, it sees all."),
    )
    note = forms.CharField(
        label=_("Note"),
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("Optional; why this revision."),
    )

    class Meta:
        model = Service
        fields = ["name", "model", "environment", "served_model", "path_prefix", "max_unavailable", "surge"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "path_prefix" in self.fields:
            self.fields["path_prefix"].validators.append(_PATH_PREFIX)
            self.fields["path_prefix"].required = False
        if self.instance.pk:
            self.initial = {**self.initial, **_stored(self.instance)}

    def show(self, error: InfiniError) -> None:
        """What a verb says about probes as a whole stands at the check's type."""
        texts = {("probe_type" if name == "probes" else name): said for name, said in error.fields.items()}
        super().show(type(error)(error.message, fields=texts, code=error.code))

    def clean_devices(self) -> int:
        return self.cleaned_data["devices"] or 0

    def clean_restart(self) -> str:
        return self.cleaned_data["restart"] or RestartPolicy.NEVER

    def clean(self) -> dict[str, Any] | None:
        super().clean()
        self._fill()
        self.show_probe_problems()
        if not self.errors:
            try:
                check_spec(self.spec(changed_only=False))
            except InfiniError as error:
                self.show(error)
        return self.cleaned_data

    def _fill(self) -> None:
        """Put the chosen preset where nothing was entered; a browser with scripts has done so and sends no choice.

        A path prefix may be empty on purpose: it is filled only in a new service and as long as nobody touched it.
        """
        self.filled: set[str] = set()
        key = self.cleaned_data.get("preset")
        if not key:
            return
        values = preset(key).fills()
        if not any(self.cleaned_data.get(name) for name in health.FIELDS):
            values |= health.as_fields(values["probes"])
        del values["probes"]
        if self.instance.pk or "path_prefix" in self.changed_data:
            del values["path_prefix"]
        for name, value in values.items():
            if name == "path_prefix" or not str(self.cleaned_data.get(name) or "").strip():
                self.cleaned_data[name] = value
                self.filled.add(name)

    def spec(self, *, changed_only: bool) -> dict[str, Any]:
        """The part of the form that a revision keeps; an untouched secret is not in it."""
        changed = {*self.changed_data, *self.filled}
        names = [name for name in SPEC if name in self.cleaned_data]
        taken = [n for n in names if n in changed or not (changed_only or n == "secret_env")]
        spec = {SPEC[name]: self.cleaned_data[name] for name in taken}
        if not changed_only or changed & set(health.FIELDS):
            spec["probes"] = health.as_probes(health.stored_probes(self.instance), self.cleaned_data)
        return spec | ({"note": self.cleaned_data["note"]} if self.cleaned_data.get("note") else {})


def _stored(service: Service) -> dict[str, Any]:
    revision = service.current_revision
    placed = service.placements.filter(replicas__gt=0).values_list("server_id", flat=True)
    if revision is None:
        return {"placed_on": list(placed)}
    spec = {name: getattr(revision, column) for name, column in SPEC.items() if name != "secret_env"}
    spec |= health.as_fields(revision.probes)
    return spec | {"placed_on": list(placed), "secret_env": _STORED if revision.secret_env else ""}
