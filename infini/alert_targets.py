"""What an alert target may be: said alike by the form, the API and before anything is sent."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils.translation import gettext as _

from infini.errors import Invalid
from infini.models import AlertKind, AlertTarget, TargetKind


def check_address(kind: str, address: str) -> str:
    """The address as it is kept; raises Invalid when nothing of this kind can be sent to it."""
    address = address.strip()
    if kind == TargetKind.EMAIL:
        _check_email(address)
    else:
        _check_url(address)
    return address


def check_kinds(kinds: Any) -> list[str]:
    """Each kind once, in the order of the table; raises Invalid when one is none of ours."""
    if not isinstance(kinds, list) or any(kind not in AlertKind.values for kind in kinds):
        raise _refused("kinds", _("A list of these: %(kinds)s.") % {"kinds": ", ".join(AlertKind.values)})
    return [kind for kind in AlertKind.values if kind in kinds]


def check_name(name: str, *, besides: AlertTarget | None = None) -> str:
    """A name nothing else has, whatever the case."""
    others = AlertTarget.objects.filter(name__iexact=name)
    if (others.exclude(pk=besides.pk) if besides else others).exists():
        raise _refused("name", _("This name is already taken."))
    return name


def checked(values: Mapping[str, Any], *, before: AlertTarget | None) -> dict[str, Any]:
    """``values`` of a new target, or of ``before`` as it is to be; raises Invalid."""
    kind = values.get("kind", before.kind if before else TargetKind.WEBHOOK)
    address = values.get("address", before.address if before else "")
    result = dict(values)
    if "address" in values or "kind" in values:
        result["address"] = check_address(kind, address)
    if "kinds" in values:
        result["kinds"] = check_kinds(values["kinds"])
    if "name" in values:
        result["name"] = check_name(values["name"], besides=before)
    return result


def _check_email(address: str) -> None:
    try:
        validate_email(address)
    except ValidationError:
        raise _refused("address", _("Enter an e-mail address.")) from None


def _check_url(address: str) -> None:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise _refused("address", _("This is no address of a web server.")) from None
    if not usable or any(letter.isspace() or not letter.isprintable() for letter in address):
        raise _refused("address", _("Enter an address that begins with http:// or https://."))
    if parts.username is not None or parts.password is not None:
        raise _refused("address", _("An address holds no account; use the signature key."))


def _refused(field: str, text: str) -> Invalid:
    return Invalid(text, fields={field: [text]})
