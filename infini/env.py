"""The environment, read once and typed: every setting comes through here and fails at start, not in use."""

import os
from collections.abc import Callable
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")


def env_str(name: str, default: str = "") -> str:
    """The variable without blanks around it; an empty one counts as absent."""
    return os.environ.get(name, "").strip() or default


def env_int(name: str, default: int, *, least: int | None = None, most: int | None = None) -> int:
    """An integer setting; raises ImproperlyConfigured when it is none or out of its range."""
    value = _parsed(name, default, int, "a whole number")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ImproperlyConfigured(f"{name} is {value}; it must lie between {least} and {most}.")
    return value


def env_float(name: str, default: float, *, least: float) -> float:
    """A decimal setting; raises ImproperlyConfigured when it is none or below ``least``."""
    value = _parsed(name, default, float, "a number")
    if value < least:
        raise ImproperlyConfigured(f"{name} is {value}; it must be at least {least}.")
    return value


def env_bool(name: str, default: bool = False) -> bool:
    raw = env_str(name).lower()
    if raw in ("1", "true", "yes", "on"):
        return True
    if raw in ("0", "false", "no", "off"):
        return False
    if not raw:
        return default
    raise ImproperlyConfigured(f"{name} is {raw!r}; write 1 or 0.")


def env_word(name: str, words: tuple[str, ...]) -> str:
    """One of ``words``, the first when it is absent; raises ImproperlyConfigured when it is another."""
    word = env_str(name, words[0]).lower()
    if word not in words:
        raise ImproperlyConfigured(f"{name} is {word!r}; it must be one of {', '.join(words)}.")
    return word


def env_list(name: str) -> list[str]:
    """Comma-separated words; empty ones are dropped."""
    return [part.strip() for part in env_str(name).split(",") if part.strip()]


def _parsed(name: str, default: T, parse: Callable[[str], T], what: str) -> T:
    raw = env_str(name)
    if not raw:
        return default
    try:
        return parse(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {raw!r}; it must be {what}.") from None
