"""Environment variables as people write them: one NAME=value per line, or JSON."""

import json
import re
from typing import Any

from django import forms
from django.utils.translation import gettext

from infini.secret_fields import SecretField

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvField(forms.CharField):
    """Names and texts; empty is none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "strip": False, **options})

    def prepare_value(self, value: Any) -> Any:
        return env_text(value) if isinstance(value, dict) else value or ""

    def clean(self, value: Any) -> Any:
        return read_env(super().clean(value))

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return read_env(data or "") != (initial or {})
        except forms.ValidationError:
            return True


class SecretEnvField(SecretField):
    """As ``EnvField``, but write-only."""

    def clean(self, value: Any) -> Any:
        return read_env(super().clean(value))


def env_text(env: dict[str, str]) -> str:
    """As lines where lines can tell it, else as JSON; ``read_env`` reads both back."""
    if any(re.search(r"[\r\n]", text) for text in env.values()):
        return json.dumps(env, ensure_ascii=False, indent=2)
    return "\n".join(f"{name}={text}" for name, text in env.items())


def read_env(text: str) -> Any:
    """What was written; errors name lines, never what stands in them, since that may be a secret."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            raise forms.ValidationError(gettext('This is no JSON, which would be {"NAME": "text"}.')) from None
    env: dict[str, str] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            name, value = _read_line(line, number)
            if name in env:
                raise forms.ValidationError(gettext("Line %(n)s gives a name for the second time.") % {"n": number})
            env[name] = value
    return env


def _read_line(line: str, number: int) -> tuple[str, str]:
    """The value is everything after the first =, as it stands."""
    name, equals, value = line.partition("=")
    if not equals:
        raise forms.ValidationError(gettext("Line %(n)s has no =; write NAME=value.") % {"n": number})
    if not _NAME.fullmatch(name.strip()):
        raise forms.ValidationError(
            gettext("Line %(n)s: a name has letters, digits and _, and begins with no digit.") % {"n": number}
        )
    return name.strip(), value
