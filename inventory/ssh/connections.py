"""One shared connection for each server, account and credentials in this process, and the channels on it.

    with connected(SshAccess.of(server)) as connection:
        shell = connection.open_shell(80, 24, on_data=..., on_end=...)

A connection is one or more logins ("links"): another is made when the server opens no more sessions on the
first (MaxSessions), or when one has died. A link is closed when no channel used it for ``SSH_IDLE_SECONDS``.
Everything here may be called from any thread and waits for the network, so never from an event loop; what may be
called from there says so (``ShellChannel``).
"""

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from django.conf import settings
from django.utils.translation import gettext_noop

from inventory.ssh import pins
from inventory.ssh.access import SshAccess
from inventory.ssh.channels import Channel, StreamChannel
from inventory.ssh.errors import SshConnectionLost, SshError, SshUnreachable
from inventory.ssh.handshakes import BROKEN
from inventory.ssh.logins import Deadline, host_key_of, log_in, shake_hands
from inventory.ssh.shells import SHELL_WINDOW_BYTES, ShellChannel, ShellEnd, start_shell
from inventory.ssh.transports import WINDOW_BYTES, ChannelRefused, Transport

CONNECT_TIMEOUT_SECONDS = 30.0
# A link is given up for a new one after so many channels: paramiko keeps a note of each.
MOST_CHANNELS = 2000
# For how long a server that opened no further channel is not asked again.
ASK_AGAIN_SECONDS = 10.0
# How long a link that was there before may take to open a channel before a new one is tried.
STALE_AFTER_SECONDS = 10.0

C = TypeVar("C", bound=Channel)


