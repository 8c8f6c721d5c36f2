"""The health check as plain fields of a form, and back into a revision's probes."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from deployments.models import Service
from deployments.probes import STARTUP_MAX_SECONDS, probe_problems
from infini.admin_base import (
    BaseForm,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

PREFIX = "probe_"
NAMES = ("type", "path", "expected_status", "startup_seconds")
FIELDS = tuple(PREFIX + name for name in NAMES)


class HealthForm(BaseForm):
    """The probes people set by hand; what else the API has set stays as it is."""

    probe_type = forms.ChoiceField(
        label=_("Kind of check"),
        required=False,
        choices=[
            ("", _("By itself: TCP where there is a port, else none")),
            ("http", _("HTTP: a path answers")),
            ("tcp", _("TCP: the port accepts a connection")),
            ("none", _("None: it runs")),
        ],
        widget=UnfoldAdminSelectWidget,
    )
    probe_path = forms.CharField(
        label=_("Path asked"),
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text=_("For HTTP; empty: /."),
    )
    probe_expected_status = forms.IntegerField(
        label=_("Status expected"),
        required=False,
        min_value=100,
        max_value=599,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text=_("For HTTP; empty: 200 to 399."),
    )
    probe_startup_seconds = forms.FloatField(
        label=_("Seconds to start"),
        required=False,
        min_value=0.1,
        max_value=STARTUP_MAX_SECONDS,
        widget=UnfoldAdminIntegerFieldWidget(attrs={"step": "any"}),
        help_text=_("Not ready by then: stopped and failed. Empty: 1800; large weights take hours."),
    )

    def show_probe_problems(self) -> None:
        """Each sentence at the field it is about."""
        for name, sentence in probe_problems(as_probes({}, self.cleaned_data)).items():
            self.add_error(PREFIX + name, sentence)


def stored_probes(service: Service) -> dict[str, Any]:
    return dict(service.current_revision.probes) if service.current_revision else {}


def as_fields(probes: dict[str, Any]) -> dict[str, Any]:
    return {PREFIX + name: probes.get(name) for name in NAMES if probes.get(name) is not None}


def as_probes(before: dict[str, Any], cleaned: dict[str, Any]) -> dict[str, Any]:
    """``before`` with the form's fields in the place of its own; an empty field leaves it to the agent."""
    given = {name: _whole(cleaned.get(PREFIX + name)) for name in NAMES}
    kept = {name: value for name, value in before.items() if name not in given}
    return kept | {name: value for name, value in given.items() if value not in ("", None)}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
