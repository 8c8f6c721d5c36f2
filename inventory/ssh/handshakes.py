"""The beginning of a connection: keys are exchanged and an account is logged in, in the thread that wants it.

paramiko has its reading thread do that, with the caller waking ten times a second to look; of many logins at once that
is most of what they cost. Here the caller reads the answers itself, and the thread begins once there is a login. What
is sent goes out in as few pieces as the protocol allows: our version with our offer of algorithms, and the request
for the account together with the one for the service that takes it.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_DEBUG,
    MSG_DISCONNECT,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_UNIMPLEMENTED,
    cMSG_UNIMPLEMENTED,
)
from paramiko.packet import NeedRekeyException
from paramiko.ssh_exception import MessageOrderError

from inventory.ssh.packets import Packetizer, wait_at_most

# What breaks a connection from below: paramiko's own errors and those of the socket.
BROKEN = (paramiko.SSHException, OSError, EOFError)

_USER_AUTHENTICATION = paramiko.Message().add_string("ssh-userauth").asbytes()
_KEY_EXCHANGE = range(30, 42)  # the messages of whichever exchange was agreed on
# What a channel does with its messages: named, so that a subclass of paramiko's may do it otherwise.
FOR_CHANNELS = {
    MSG_CHANNEL_SUCCESS: "_request_success",
    MSG_CHANNEL_FAILURE: "_request_failed",
    MSG_CHANNEL_DATA: "_feed",
    MSG_CHANNEL_EXTENDED_DATA: "_feed_extended",
    MSG_CHANNEL_WINDOW_ADJUST: "_window_adjust",
    MSG_CHANNEL_REQUEST: "_handle_request",
    MSG_CHANNEL_EOF: "_handle_eof",
    MSG_CHANNEL_CLOSE: "_handle_close",
}

# Ciphers that authenticate too: one pass over each packet instead of two. paramiko would ask for them last.
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_OTHER_CIPHERS = (name for name in paramiko.Transport._preferred_ciphers if name not in _FIRST_CIPHERS)

# What a login costs the server is mostly its key exchange: OpenSSH computes curve25519 in plain C and P-256 with the
# processor's own instructions, 5 ms of a server's time less. An exchange that also holds against quantum computers
# stays first.
_FIRST_EXCHANGE = "ecdh-sha2-nistp256"
_HYBRID_EXCHANGES = tuple(name for name in paramiko.Transport._preferred_kex if name.startswith(("mlkem", "sntrup")))
_OTHER_EXCHANGES = (
    name for name in paramiko.Transport._preferred_kex if name not in (*_HYBRID_EXCHANGES, _FIRST_EXCHANGE)
)


@functools.lru_cache(maxsize=16)
def _host_keys_asked_for(pinned: str) -> tuple[str, ...]:
    """Of several keys a server offers the one we ask for first: ask for the kind that is pinned."""
    signatures = ("rsa-sha2-512", "rsa-sha2-256") if pinned == "ssh-rsa" else (pinned,)
    kinds = sorted(paramiko.Transport._preferred_keys, key=lambda kind: kind not in signatures)
    return (*kinds, *(f"{kind}-cert-v01@openssh.com" for kind in kinds))


class Handshake(paramiko.Transport):
    """A connection up to its login, and how its messages are taken one after the other."""

    _preferred_kex = preferred_kex = (*_HYBRID_EXCHANGES, _FIRST_EXCHANGE, *_OTHER_EXCHANGES)
    _preferred_ciphers = preferred_ciphers = (*_FIRST_CIPHERS, *_OTHER_CIPHERS)
    preferred_macs = paramiko.Transport._preferred_macs
    preferred_pubkeys = paramiko.Transport._preferred_pubkeys
    preferred_compression = paramiko.Transport._preferred_compression
    preferred_keys = _host_keys_asked_for("")

    packetizer: Packetizer
    _expected_packet: tuple[int, ...]
    _shared_secret = b""  # as it goes into the keys

    def shake_hands(self, pinned_kind: str, until: float) -> None:
        """Agree on keys with whoever answers, by ``until`` of the monotonic clock; raises one of BROKEN."""
        self.preferred_keys = _host_keys_asked_for(pinned_kind)
        self.active = True
        self.packetizer.begin_login(until)
        wait_at_most(self.sock, max(0.001, until - time.monotonic()))
        self.packetizer.write_all(f"{self.local_version}\r\n".encode())
        self._expect_packet(MSG_KEXINIT)
        with self.broken_when_it_fails():
            self._send_kex_init()
            self._check_banner()
            self._take_until(lambda: self.initial_kex_done)

    def ask_by_key(self, username: str, key: paramiko.PKey) -> list[str]:
        """Log in; returns what is wanted besides. Raises AuthenticationException, or what broke the connection."""
        return self._ask(lambda login, answered: login.auth_publickey(username, key, answered))

    def ask_by_password(self, username: str, password: str) -> list[str]:
        """As ``ask_by_key``; the password is the answer as well where the server asks for it as a question."""
        try:
            return self._ask(lambda login, answered: login.auth_password(username, password, answered))
        except paramiko.BadAuthenticationType as error:
            if "keyboard-interactive" not in error.allowed_types:
                raise

        def answer(_title: str, _text: str, questions: list[tuple[str, bool]]) -> list[str]:
            if len(questions) > 1:
                raise paramiko.SSHException("more is asked than a password")
            return [password for _question in questions]

        return self._ask(lambda login, answered: login.auth_interactive(username, answer, answered))

    def _ask(self, ask: Callable[[AuthHandler, threading.Event], object]) -> list[str]:
        answered = threading.Event()
        login = self.auth_handler = _Login(self)
        with self.broken_when_it_fails():
            ask(login, answered)
            self._take_until(answered.is_set)
        still_wanted: list[str] = login.wait_for_response(answered)
        return still_wanted

    def _take_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self.take_message()

    def broken_when_it_fails(self) -> "_Broken":
        return _Broken(self)

    def broke(self) -> None:
        """Nothing more can be said here."""
        self.active = False
        self.packetizer.close()
        self.sock.close()

    def take_message(self) -> None:
        """Wait for the next message and do what it asks for; raises one of BROKEN, EOFError at the end."""
        if self.packetizer.need_rekey() and not self.in_kex:
            self._send_kex_init()
        try:
            kind, message = self.packetizer.read_message()
        except NeedRekeyException:
            return
        self.deal_with(kind, message)

    def deal_with(self, kind: int, message: paramiko.Message) -> None:
        """Do what a message asks for; raises one of BROKEN, EOFError when it is the last."""
        if kind in (MSG_IGNORE, MSG_DEBUG):
            self._enforce_strict_kex(kind)
            return
        if kind == MSG_DISCONNECT:
            raise EOFError
        if self._expected_packet:
            if kind not in self._expected_packet:
                wrong = MessageOrderError if self.agreed_on_strict_kex else paramiko.SSHException
                raise wrong(f"message {kind} came out of turn")
            self._expected_packet = ()
            if kind in _KEY_EXCHANGE:
                self.kex_engine.parse_next(kind, message)
                return
        self._handle(kind, message)

    def _handle(self, kind: int, message: paramiko.Message) -> None:
        if kind in FOR_CHANNELS:
            number = message.get_int()
            channel = self._channels.get(number)
            if channel is not None:
                getattr(channel, FOR_CHANNELS[kind])(message)
            elif number not in self.channels_seen:
                raise paramiko.SSHException("a message for a channel that never was")
            return
        handler = self._handler_table.get(kind)
        if handler is None and self.auth_handler is not None:
            handler = self.auth_handler._handler_table.get(kind)
        if handler is not None:
            handler(message)
        elif kind != MSG_UNIMPLEMENTED:
            answer = paramiko.Message()
            answer.add_byte(cMSG_UNIMPLEMENTED)
            answer.add_int(message.seqno)
            self._send_message(answer)

    # What paramiko calls

    def _log(self, level: int, text: object, *values: object) -> None:
        """What fails is told by whoever asked for it."""

    def _set_K_H(self, secret: Any, digest: bytes) -> None:  # noqa: N802
        super()._set_K_H(secret, digest)
        encoded = paramiko.Message()
        self._add_K(encoded)
        self._shared_secret = encoded.asbytes()

    def _compute_key(self, letter: str, size: int) -> bytes:
        """RFC 4253, 7.2. paramiko encodes the secret anew for each of six keys."""
        digest = self.kex_engine.hash_algo
        seed = self._shared_secret + self.H
        key: bytes = digest(seed + letter.encode() + self.session_id).digest()
        while len(key) < size:
            key += digest(seed + key).digest()
        return key[:size]


class _Broken:
    """What fails within breaks the connection, and is one of BROKEN; a login that is refused leaves it as it is."""

    def __init__(self, handshake: Handshake) -> None:
        self._handshake = handshake

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        self._handshake.broke()
        if isinstance(error, Exception) and not isinstance(error, BROKEN):
            raise paramiko.SSHException("what came cannot be understood") from None


class _Login(AuthHandler):
    """One attempt to log in. Its request goes out with the one for the service that takes it: who refuses the service
    ends the connection. A request signed by RSA waits, for the server tells with the service which kind it takes."""

    _has_asked = False

    def _request_auth(self) -> None:
        super()._request_auth()
        if self.private_key is None or self.private_key.get_name() != "ssh-rsa":
            self._parse_service_accept(paramiko.Message(_USER_AUTHENTICATION))

    def _parse_service_accept(self, message: paramiko.Message) -> None:
        if not self._has_asked:
            self._has_asked = True
            super()._parse_service_accept(message)
