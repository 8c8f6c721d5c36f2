"""Whom we talk to: the first key is confirmed, a changed one refused, and every step is in the timeline."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from infini.errors import Conflict, Forbidden, Invalid
from infini.models import Event, User
from inventory.models import Server
from inventory.ssh import host_keys
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import run
from inventory.ssh.errors import HostKeyChanged, HostKeyUnknown, SshNotSetUp
from tests.real_sshd import KEYGEN, RealSshd

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def own_sshd() -> Iterator[RealSshd]:
    with RealSshd() as server:
        yield server


@pytest.fixture
def server(own_sshd: RealSshd) -> Server:
    """A server of the inventory that is the real one, with nothing pinned."""
    return Server.objects.create(
        name="gpu-1",
        host_ip=own_sshd.host,
        port=own_sshd.port,
        username=own_sshd.username,
        private_key=own_sshd.private_key,
    )


def echo(server: Server) -> str:
    server.refresh_from_db()
    return run(SshAccess.of(server), "echo in").output


def kinds() -> list[str]:
    return list(Event.objects.filter(kind__startswith="server.host_key").order_by("id").values_list("kind", flat=True))


def test_the_fingerprint_is_the_one_ssh_keygen_shows(own_sshd: RealSshd) -> None:
    import subprocess

    command = [str(KEYGEN), "-l", "-f", str(own_sshd.folder / "host_ed25519.pub")]
    shown = subprocess.run(command, check=True, capture_output=True).stdout.decode().split()[1]
    assert host_keys.fingerprint(own_sshd.host_key) == shown


def test_an_unconfirmed_server_is_refused_with_its_fingerprint(server: Server, own_sshd: RealSshd) -> None:
    for _ in range(2):
        with pytest.raises(HostKeyUnknown) as caught:
            echo(server)
    assert caught.value.offered == own_sshd.host_key
    assert caught.value.fingerprint == host_keys.fingerprint(own_sshd.host_key) and caught.value.fingerprint in str(
        caught.value
    )
    assert "Accepted" not in own_sshd.log, "nothing secret is sent to a stranger"
    server.refresh_from_db()
    assert (server.host_key, server.host_key_offered) == ("", own_sshd.host_key)
    assert kinds() == ["server.host_key_seen"], "seen twice, told once"


def test_a_scan_asks_for_the_key_without_logging_in(server: Server, own_sshd: RealSshd) -> None:
    offered = host_keys.scan(SshAccess.of(server))
    assert (offered.line, offered.kind) == (own_sshd.host_key, "ssh-ed25519")
    assert "Accepted" not in own_sshd.log


def test_once_confirmed_it_is_used(server: Server, own_sshd: RealSshd, operator: User) -> None:
    host_keys.confirm_host_key(server, f"  {own_sshd.host_key} a comment\n", by=operator)
    assert echo(server) == "in\n"
    event = Event.objects.get(kind="server.host_key_confirmed")
    assert event.actor == operator and event.data == {"fingerprint": host_keys.fingerprint(own_sshd.host_key)}
    host_keys.confirm_host_key(server, own_sshd.host_key, by=operator)  # again: as it was
    assert kinds() == ["server.host_key_confirmed"]


def test_another_than_the_pinned_needs_more_than_confirming(server: Server, own_sshd: RealSshd, operator: User) -> None:
    host_keys.confirm_host_key(server, own_sshd.host_key, by=operator)
    before = own_sshd.host_key
    own_sshd.renew_host_key()
    with pytest.raises(Conflict):
        host_keys.confirm_host_key(server, own_sshd.host_key, by=operator)
    with pytest.raises(Forbidden):
        host_keys.repin_host_key(server, own_sshd.host_key, by=operator)
    with pytest.raises(Forbidden):
        host_keys.repin_host_key(server, own_sshd.host_key, by=None)
    server.refresh_from_db()
    assert server.host_key == before


def test_a_changed_key_is_refused_with_both_fingerprints_until_it_is_pinned_anew(
    server: Server, own_sshd: RealSshd, operator: User, administrator: User
) -> None:
    old = own_sshd.host_key
    host_keys.confirm_host_key(server, old, by=operator)
    assert echo(server) == "in\n"
    logins = own_sshd.log.count("Accepted")
    own_sshd.renew_host_key()
    new = own_sshd.host_key
    for _ in range(2):
        with pytest.raises(HostKeyChanged) as caught:
            echo(server)
    assert caught.value.fingerprint == host_keys.fingerprint(new)
    assert caught.value.pinned_fingerprint == host_keys.fingerprint(old)
    assert host_keys.fingerprint(new) in str(caught.value) and host_keys.fingerprint(old) in str(caught.value)
    assert own_sshd.log.count("Accepted") == logins
    server.refresh_from_db()
    assert server.host_key_offered == new
    host_keys.repin_host_key(server, new, by=administrator)
    assert echo(server) == "in\n"
    assert kinds() == ["server.host_key_confirmed", "server.host_key_changed", "server.host_key_repinned"]
    server.refresh_from_db()
    assert server.host_key_offered == ""


def test_the_pinned_key_answering_again_clears_the_alarm(server: Server, own_sshd: RealSshd, operator: User) -> None:
    host_keys.confirm_host_key(server, own_sshd.host_key, by=operator)
    Server.objects.update(host_key_offered="ssh-ed25519 AAAA")
    assert echo(server) == "in\n"
    server.refresh_from_db()
    assert server.host_key_offered == ""


def test_the_first_key_is_taken_where_the_setting_says_so_and_a_second_is_not(
    server: Server, own_sshd: RealSshd, settings: Any
) -> None:
    settings.SSH_ACCEPT_NEW_HOST_KEYS = True
    assert echo(server) == "in\n"
    server.refresh_from_db()
    assert server.host_key == own_sshd.host_key and kinds() == ["server.host_key_confirmed"]
    assert Event.objects.get().actor is None
    own_sshd.renew_host_key()
    with pytest.raises(HostKeyChanged):
        echo(server)


def test_two_administrators_at_once(server: Server, own_sshd: RealSshd, administrator: User) -> None:
    host_keys.confirm_host_key(server, own_sshd.host_key, by=administrator)
    stale = Server.objects.get(pk=server.pk)
    own_sshd.renew_host_key()
    host_keys.repin_host_key(server, own_sshd.host_key, by=administrator)
    with pytest.raises(Conflict):
        host_keys.repin_host_key(stale, own_sshd.host_key, by=administrator)


@pytest.mark.parametrize(
    "key", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "no key", "ssh-ed25519 %%%"]
)
def test_what_is_no_public_key_is_not_pinned(server: Server, operator: User, key: str) -> None:
    with pytest.raises(Invalid):
        host_keys.confirm_host_key(server, key, by=operator)
    server.refresh_from_db()
    assert server.host_key == ""


def test_a_server_without_account_or_secret_says_so() -> None:
    with pytest.raises(SshNotSetUp, match="no SSH access"):
        SshAccess.of(Server(name="gpu-1", host_ip="127.0.0.1"))
    with pytest.raises(SshNotSetUp, match="neither password nor private key"):
        SshAccess.of(Server(name="gpu-1", host_ip="127.0.0.1", username="root"))


def test_no_transaction_is_open_while_the_network_is_waited_for(
    server: Server, own_sshd: RealSshd, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inventory.ssh import logins

    seen: list[bool] = []
    shake: Callable[..., Any] = logins.shake_hands

    def watched(*arguments: Any) -> Any:
        seen.append(connection.in_atomic_block)
        return shake(*arguments)

    monkeypatch.setattr(logins, "shake_hands", watched)
    with pytest.raises(HostKeyUnknown):
        echo(server)
    assert seen == [False]
