"""What can go wrong on the way to a server over SSH: one sentence each, never a secret."""

from infini.errors import Unavailable


class SshError(Unavailable):
    code, http_status = "ssh_error", 502


class SshNotSetUp(SshError):
    """The server has no SSH account, or the account no means to log in."""

    code, http_status = "ssh_not_set_up", 409


class SshUnreachable(SshError):
    """No connection, no SSH server behind it, or no answer in time."""

    code, http_status = "ssh_unreachable", 504


class SshLoginRefused(SshError):
    """The server does not accept the account with its password or key."""

    code = "ssh_login_refused"


class SshKeyUnusable(SshError):
    """The stored private key cannot be read: unknown type, wrong or missing passphrase."""

    code, http_status = "ssh_key_unusable", 409


class HostKeyRefused(SshError):
    """The key the server identifies itself with is not the pinned one. ``offered`` is an OpenSSH line."""

    code, http_status = "host_key_refused", 409

    def __init__(self, message: str, *, offered: str, fingerprint: str) -> None:
        super().__init__(message)
        self.offered = offered
        self.fingerprint = fingerprint


class HostKeyUnknown(HostKeyRefused):
    """None is pinned yet: an operator confirms the first one."""

    code = "host_key_unknown"


class HostKeyChanged(HostKeyRefused):
    """Another is pinned: either the server was installed anew, or something else answers in its place."""

    code = "host_key_changed"

    def __init__(self, message: str, *, offered: str, fingerprint: str, pinned_fingerprint: str) -> None:
        super().__init__(message, offered=offered, fingerprint=fingerprint)
        self.pinned_fingerprint = pinned_fingerprint


class SshConnectionLost(SshError):
    """The connection broke in the middle: what was going on over it has an unknown outcome."""

    code = "ssh_connection_lost"


class SshFileRefused(SshError):
    """The server does not read or write this file for us; the sentence says which and why."""

    code, http_status = "ssh_file_refused", 409
