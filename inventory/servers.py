"""What must hold for a server whoever writes it: its address, its secrets, its card; and how it is read."""

import ipaddress
import re
from io import StringIO

import paramiko
from cryptography import x509
from django.db.models import BooleanField, ExpressionWrapper, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from infini import events, records
from infini.errors import Invalid
from inventory.models import Brand, Card, Server
from inventory.querysets import ServerQuerySet

SECRETS = ("password", "private_key", "passphrase", "agent_token")
_KEY_KINDS = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
_HOST_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_MAX_LABELS, _MAX_LABEL_NAME, _MAX_LABEL_TEXT = 64, 63, 255


def readable_servers() -> ServerQuerySet:
    """Servers as people read them: with status, and with ``<secret>_set`` in place of each secret, left unread."""
    is_set = {f"{name}_set": ExpressionWrapper(~Q(**{name: ""}), output_field=BooleanField()) for name in SECRETS}
    rows = Server.objects.with_status().annotate(**is_set).defer(*SECRETS, "host_key", "host_key_offered", "figures")
    return rows.select_related("environment", "brand", "card")


def check_host(host: str) -> str:
    """``host`` as it is stored, when it is an IP address or a host name; raises Invalid."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.rstrip(".").split(".")
    named = all(_HOST_LABEL.fullmatch(label) for label in labels) and not labels[-1].isdigit()
    if not named or len(host) > 253:
        raise Invalid(_("This is neither an IP address nor a host name."), fields={"host_ip": [str(_HOST_HELP)]})
    return host


_HOST_HELP = gettext_lazy("Enter an IP address or a host name, without port or scheme.")


def parse_private_key(text: str, passphrase: str) -> paramiko.PKey:
    """The key in ``text``; raises paramiko.PasswordRequiredException, or SSHException for whatever else is wrong."""
    for kind in _KEY_KINDS:
        try:
            return kind.from_private_key(StringIO(text), password=passphrase or None)
        except paramiko.PasswordRequiredException:
            raise
        except Exception:  # noqa: BLE001, S112  (a parser of foreign bytes fails in many ways; the next kind may fit)
            continue
    raise paramiko.SSHException("No kind of key fits.")


def check_private_key(text: str, passphrase: str, *, field: str = "private_key") -> str:
    """The key as it is stored, when it can be used with ``passphrase``; raises Invalid about ``field``."""
    key = text.replace("\r\n", "\n").strip() + "\n"
    try:
        parse_private_key(key, passphrase)
    except paramiko.PasswordRequiredException:
        raise Invalid(_("The private key needs its passphrase."), fields={field: [str(_NEEDS_PASSPHRASE)]}) from None
    except paramiko.SSHException:
        raise Invalid(_("The private key cannot be used."), fields={field: [str(_UNUSABLE_KEY)]}) from None
    return key


_NEEDS_PASSPHRASE = gettext_lazy("This key is encrypted: give its passphrase too.")
_UNUSABLE_KEY = gettext_lazy("This is no Ed25519, ECDSA or RSA private key, or the passphrase does not open it.")


def check_agent_token(token: str) -> str:
    """``token`` when it can travel in an HTTP header; raises Invalid."""
    if not _PRINTABLE.fullmatch(token):
        text = _("A token is made of printable ASCII characters, without spaces.")
        raise Invalid(_("The agent token cannot be used."), fields={"agent_token": [text]})
    return token


def check_certificate(pem: str) -> str:
    """``pem`` when it is a certificate or empty; raises Invalid."""
    if pem:
        try:
            x509.load_pem_x509_certificate(pem.encode())
        except ValueError:
            text = _("This is no certificate in PEM form.")
            raise Invalid(text, fields={"agent_certificate": [text]}) from None
    return pem


def check_labels(labels: object) -> dict[str, str]:
    """``labels`` when they are a flat object of short strings; raises Invalid."""
    problem = _label_problem(labels)
    if problem:
        raise Invalid(problem, fields={"labels": [problem]})
    return labels  # type: ignore[return-value]


def _label_problem(labels: object) -> str:
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        return _("Labels are an object of names and strings.")
    if len(labels) > _MAX_LABELS:
        return _("At most %(n)s labels.") % {"n": _MAX_LABELS}
    for name, text in labels.items():
        if not 0 < len(name.strip()) <= _MAX_LABEL_NAME or len(text) > _MAX_LABEL_TEXT:
            return _("A label's name has 1 to %(name)s characters, its text at most %(text)s.") % {
                "name": _MAX_LABEL_NAME,
                "text": _MAX_LABEL_TEXT,
            }
        if not (name + text).isprintable():
            return _("Labels are made of printable characters.")
    return ""


MOST_JUMPS = 3


def check_jump(server: Server | None, jump: Server | None) -> Server | None:
    """``jump`` when ``server`` can be reached over it: no circle, no long way; raises Invalid. Queries each hop."""
    seen = [server.pk] if server and server.pk else []
    hops = 0
    at = jump
    while at is not None:
        hops += 1
        if at.pk in seen:
            raise _no_jump(_("The way over this jump host leads back to the server itself."))
        if hops > MOST_JUMPS:
            raise _no_jump(_("A server is reached over at most %(n)s jump hosts.") % {"n": MOST_JUMPS})
        seen.append(at.pk)
        at = Server.objects.only("name", "jump").filter(pk=at.jump_id).first() if at.jump_id else None
    return jump


def _no_jump(text: str) -> Invalid:
    return Invalid(text, fields={"jump_id": [text]})


def brand_for(*, brand: Brand | None, card: Card | None, brand_given: bool) -> Brand | None:
    """The brand a server with ``card`` has: the card's, unless another was given; then raises Invalid."""
    if card is None:
        return brand
    if brand_given and brand != card.brand:
        text = _("The card %(card)s is of the brand %(brand)s.") % {"card": card, "brand": card.brand}
        raise Invalid(text, fields={"brand_id": [text]})
    return card.brand


def set_maintenance(server: Server, *, on: bool, by: events.Actor) -> None:
    """Have ``server`` left alone by schedules, alerts and automatic action, or not any more."""
    server.maintenance = on
    records.change(server, {"maintenance"}, by=by)
