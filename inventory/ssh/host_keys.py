"""What people do about host keys: look at what a server offers, confirm the first, pin another in its place.

Each is an event. What a connection does with them is in ``pins``.
"""

import base64
from dataclasses import dataclass

import paramiko
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext

from infini import events
from infini.errors import Conflict, Forbidden, Invalid
from inventory.models import Server
from inventory.ssh import connections
from inventory.ssh.access import SshAccess
from inventory.ssh.pins import fingerprint, note_offered, pin_first

SCAN_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class OfferedKey:
    """What a server identifies itself with now."""

    line: str
    kind: str
    fingerprint: str


@dataclass(frozen=True)
class HostKey:
    """What is known of a server's key. ``state``: "none" seen yet, "unconfirmed", "pinned", or "changed": then
    everything over SSH is refused until it is pinned anew."""

    server_id: int
    state: str
    host_key: str
    fingerprint: str
    offered_host_key: str
    offered_fingerprint: str


def host_key_of(server: Server) -> HostKey:
    pinned, offered = server.host_key, server.host_key_offered
    states = {(False, False): "none", (False, True): "unconfirmed", (True, False): "pinned", (True, True): "changed"}
    state = states[bool(pinned), bool(offered)]
    return HostKey(server.pk, state, pinned, fingerprint(pinned), offered, fingerprint(offered))


def check_host_key(line: str) -> str:
    """``line`` as it is stored ("type base64"); raises Invalid."""
    kind, _, rest = line.strip().partition(" ")
    encoded = rest.strip().split(" ")[0]
    try:
        key = paramiko.PKey.from_type_string(kind, base64.b64decode(encoded, validate=True))
    except Exception:  # noqa: BLE001  (a parser of foreign bytes fails in many ways)
        text = gettext("This is no public key as OpenSSH writes it: its type and its base64 text.")
        raise Invalid(text, fields={"host_key": [text]}) from None
    return f"{key.get_name()} {key.get_base64()}"


def scan(access: SshAccess, timeout_seconds: float = SCAN_TIMEOUT_SECONDS) -> OfferedKey:
    """Ask the server for its key without logging in to it; raises SshError."""
    line = connections.offered_host_key(access, timeout_seconds)
    return OfferedKey(line, line.partition(" ")[0], fingerprint(line))


def look(server: Server) -> HostKey:
    """Ask ``server`` for its key now and note what it offers; raises SshError. Blocks for some seconds at most."""
    access = SshAccess.of(server)
    line = scan(access).line
    if line != server.host_key:
        note_offered(access, line)
    elif server.host_key_offered:
        Server.objects.filter(pk=server.pk, host_key=line).update(host_key_offered="")
    server.refresh_from_db(fields=["host_key", "host_key_offered"])
    return host_key_of(server)


def confirm_host_key(server: Server, key: str, *, by: events.Actor) -> None:
    """Pin the first ``key`` of ``server``, which ``by`` compared; raises Invalid, Conflict when another is pinned."""
    line = check_host_key(key)
    if not pin_first(server.pk, line, by=by):
        raise Conflict(
            gettext("A host key of %(server)s is pinned already; pinning another takes an administrator.")
            % {"server": server}
        )
    server.host_key, server.host_key_offered = line, ""


def repin_host_key(server: Server, key: str, *, by: events.Actor) -> None:
    """Pin ``key`` in place of the one ``server`` was loaded with.

    Raises Forbidden unless ``by`` holds inventory.repin_server, Conflict when the pin was changed meanwhile.
    """
    if by is None or not by.has_perm("inventory.repin_server"):
        raise Forbidden(gettext("Pinning another host key takes an administrator."))
    line = check_host_key(key)
    before = server.host_key
    with transaction.atomic():
        rows = Server.objects.filter(pk=server.pk, host_key=before)
        if not rows.update(host_key=line, host_key_offered="", version=F("version") + 1):
            raise Conflict(
                gettext("The pinned host key of %(server)s was changed meanwhile. Load it again.") % {"server": server}
            )
        data = {"before": fingerprint(before), "fingerprint": fingerprint(line)}
        events.record("server.host_key_repinned", server, by=by, data=data)
    server.host_key, server.host_key_offered = line, ""


def pin(server: Server, *, by: events.Actor, key: str = "", offered_fingerprint: str = "", name: str = "") -> None:
    """Confirm the first key of ``server``, or pin another, whichever it is.

    Either ``key`` is given, or the fingerprint of what was offered last, so that nobody pins what he did not see.
    Pinning another takes the server's ``name`` typed as well. Raises Invalid, Conflict, Forbidden.
    """
    line = check_host_key(key) if key else _offered(server, offered_fingerprint)
    if line == server.host_key:
        return
    if not server.host_key:
        confirm_host_key(server, line, by=by)
        return
    if by is None or not by.has_perm("inventory.repin_server"):
        raise Forbidden(gettext("Pinning another host key takes an administrator."))
    if name != server.name:
        text = gettext("Type the server's name, %(name)s, to pin another host key.") % {"name": server.name}
        raise Invalid(text, fields={"name": [text]})
    repin_host_key(server, line, by=by)


def _offered(server: Server, offered_fingerprint: str) -> str:
    if not offered_fingerprint:
        text = gettext("Give the fingerprint that was offered, or the host key itself.")
        raise Invalid(text, fields={"fingerprint": [text]})
    if server.host_key and fingerprint(server.host_key) == offered_fingerprint:
        return server.host_key
    if fingerprint(server.host_key_offered) != offered_fingerprint:
        raise Conflict(
            gettext("%(server)s does not offer this key now. Ask it for its key again.") % {"server": server}
        )
    return server.host_key_offered
