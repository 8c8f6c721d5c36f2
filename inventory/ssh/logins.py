"""From an address to a connection that is logged in: dial, key exchange, the host's key, the account's login.

The host key is judged before anything secret is sent.
"""

import errno
import functools
import ipaddress
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any

import paramiko
from django.conf import settings
from django.utils.translation import gettext_noop

from inventory.servers import parse_private_key
from inventory.ssh.access import SshAccess
from inventory.ssh.errors import SshError, SshKeyUnusable, SshLoginRefused, SshUnreachable
from inventory.ssh.handshakes import BROKEN
from inventory.ssh.transports import Transport

_REFUSALS = {
    errno.ECONNREFUSED: gettext_noop("%(place)s refuses the connection."),
    errno.EHOSTUNREACH: gettext_noop("%(place)s cannot be reached: there is no route to the host."),
    errno.ENETUNREACH: gettext_noop("%(place)s cannot be reached: there is no route to its network."),
}
# Of each way to log in: what the server says to it.
_SAID_NO = {
    "key": {
        "unknown": gettext_noop("%(server_name)s takes no key for the account %(username)s."),
        "refused": gettext_noop("%(server_name)s refuses the account %(username)s with its key."),
        "more": gettext_noop("%(server_name)s wants more than the key of the account %(username)s."),
    },
    "password": {
        "unknown": gettext_noop("%(server_name)s takes no password for the account %(username)s."),
        "refused": gettext_noop("%(server_name)s refuses the account %(username)s with its password."),
        "more": gettext_noop("%(server_name)s wants more than the password of the account %(username)s."),
    },
}
# Names are looked up here, so that a dead name server costs the timeout and not half a minute.
_resolvers = ThreadPoolExecutor(8, thread_name_prefix="ssh-resolve")


