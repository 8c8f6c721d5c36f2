"""Whom we talk to: the pinned host key of a server, and what happens when another is offered.

``Server.host_key`` is the pin, an OpenSSH line; ``Server.host_key_offered`` what was last offered instead of it,
observed by whoever connected and shown until the pinned key answers again.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

import paramiko
from django.conf import settings
from django.db import transaction
from django.db.models import F

from infini import events
from infini.errors import Conflict, Forbidden, Invalid
from inventory.models import Server
from inventory.ssh import logins
from inventory.ssh.access import SshAccess
from inventory.ssh.errors import HostKeyChanged, HostKeyUnknown


@dataclass(frozen=True)
class OfferedKey:
    """What a server identifies itself with now."""

    line: str
    kind: str
    fingerprint: str


def fingerprint(line: str) -> str:
    """SHA256 as ``ssh-keygen -l`` shows it; empty for no key."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(_blob(line)).digest()).decode().rstrip('=')}" if line else ""


def _blob(line: str) -> bytes:
    try:
        return base64.b64decode(line.split(" ")[1], validate=True)
    except (IndexError, binascii.Error):
        return b""


def check_host_key(line: str) -> str:
    """``line`` as it is stored ("type base64"); raises Invalid."""
    kind, _, rest = line.strip().partition(" ")
    encoded = rest.strip().split(" ")[0]
    try:
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(encoded, validate=True))
    except Exception:  # noqa: BLE001  (a parser of foreign bytes fails in many ways)
        text = "This is no public key as OpenSSH writes it: its type and its base64 text."
        raise Invalid(text, fields={"host_key": [text]}) from None
    return f"{key.get_name()} {key.get_base64()}"


def scan(access: SshAccess, timeout_seconds: float = 15.0) -> OfferedKey:
    """Ask the server for its key without logging in; raises SshUnreachable. Over jump hosts see connections."""
    transport = logins.shake_hands(access, logins.Deadline(timeout_seconds))
    try:
        return offered(logins.host_key_of(transport))
    finally:
        transport.shut_down()


def offered(line: str) -> OfferedKey:
    return OfferedKey(line, line.partition(" ")[0], fingerprint(line))


def judge(access: SshAccess, line: str) -> None:
    """Raise HostKeyUnknown or HostKeyChanged unless ``line`` is the pinned key; note what was seen.

    Pins the first key where ``SSH_ACCEPT_NEW_HOST_KEYS`` says so. Uses the database.
    """
    if access.host_key == line:
        if access.offered_host_key:
            Server.objects.filter(pk=access.server_id, host_key=line).update(host_key_offered="")
        return
    print_ = fingerprint(line)
    if access.host_key:
        _note_offered(access, line)
        pinned = fingerprint(access.host_key)
        raise HostKeyChanged(
            f"The host key of {access.server_name} changed: pinned is {pinned}, offered was {print_}. "
            "Nothing was sent to it. If the server was installed anew, an administrator can pin the new key.",
            offered=line,
            fingerprint=print_,
            pinned_fingerprint=pinned,
        )
    if settings.SSH_ACCEPT_NEW_HOST_KEYS and _pin_first(access.server_id, line, by=None):
        return
    _note_offered(access, line)
    raise HostKeyUnknown(
        f"The host key of {access.server_name} is not confirmed yet: it offers {print_}. "
        "Compare it with the server's own and confirm it on the server's page.",
        offered=line,
        fingerprint=print_,
    )


def _note_offered(access: SshAccess, line: str) -> None:
    """Remember the key; an event for each new one that differs from the pin. Repeats change nothing."""
    if access.offered_host_key == line:
        return
    with transaction.atomic():
        rows = Server.objects.filter(pk=access.server_id, host_key=access.host_key)
        if not rows.exclude(host_key_offered=line).update(host_key_offered=line):
            return
        server = Server.objects.only("name").get(pk=access.server_id)
        data = {"pinned": fingerprint(access.host_key), "offered": fingerprint(line)}
        events.record(
            "server.host_key_changed" if access.host_key else "server.host_key_seen", server, by=None, data=data
        )


def _pin_first(server_id: int, line: str, *, by: events.Actor) -> bool:
    with transaction.atomic():
        rows = Server.objects.filter(pk=server_id, host_key="")
        if not rows.update(host_key=line, host_key_offered="", version=F("version") + 1):
            return Server.objects.filter(pk=server_id, host_key=line).exists()
        server = Server.objects.only("name").get(pk=server_id)
        events.record("server.host_key_confirmed", server, by=by, data={"fingerprint": fingerprint(line)})
    return True


def confirm_host_key(server: Server, key: str, *, by: events.Actor) -> None:
    """Pin the first ``key`` of ``server``, which ``by`` compared; raises Invalid, Conflict when another is pinned."""
    line = check_host_key(key)
    if not _pin_first(server.pk, line, by=by):
        raise Conflict(f"A host key of {server} is pinned already; pinning another takes an administrator.")
    server.host_key, server.host_key_offered = line, ""


def repin_host_key(server: Server, key: str, *, by: events.Actor) -> None:
    """Pin ``key`` in place of the one ``server`` was loaded with.

    Raises Forbidden unless ``by`` holds inventory.repin_server, Conflict when the pin was changed meanwhile.
    """
    if by is None or not by.has_perm("inventory.repin_server"):
        raise Forbidden("Pinning another host key takes an administrator.")
    line = check_host_key(key)
    before = server.host_key
    with transaction.atomic():
        rows = Server.objects.filter(pk=server.pk, host_key=before)
        if not rows.update(host_key=line, host_key_offered="", version=F("version") + 1):
            raise Conflict(f"The pinned host key of {server} was changed meanwhile. Load it again.")
        data = {"before": fingerprint(before), "fingerprint": fingerprint(line)}
        events.record("server.host_key_repinned", server, by=by, data=data)
    server.host_key, server.host_key_offered = line, ""
