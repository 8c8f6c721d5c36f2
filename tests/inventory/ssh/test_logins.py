"""The way in, on real servers and on what only pretends: each failure is one sentence, none carries a secret."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils.translation import override

from infini.said import said
from inventory.ssh import connections
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import run
from inventory.ssh.errors import (
    HostKeyChanged,
    SshError,
    SshKeyUnusable,
    SshLoginRefused,
    SshUnreachable,
)
from tests.real_sshd import (
    FakeServer,
    RealSshd,
    babbles,
    hangs_up,
    make_key,
    refused_port,
    says,
    says_nothing,
    trickles,
)

CANARY = "canary-5ecret"


@pytest.fixture(scope="module")
def password_sshd() -> Iterator[RealSshd]:
    with RealSshd(password_user=True) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_trace_and_no_secret(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    caplog.set_level(logging.INFO)
    yield
    told = caplog.text + "".join(capfd.readouterr())
    assert CANARY not in told and "Traceback" not in told, told


def failure(access: SshAccess, kind: type[SshError], seconds: float = 10.0) -> str:
    """The sentence with which a command on ``access`` fails."""
    with pytest.raises(kind) as caught:
        run(access, "true", connect_timeout_seconds=seconds)
    sentence = caught.value.message
    assert type(caught.value) is kind and sentence.endswith(".") and "\n" not in sentence
    assert CANARY not in sentence and "Error" not in sentence and "Exception" not in sentence
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return sentence


# What works


def test_a_password_logs_in(password_sshd: RealSshd, access_to: Callable[..., SshAccess]) -> None:
    access = access_to(password_sshd, private_key="", password=password_sshd.password)
    assert run(access, "id -un").output.strip() == password_sshd.username


def test_a_password_that_is_asked_for_as_a_question_logs_in(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd(password_user=True, ask_password_as="keyboard-interactive") as server:
        access = access_to(server, private_key="", password=server.password)
        assert run(access, "id -un").output.strip() == server.username
        wrong = access_to(server, private_key="", password=CANARY)
        assert "password" in failure(wrong, SshLoginRefused)


def test_key_and_password_both_where_the_server_wants_both(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd("AuthenticationMethods publickey,password", password_user=True) as server:
        assert run(access_to(server, password=server.password), "echo in").output == "in\n"
        assert "more than the key" in failure(access_to(server), SshLoginRefused)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("passphrase", ["", CANARY])
def test_keys_of_every_kind_log_in(
    sshd: RealSshd, access_to: Callable[..., SshAccess], tmp_path: Path, kind: str, passphrase: str
) -> None:
    key = make_key(tmp_path / "key", kind, passphrase)
    sshd.authorize(tmp_path / "key")
    assert run(access_to(sshd, private_key=key, passphrase=passphrase), "echo in").output == "in\n"


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_the_kind_of_host_key_that_is_pinned_is_asked_for(access_to: Callable[..., SshAccess], kind: str) -> None:
    """A server has several; it is not taken for changed because it would offer another one first."""
    with RealSshd(host_key_kinds=(kind, "ed25519")) as server:
        assert run(access_to(server), "echo in").output == "in\n"


@pytest.mark.django_db(transaction=True)
def test_over_a_jump_host_that_is_verified_as_well(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as hop, RealSshd(host="127.0.0.2") as server:
        access = access_to(server, server_id=2, server_name="gpu-2", jump=access_to(hop))
        assert run(access, "echo $SSH_CONNECTION").output.startswith("127.0.0.1 ")
        assert len(hop.connections()) >= 1
        big = run(access, "head -c 20000000 /dev/zero | wc -c; head -c 3000000 /dev/zero", output_max_bytes=100)
        assert big.output.startswith("20000000\n")
        connections.close_all()
        stranger = access_to(hop, host_key=server.host_key)
        assert "gpu-1" in failure(access_to(server, jump=stranger), HostKeyChanged)


def test_a_jump_host_that_does_not_lead_on(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd("AllowTcpForwarding no") as hop, RealSshd() as server:
        sentence = failure(access_to(server, server_name="gpu-2", jump=access_to(hop)), SshUnreachable)
        assert "gpu-1 does not lead on" in sentence


# What does not


def test_a_wrong_password(password_sshd: RealSshd, access_to: Callable[..., SshAccess], tmp_path: Path) -> None:
    sentence = failure(access_to(password_sshd, private_key="", password=CANARY), SshLoginRefused)
    assert sentence == f"gpu-1 refuses the account {password_sshd.username} with its password."
    both = failure(access_to(password_sshd, private_key=make_key(tmp_path / "other"), password=CANARY), SshLoginRefused)
    with override("zh-hans"):
        assert said(both) == f"gpu-1 拒绝账号 {password_sshd.username} 及其密钥。{said(sentence)}"


def test_an_unknown_account(password_sshd: RealSshd, access_to: Callable[..., SshAccess]) -> None:
    failure(access_to(password_sshd, username="nobody-here", private_key="", password=CANARY), SshLoginRefused)


def test_a_key_the_server_does_not_know(sshd: RealSshd, access_to: Callable[..., SshAccess], tmp_path: Path) -> None:
    assert "with its key" in failure(access_to(sshd, private_key=make_key(tmp_path / "other")), SshLoginRefused)


def test_a_server_that_takes_no_passwords(sshd: RealSshd, access_to: Callable[..., SshAccess]) -> None:
    assert "takes no password" in failure(access_to(sshd, private_key="", password=CANARY), SshLoginRefused)


def test_a_key_with_a_wrong_or_missing_passphrase(
    sshd: RealSshd, access_to: Callable[..., SshAccess], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key", passphrase="the right one")
    failure(access_to(sshd, private_key=key, passphrase=CANARY), SshKeyUnusable)
    assert "passphrase" in failure(access_to(sshd, private_key=key), SshKeyUnusable)


@pytest.mark.parametrize(
    "key",
    [
        CANARY,
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----\n",
        f"-----BEGIN DSA PRIVATE KEY-----\n{CANARY}\n-----END DSA PRIVATE KEY-----\n",
        f"PuTTY-User-Key-File-3: ssh-ed25519\nComment: {CANARY}\n",
    ],
)
def test_a_key_of_unknown_kind(sshd: RealSshd, access_to: Callable[..., SshAccess], key: str) -> None:
    failure(access_to(sshd, private_key=key), SshKeyUnusable)


def test_a_refused_port(sshd: RealSshd, access_to: Callable[..., SshAccess]) -> None:
    port = refused_port()
    sentence = failure(access_to(sshd, port=port), SshUnreachable)
    assert sentence == f"gpu-1 (127.0.0.1 port {port}) refuses the connection."


def test_a_name_that_does_not_resolve(sshd: RealSshd, access_to: Callable[..., SshAccess]) -> None:
    assert "cannot be resolved" in failure(access_to(sshd, host="no-such-host.invalid"), SshUnreachable)


@pytest.mark.parametrize(
    ("serve", "seconds", "what"),
    [
        (says_nothing, 1.0, "did not answer as an SSH server within 1 s"),
        (trickles, 1.0, "did not answer as an SSH server within 1 s"),
        (says(b"hello\r\nthere\r\n"), 1.0, "did not answer as an SSH server within 1 s"),
        (says(b"SSH-2.0-x\r\n"), 1.0, "did not answer as an SSH server within 1 s"),
        (hangs_up, 10.0, "closed the connection before the login"),
        (babbles, 10.0, "is no SSH server"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200), 10.0, "is no SSH server"),
        (says(b"SSH-1.5-old\r\n"), 10.0, "outdated SSH"),
        (says(b"SSH-2.0-x\r\n" + b"\xff" * 4000), 10.0, "is no SSH server"),
        (says(b"\xff\xfe\x00 \n" * 3), 10.0, "is no SSH server"),
    ],
    ids=["silent", "trickle", "chat", "halts", "hangs-up", "babbles", "http", "ssh1", "garbage", "bytes"],
)
def test_what_is_no_ssh_server(
    sshd: RealSshd, access_to: Callable[..., SshAccess], serve: Any, seconds: float, what: str
) -> None:
    with FakeServer(serve) as fake:
        began = time.monotonic()
        assert what in failure(access_to(sshd, port=fake.port), SshUnreachable, seconds)
        assert time.monotonic() - began < seconds + 1.5


@pytest.mark.parametrize(
    "option",
    ["KexAlgorithms diffie-hellman-group14-sha1", "HostKeyAlgorithms ssh-rsa"],
)
def test_a_server_that_speaks_old_algorithms_alone(access_to: Callable[..., SshAccess], option: str) -> None:
    with RealSshd(option, host_key_kinds=("rsa",)) as old:
        sentence = failure(access_to(old), SshUnreachable)
    assert "outdated SSH algorithms" in sentence and "update its SSH server" in sentence


def test_a_refused_login_is_tried_once_however_many_wait(
    password_sshd: RealSshd, access_to: Callable[..., SshAccess]
) -> None:
    """Ten at once with a wrong password are one attempt: more would lock the account."""
    from concurrent.futures import ThreadPoolExecutor

    access = access_to(password_sshd, private_key="", password=CANARY)
    before = password_sshd.log.count("Failed password")
    with ThreadPoolExecutor(10) as pool:
        errors = list(pool.map(lambda _: pytest.raises(SshLoginRefused, run, access, "true"), range(10)))
    assert len(errors) == 10
    assert password_sshd.log.count("Failed password") - before <= 2


def test_secrets_are_in_no_representation() -> None:
    access = SshAccess(1, "gpu-1", "h", 22, "u", password=CANARY, private_key=CANARY, passphrase=CANARY)
    assert CANARY not in repr(access) and CANARY not in str(access)
