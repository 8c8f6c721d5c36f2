"""What a key opens, and how much of it: the meaning of its two JSON columns, ``scopes`` and ``limits``.

``scopes``: ``{"use": "models" | "read", "models": [names]}``; without ``use`` a key opens what its owner may, without
``models`` every model. ``limits``: whole numbers from 1 on under the names of ``LIMITS``; what is not named has no
limit.
"""

from typing import Any

from django.db import models
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.errors import Invalid

LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrency", "tokens_per_month")
LIMIT_MOST = 10**12
MODELS_MOST = 200


class Use(models.TextChoices):
    """What a key is for. A key for models opens the gateway alone, one for reading the API's GET alone."""

    ALL = "all", _("Everything its owner may do")
    MODELS = "models", _("Talking to models only")
    READ = "read", _("Reading the API only")


def checked_scopes(scopes: dict[str, Any]) -> dict[str, Any]:
    """``scopes`` in their shortest form; raises Invalid naming what is wrong with them."""
    unknown = set(scopes) - {"use", "models"}
    use, names = scopes.get("use", Use.ALL), scopes.get("models") or []
    if unknown:
        raise Invalid(
            gettext("A key has no scope %(names)s.") % {"names": ", ".join(sorted(unknown))},
            fields={"scopes": [gettext("Unknown.")]},
        )
    if use not in Use.values:
        raise Invalid(
            gettext("A key's use is one of %(names)s.") % {"names": ", ".join(Use.values)},
            fields={"use": [gettext("Not one of them.")]},
        )
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise Invalid(
            gettext("A key's models are a list of names."), fields={"models": [gettext("Not a list of names.")]}
        )
    if len(names) > MODELS_MOST:
        raise Invalid(
            gettext("A key names at most %(models_most)s models.") % {"models_most": MODELS_MOST},
            fields={"models": [gettext("Too many.")]},
        )
    short: dict[str, Any] = {} if use == Use.ALL else {"use": str(use)}
    return short | ({"models": sorted({name.strip() for name in names})} if names else {})


def checked_limits(limits: dict[str, Any]) -> dict[str, int]:
    """``limits`` without the empty ones; raises Invalid for a name or number that is none."""
    unknown = set(limits) - set(LIMITS)
    if unknown:
        raise Invalid(
            gettext("A key has no limit %(names)s.") % {"names": ", ".join(sorted(unknown))},
            fields={"limits": [gettext("Unknown.")]},
        )
    kept = {name: value for name, value in limits.items() if value not in (None, "")}
    for name, value in kept.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LIMIT_MOST:
            raise Invalid(
                gettext("%(name)s must be a whole number from 1 on.") % {"name": name},
                fields={name: [gettext("A whole number from 1 on.")]},
            )
    return kept


def use_of(scopes: Any) -> str:
    """What a stored key is for; one that cannot be read opens nothing but what is read."""
    found = scopes.get("use", Use.ALL) if isinstance(scopes, dict) else Use.READ
    return str(found) if found in Use.values else str(Use.READ)