@contextlib.contextmanager
def connected(access: SshAccess, connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> "Iterator[Connection]":
    """The shared connection, logged in; raises SshError. Channels opened on it live on after the block."""
    connection = _connection(access)
    connection.ensure(Deadline(connect_timeout_seconds))
    yield connection


def offered_host_key(access: SshAccess, timeout_seconds: float) -> str:
    """The key that answers at ``access`` now, as an OpenSSH line, without logging in there; raises SshError."""
    deadline = Deadline(timeout_seconds)
    transport = shake_hands(access, deadline, _tunnel_to(access, deadline))
    try:
        return host_key_of(transport)
    finally:
        transport.shut_down()


def _tunnel_to(access: SshAccess, deadline: Deadline) -> Channel | None:
    """The way there over its jump host, None where there is none; raises SshError."""
    if not access.jump:
        return None
    with connected(access.jump, max(0.001, deadline.left())) as hop:
        return hop.open_tunnel(access.host, access.port, timeout_seconds=max(0.001, deadline.left()))


class Connection:
    """All links to one server as one account. Get it from ``connected``."""

    def __init__(self, access: SshAccess) -> None:
        self.access = access
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._logging_in = threading.Lock()
        self._logins = 0
        self._failure: SshError | None = None

    def open_stream(
        self,
        receive: Callable[[str, bytes], None],
        end: Callable[[], None],
        *,
        timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> StreamChannel:
        """A session channel that hands over what arrives; see StreamChannel. Raises SshError."""
        return self._open(StreamChannel, receive, end, timeout_seconds=timeout_seconds)

    def open_shell(
        self,
        columns: int,
        rows: int,
        *,
        on_data: Callable[[bytes], None],
        on_end: Callable[[ShellEnd], None],
        term: str = "xterm-256color",
        environment: Mapping[str, str] | None = None,
        command: str = "",
        loop: asyncio.AbstractEventLoop | None = None,
        timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    ) -> ShellChannel:
        """A login shell, or ``command``, in a terminal of its own; see ShellChannel for what the callbacks keep to.

        ``environment`` is offered to the server, which takes what its AcceptEnv names. ``loop`` reads the connection
        from now on, and calls the callbacks. Raises SshError.
        """
        deadline = Deadline(timeout_seconds)
        shell = ShellChannel(on_data, on_end)
        channel = self._open(
            StreamChannel, shell.receive, shell.end, timeout_seconds=timeout_seconds, window_bytes=SHELL_WINDOW_BYTES
        )
        shell.attach(channel)
        if loop:
            channel.transport.reading.move_to(loop)
        try:
            start_shell(channel, columns, rows, term, environment or {}, deadline, command)
        except BROKEN:
            raise SshConnectionLost(
                gettext_noop("The connection to %(server_name)s was lost.") % {"server_name": self.access.server_name}
            ) from None
        except TimeoutError:
            channel.close()
            raise SshUnreachable(
                gettext_noop("%(server_name)s refuses to open a terminal for this account.")
                % {"server_name": self.access.server_name}
            ) from None
        return shell

    def open_channel(self, *, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> Channel:
        """A session channel that is read like a socket, for SFTP. Raises SshError."""
        return self._open(Channel, timeout_seconds=timeout_seconds)

    def open_tunnel(self, host: str, port: int, *, timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> Channel:
        """A channel that the server forwards to ``host``; raises SshError."""
        return self._open(Channel, timeout_seconds=timeout_seconds, kind="direct-tcpip", to=(host, port))

    def ensure(self, deadline: Deadline) -> None:
        """Log in unless a link is alive; raises SshError."""
        with self._lock:
            if any(link.transport.is_active() for link in self._links):
                return
        self._log_in_once(deadline, lambda link: link.transport.is_active(), lambda _link: None)

    # How a channel finds its link

    def _open(
        self,
        channel_class: type[C],
        *arguments: Any,
        timeout_seconds: float,
        window_bytes: int = WINDOW_BYTES,
        kind: str = "session",
        to: tuple[str, int] | None = None,
    ) -> C:
        deadline = Deadline(timeout_seconds)
        while True:
            link, channel, is_new = self._place(deadline, channel_class, arguments, window_bytes)
            patience = deadline.left() if is_new else min(STALE_AFTER_SECONDS, deadline.left() / 2)
            try:
                return link.transport.open(channel, patience, kind, to)
            except ChannelRefused as refusal:
                if to:
                    raise SshUnreachable(
                        gettext_noop("%(server_name)s does not lead on to %(to)s: %(refusal)s.")
                        % {"server_name": self.access.server_name, "to": to[0], "refusal": refusal}
                    ) from None
                if is_new:
                    raise SshError(
                        gettext_noop("%(server_name)s opens no session for this account.")
                        % {"server_name": self.access.server_name}
                    ) from None
                link.was_refused()
                if not link.transport.held:
                    self._drop(link)
            except (SshConnectionLost, TimeoutError, *BROKEN):
                self._drop(link)
                if is_new or deadline.left() <= 0:
                    raise SshConnectionLost(
                        gettext_noop("The connection to %(server_name)s was lost.")
                        % {"server_name": self.access.server_name}
                    ) from None

    def _place(
        self, deadline: Deadline, channel_class: type[C], arguments: tuple[Any, ...], window_bytes: int
    ) -> "tuple[_Link, C, bool]":
        """A link with room, and the channel that takes it; the third tells whether a login was made for it."""
        made: dict[str, C] = {}

        def take(link: "_Link") -> None:
            made["channel"] = link.transport.prepare(channel_class, *arguments, window_bytes=window_bytes)

        with self._lock:
            for link in self._links:
                if link.has_room():
                    take(link)
                    return link, made["channel"], False
        link, is_new = self._log_in_once(deadline, lambda link: link.has_room(), take)
        return link, made["channel"], is_new

    def _log_in_once(
        self, deadline: Deadline, fits: "Callable[[_Link], bool]", take: "Callable[[_Link], None]"
    ) -> "tuple[_Link, bool]":
        """One login at a time. Who waited for another's takes what came of it, an error too: a wrong password
        is tried once, however many wait."""
        seen = self._logins
        if not self._logging_in.acquire(timeout=max(0.001, deadline.left())):
            raise SshUnreachable(
                gettext_noop("%(server_name)s did not answer within %(seconds)g s.")
                % {"server_name": self.access.server_name, "seconds": deadline.seconds}
            )
        try:
            with self._lock:
                for link in self._links:
                    if fits(link):
                        take(link)
                        return link, False
            if self._logins != seen and self._failure:
                raise self._failure
            return self._new_link(deadline, take), True
        finally:
            self._logging_in.release()

    def _new_link(self, deadline: Deadline, take: "Callable[[_Link], None]") -> "_Link":
        self._failure = None
        try:
            link = _Link(self, self._log_in(deadline))
        except SshError as error:
            self._failure = error
            raise
        finally:
            self._logins += 1
        with self._lock:
            self._links = [one for one in self._links if one.transport.is_active()]
            self._links.append(link)
            take(link)
        _look_after(link)
        return link

    def _log_in(self, deadline: Deadline) -> Transport:
        def judge(line: str) -> None:
            pins.judge(self.access, line)

        tunnel = _tunnel_to(self.access, deadline)
        try:
            return log_in(self.access, deadline, judge, tunnel)
        except BaseException:
            if tunnel:
                tunnel.close()
            raise

    def _drop(self, link: "_Link") -> None:
        with self._lock:
            if link in self._links:
                self._links.remove(link)
        link.transport.shut_down()

    def drop_if_idle(self, link: "_Link", now: float) -> float:
        """Seconds until ``link`` may be idle long enough; 0 when it was closed, or was dead."""
        with self._lock:
            left = settings.SSH_IDLE_SECONDS
            if not link.transport.held:
                left = link.transport.used_at + settings.SSH_IDLE_SECONDS - now
            if left > 0 and link.transport.is_active():
                return left
            if link in self._links:
                self._links.remove(link)
        link.transport.shut_down()
        return 0.0


class _Link:
    """One login of a connection."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self.connection = connection
        self.transport = transport
        self._most_channels = MOST_CHANNELS
        self._refused_at = 0.0

    def has_room(self) -> bool:
        """Whether another channel may be asked for. A server frees a session some time after its command ended:
        what it refused then it may grant a while later."""
        transport = self.transport
        is_full = len(transport.held) >= self._most_channels
        if is_full and time.monotonic() - self._refused_at < ASK_AGAIN_SECONDS:
            return False
        return transport.is_active() and transport.opened < MOST_CHANNELS

    def was_refused(self) -> None:
        """The server opens no more than what is open now."""
        self._most_channels, self._refused_at = len(self.transport.held), time.monotonic()


# A connection lives as long as a link of it, or somebody who uses it.
_connections: "weakref.WeakValueDictionary[SshAccess, Connection]" = weakref.WeakValueDictionary()
_links: set[_Link] = set()
_changed = threading.Condition()
_caretaker: threading.Thread | None = None
_inherited: list[Any] = []


def _connection(access: SshAccess) -> Connection:
    with _changed:
        found = _connections.get(access)
        if found is None:
            found = _connections[access] = Connection(access)
        return found


def _look_after(link: _Link) -> None:
    """Have ``link`` closed when it is idle; the thread that does it ends with the last link.

    It is not woken for a new one: it looks again before that can be idle for long enough.
    """
    global _caretaker
    with _changed:
        _links.add(link)
        if _caretaker is None:
            _caretaker = threading.Thread(target=_close_idle_links, daemon=True, name="ssh-idle")
            _caretaker.start()


def _close_idle_links() -> None:
    global _caretaker
    while True:
        with _changed:
            links = list(_links)
            if not links:
                _caretaker = None
                return
        waits = {link: link.connection.drop_if_idle(link, time.monotonic()) for link in links}
        with _changed:
            _links.difference_update(link for link, wait in waits.items() if not wait)
            _changed.wait(max(0.05, min((wait for wait in waits.values() if wait), default=0.05)))


def close_all() -> None:
    """Close every connection of this process now; what runs over one is lost."""
    with _changed:
        links = list(_links)
        _links.clear()
        _connections.clear()
        _changed.notify()
    for link in links:
        link.transport.shut_down()


def _forget_after_fork() -> None:
    """A child must not touch its parent's connections: kept, because paramiko closes what is dropped."""
    global _changed, _caretaker
    _inherited.append((list(_links), list(_connections.values())))
    _links.clear()
    _connections.clear()
    _changed, _caretaker = threading.Condition(), None


os.register_at_fork(after_in_child=_forget_after_fork)
