"""The pinned host key of a server against the one that is offered; asked by every connection.

``Server.host_key`` is the pin, an OpenSSH line; ``Server.host_key_offered`` what was last offered instead of it,
observed by whoever connected and shown until the pinned key answers again.
"""

import base64
import binascii
import hashlib

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils.translation import gettext_noop

from infini import events
from inventory.models import Server
from inventory.ssh.access import SshAccess
from inventory.ssh.errors import HostKeyChanged, HostKeyUnknown


def fingerprint(line: str) -> str:
    """SHA256 as ``ssh-keygen -l`` shows it; empty for no key."""
    return f"SHA256:{base64.b64encode(hashlib.sha256(_blob(line)).digest()).decode().rstrip('=')}" if line else ""


def _blob(line: str) -> bytes:
    try:
        return base64.b64decode(line.split(" ")[1], validate=True)
    except (IndexError, binascii.Error):
        return b""


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
        note_offered(access, line)
        pinned = fingerprint(access.host_key)
        raise HostKeyChanged(
            gettext_noop(
                "The host key of %(server_name)s changed: pinned is %(pinned)s, offered was %(print)s. "
                "Nothing was sent to it. If the server was installed anew, an administrator can pin the new key."
            )
            % {"server_name": access.server_name, "pinned": pinned, "print": print_},
            offered=line,
            fingerprint=print_,
            pinned_fingerprint=pinned,
        )
    if settings.SSH_ACCEPT_NEW_HOST_KEYS and pin_first(access.server_id, line, by=None):
        return
    note_offered(access, line)
    raise HostKeyUnknown(
        gettext_noop(
            "The host key of %(server_name)s is not confirmed yet: it offers %(print)s. "
            "Compare it with the server's own and confirm it on the server's page."
        )
        % {"server_name": access.server_name, "print": print_},
        offered=line,
        fingerprint=print_,
    )


def note_offered(access: SshAccess, line: str) -> None:
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


def pin_first(server_id: int, line: str, *, by: events.Actor) -> bool:
    with transaction.atomic():
        rows = Server.objects.filter(pk=server_id, host_key="")
        if not rows.update(host_key=line, host_key_offered="", version=F("version") + 1):
            return Server.objects.filter(pk=server_id, host_key=line).exists()
        server = Server.objects.only("name").get(pk=server_id)
        events.record("server.host_key_confirmed", server, by=by, data={"fingerprint": fingerprint(line)})
    return True
