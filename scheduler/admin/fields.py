"""Fields of the commands' forms: texts kept as typed, parameters by lines, servers by name."""

import re
from typing import Any

from django import forms
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import MonoTextarea, UnfoldAdminSelect2MultipleWidget
from infini.said import said
from inventory.models import Server

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class CommandField(forms.CharField):
    """A script, kept as typed but for the line ends of browsers, which no shell reads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"strip": False, "widget": MonoTextarea(rows=8), **options})

    def clean(self, value: Any) -> str:
        return super().clean(value).replace("\r\n", "\n")


class ParametersField(forms.CharField):
    """One NAME=text a line; a text is everything after the first =."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "strip": False, "widget": MonoTextarea(rows=3), **options})

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return "\n".join(f"{name}={text}" for name, text in value.items())
        return value or ""

    def clean(self, value: Any) -> Any:
        values: dict[str, str] = {}
        for number, line in enumerate((super().clean(value) or "").replace("\r\n", "\n").split("\n"), start=1):
            if not line.strip():
                continue
            name, equals, text = line.partition("=")
            if not equals or not _NAME.fullmatch(name.strip()):
                said = gettext("Line %(n)d is not NAME=text; a name has letters, digits and _, no digit first.")
                raise forms.ValidationError(said % {"n": number})
            values[name.strip()] = text
        return values

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return self.clean(data) != (initial or {})
        except forms.ValidationError:
            return True


class ServersField(forms.ModelMultipleChoiceField):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            Server.objects.only("name"),
            **{"label": _("Servers"), "required": False, "widget": UnfoldAdminSelect2MultipleWidget, **options},
        )


def parameter_fields(parameters: list[dict[str, Any]]) -> dict[str, forms.Field]:
    """A field for each parameter a saved command declares: its allowed values to choose from, else a text."""
    made: dict[str, forms.Field] = {}
    for one in parameters:
        about = {"label": said(one["label"]) or one["name"], "initial": one["default"], "required": one["required"]}
        about["help_text"] = gettext("Given to the command as %(name)s.") % {"name": f"${one['name']}"}
        if one["allowed"]:
            choices = [(text, text or gettext("(empty)")) for text in one["allowed"]]
            choices = choices if one["required"] or "" in one["allowed"] else [("", gettext("(empty)")), *choices]
            made[f"param_{one['name']}"] = forms.ChoiceField(choices=choices, **about)
        else:
            made[f"param_{one['name']}"] = forms.CharField(strip=False, **about)
    return made