class Deadline:
    """A moment that several waits share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self.at - time.monotonic())


def log_in(access: SshAccess, deadline: Deadline, judge_host_key: Callable[[str], None], sock: Any = None) -> Transport:
    """A connection as ``access`` says, over ``sock`` where there is a jump host; raises SshError.

    ``judge_host_key`` gets the key the server offers, as an OpenSSH line, and raises what speaks against it.
    """
    key = load_key(access) if access.private_key else None
    transport = shake_hands(access, deadline, sock)
    try:
        judge_host_key(host_key_of(transport))
        _authenticate(transport, access, key, deadline)
    except BaseException:
        transport.shut_down()
        raise
    transport.begin_reading()
    transport.set_keepalive(settings.SSH_KEEPALIVE_SECONDS)
    return transport


def load_key(access: SshAccess) -> paramiko.PKey:
    """The private key of ``access``; raises SshKeyUnusable."""
    try:
        return _parse_key(access.private_key, access.passphrase)
    except paramiko.PasswordRequiredException:
        raise SshKeyUnusable(
            gettext_noop("The private key of %(server_name)s is encrypted; enter its passphrase.")
            % {"server_name": access.server_name}
        ) from None
    except paramiko.SSHException:
        raise SshKeyUnusable(
            gettext_noop(
                "The private key of %(server_name)s cannot be used: "
                "it is no Ed25519, ECDSA or RSA key, or the passphrase does not open it."
            )
            % {"server_name": access.server_name}
        ) from None


# Kept, because opening an encrypted key takes a good part of a second on purpose.
_parse_key = functools.lru_cache(maxsize=256)(parse_private_key)


def shake_hands(access: SshAccess, deadline: Deadline, sock: Any = None) -> Transport:
    """An encrypted connection to whoever answers, nothing judged yet; raises SshUnreachable."""
    sock = sock or _dial(access, deadline)
    transport = Transport(sock)
    try:
        transport.shake_hands(access.host_key.partition(" ")[0], deadline.at)
    except paramiko.ssh_exception.IncompatiblePeer as error:
        raise SshUnreachable(
            gettext_noop("%(server_name)s offers only outdated SSH algorithms (%(error)s); update its SSH server.")
            % {"server_name": access.server_name, "error": _reason(error)},
            code="ssh_incompatible",
        ) from None
    except BROKEN as error:
        raise SshUnreachable(_no_handshake(access, error, deadline)) from None
    return transport


def host_key_of(transport: Transport) -> str:
    """The key the server has proven to hold, as an OpenSSH line."""
    key = transport.get_remote_server_key()
    return f"{key.get_name()} {key.get_base64()}"


def _at(access: SshAccess, deadline: Deadline | None = None) -> dict[str, Any]:
    """What a sentence about the server names: where it is, and how long was waited."""
    place = f"{access.server_name} ({access.host} port {access.port})"
    return {"place": place} | ({"n": deadline.seconds} if deadline else {})


def _reason(error: Exception) -> str:
    return str(error).removeprefix("Incompatible ssh peer (").rstrip(")")[:100]


def _no_handshake(access: SshAccess, error: Exception, deadline: Deadline) -> str:
    told = str(error)
    if deadline.left() <= 0 or "timed out" in told:
        return gettext_noop("%(place)s did not answer as an SSH server within %(n)g s.") % _at(access, deadline)
    no_greeting = told.removeprefix("Error reading SSH protocol banner")
    ended = no_greeting == "" or (no_greeting != told and "[Errno" in no_greeting)
    if ended or isinstance(error, EOFError | OSError) or told == "Negotiation failed.":
        return gettext_noop("%(place)s closed the connection before the login.") % _at(access)
    return gettext_noop("What answers at %(place)s is no SSH server we understand.") % _at(access)


def _dial(access: SshAccess, deadline: Deadline) -> socket.socket:
    refusal: OSError | None = None
    for family, kind, protocol, _name, address in _resolve(access, deadline):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(max(0.001, deadline.left()))
            _tune(sock)
            sock.connect(address)
        except OSError as error:
            sock.close()
            refusal = refusal or error
            continue
        return sock
    if isinstance(refusal, TimeoutError):
        raise SshUnreachable(gettext_noop("%(place)s did not answer within %(n)g s.") % _at(access, deadline))
    number = refusal.errno if refusal else None
    said = _REFUSALS.get(number or 0, gettext_noop("%(place)s cannot be reached: %(why)s."))
    raise SshUnreachable(said % (_at(access) | {"why": refusal.strerror if refusal else "no address"}))


def _resolve(access: SshAccess, deadline: Deadline) -> list[tuple[Any, ...]]:
    look_up = functools.partial(socket.getaddrinfo, access.host, access.port, type=socket.SOCK_STREAM)
    try:
        ipaddress.ip_address(access.host)
        return look_up()
    except ValueError:
        pass
    try:
        return _resolvers.submit(look_up).result(timeout=deadline.left())
    except (OSError, UnicodeError, Late):
        raise SshUnreachable(
            gettext_noop("The name %(host)s of %(server_name)s cannot be resolved.")
            % {"host": access.host[:100], "server_name": access.server_name}
        ) from None


def _tune(sock: socket.socket) -> None:
    """Small packets go out at once; the kernel finds out when the other side is gone."""
    idle = max(1, int(settings.SSH_KEEPALIVE_SECONDS))
    for level, option, value in (
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", idle),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", idle),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 4000 * idle),
    ):
        if hasattr(socket, option):
            sock.setsockopt(level, getattr(socket, option), value)


def _authenticate(transport: Transport, access: SshAccess, key: paramiko.PKey | None, deadline: Deadline) -> None:
    """By key, by password (asked for as such or as a question), or by both where the server wants both."""
    names = {"server_name": access.server_name, "username": access.username}
    refused: list[str] = []
    for what, attempt in _attempts(transport, access, key):
        try:
            still_wanted = attempt()
        except paramiko.BadAuthenticationType:
            refused.append(_SAID_NO[what]["unknown"] % names)
            continue
        except paramiko.AuthenticationException as error:
            if not transport.is_active():
                raise _login_broke(access, error, deadline) from None
            refused.append(_SAID_NO[what]["refused"] % names)
            continue
        except BROKEN as error:
            raise _login_broke(access, error, deadline) from None
        if not still_wanted:
            return
        refused.append(_SAID_NO[what]["more"] % names)
    raise SshLoginRefused(" ".join(refused))


def _attempts(
    transport: Transport, access: SshAccess, key: paramiko.PKey | None
) -> list[tuple[str, Callable[[], list[str]]]]:
    attempts: list[tuple[str, Callable[[], list[str]]]] = []
    if key is not None:
        attempts.append(("key", lambda: transport.ask_by_key(access.username, key)))
    if access.password:
        attempts.append(("password", lambda: transport.ask_by_password(access.username, access.password)))
    return attempts


def _login_broke(access: SshAccess, error: Exception, deadline: Deadline) -> SshError:
    if deadline.left() <= 0:
        return SshUnreachable(
            gettext_noop("%(place)s did not answer the login within %(n)g s.") % _at(access, deadline)
        )
    if isinstance(error, paramiko.SSHException) and "pubkey" in str(error):
        return SshLoginRefused(
            gettext_noop("%(server_name)s accepts no signature this kind of key can give.")
            % {"server_name": access.server_name}
        )
    return SshUnreachable(gettext_noop("%(place)s closed the connection during the login.") % _at(access))
