"""How one server is reached over SSH, read from the database before any network is waited for."""

from dataclasses import dataclass, field, replace
from typing import Self

from django.utils.translation import gettext_noop

from inventory.models import Server
from inventory.servers import MOST_JUMPS
from inventory.ssh.errors import SshNotSetUp


@dataclass(frozen=True)
class SshAccess:
    """Where to connect, as whom, and which host key must answer. Two equal ones share a connection."""

    server_id: int
    server_name: str = field(compare=False)
    host: str
    port: int
    username: str
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    passphrase: str = field(default="", repr=False)
    host_key: str = field(default="", repr=False)
    jump: "SshAccess | None" = None
    # What was last offered in place of the pinned key; known here so that an answer as pinned can clear it.
    offered_host_key: str = field(default="", repr=False, compare=False)

    @classmethod
    def of(cls, server: Server) -> Self:
        """Of ``server`` and the servers it is reached through; raises SshNotSetUp.

        Reads what ``server`` was loaded without, so not from an event loop.
        """
        return cls._of(server, MOST_JUMPS)

    @classmethod
    def _of(cls, server: Server, jumps_left: int) -> Self:
        if not server.username:
            raise SshNotSetUp(
                gettext_noop("%(name)s has no SSH access; enter its SSH account.") % {"name": server.name}
            )
        if not server.password and not server.private_key:
            raise SshNotSetUp(
                gettext_noop("%(name)s has an SSH account, but neither password nor private key.")
                % {"name": server.name}
            )
        if server.jump and not jumps_left:
            raise SshNotSetUp(
                gettext_noop("%(name)s is reached over more than %(n)s jump hosts.")
                % {"name": server.name, "n": MOST_JUMPS}
            )
        return cls(
            server_id=server.pk,
            server_name=server.name,
            host=server.host_ip,
            port=server.port,
            username=server.username,
            password=server.password,
            private_key=server.private_key,
            passphrase=server.passphrase,
            host_key=server.host_key,
            jump=cls._of(server.jump, jumps_left - 1) if server.jump else None,
            offered_host_key=server.host_key_offered,
        )

    def with_account(self, username: str) -> Self:
        """The same with another account on the server, logged in to by the same password or key."""
        return replace(self, username=username)
