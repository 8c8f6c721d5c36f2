"""What must hold of an endpoint before it is written, whichever edge it comes through."""

from typing import Any

from django.utils.translation import gettext as _

from chat.addresses import checked_base_url
from infini.errors import Invalid


def checked_endpoint(values: dict[str, Any], *, before: Any = None) -> dict[str, Any]:
    """``values`` of an endpoint, made tidy; raises Invalid for an address that leads where none may be.

    Where the address changes, a stored key must be given anew: it was meant for the other side alone.
    """
    tidy = dict(values)
    if "base_url" in tidy:
        tidy["base_url"] = checked_base_url(tidy["base_url"])
        moved = before is not None and _site(before.base_url) != _site(tidy["base_url"])
        if moved and before.key and tidy.get("key") in (None, before.key):
            told = _("The address leads to another host: enter its key again, or remove it.")
            raise Invalid(told, fields={"key": [told]})
    key = tidy.get("key") or ""
    if not key.isascii() or not key.isprintable() or " " in key.strip():
        raise Invalid(_("A key has letters, digits and marks, no blanks."), fields={"key": [_("Not a key.")]})
    if "key" in tidy:
        tidy["key"] = key.strip()
    return tidy


def _site(url: str) -> str:
    return "/".join(url.split("/", 3)[:3]).lower()
