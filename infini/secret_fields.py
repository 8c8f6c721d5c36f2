"""A secret in a form: written, and never shown again."""

from typing import Any

from django import forms
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext

from infini.theme import CHECKBOX_CLASSES, INPUT_CLASSES, TEXTAREA_CLASSES


class SecretInput(forms.Widget):
    """Write-only: whatever is stored, only the fact that it is stored reaches the page."""

    def __init__(self, attrs: dict[str, Any] | None = None, *, lines: int = 1) -> None:
        super().__init__(attrs)
        self.lines = lines

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        stored = bool(value)
        hint = gettext("Stored; leave empty to keep it") if stored else gettext("Not set")
        identity = (attrs or {}).get("id", f"id_{name}")
        described = (attrs or {}).get("aria-describedby", "")
        if self.lines > 1:
            box = format_html(
                '<textarea name="{}" id="{}" rows="{}" class="mono {}" placeholder="{}" autocomplete="off" '
                'spellcheck="false" aria-describedby="{}"></textarea>',
                *(name, identity, self.lines, " ".join(TEXTAREA_CLASSES), hint, described),
            )
        else:
            box = format_html(
                '<input type="password" name="{}" id="{}" class="{}" placeholder="{}" autocomplete="new-password" '
                'aria-describedby="{}">',
                *(name, identity, " ".join(INPUT_CLASSES), hint, described),
            )
        if not stored:
            return box
        return format_html(
            '{}<label class="secret-remove"><input type="checkbox" name="{}-remove" class="{}"> {}</label>',
            *(box, name, " ".join(CHECKBOX_CLASSES), gettext("Remove what is stored")),
        )

    def value_from_datadict(self, data: Any, files: Any, name: str) -> str | None:
        """None keeps what is stored."""
        if data.get(f"{name}-remove"):
            return ""
        return data.get(name) or None

    def value_omitted_from_data(self, data: Any, files: Any, name: str) -> bool:
        return False


class SecretField(forms.CharField):
    """A secret: empty input keeps the stored value, which is never sent to the page."""

    def __init__(self, *, lines: int = 1, **options: Any) -> None:
        super().__init__(**{"required": False, "strip": False, "widget": SecretInput(lines=lines), **options})

    def has_changed(self, initial: Any, data: Any) -> bool:
        return data is not None and data != (initial or "")

    def bound_data(self, data: Any, initial: Any) -> Any:
        """A form shown again tells what is stored, not what was typed."""
        return initial

    def _clean_bound_field(self, bound: Any) -> Any:
        return (bound.initial or "") if bound.data is None else self.clean(bound.data)
