"""Files over SFTP on a real sshd: whole or not at all, large ones in flat memory, refusals as sentences."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infini.errors import TooLarge
from inventory.ssh import files
from inventory.ssh.access import SshAccess
from inventory.ssh.errors import SshConnectionLost, SshError, SshFileRefused
from tests.real_sshd import RealSshd

MIB = 1024 * 1024


def test_a_file_arrives_whole_with_its_mode(access: SshAccess, tmp_path: Path) -> None:
    path = tmp_path / "a file 你好"
    assert files.put(access, b"\x00\xffabc" * 100_000, str(path), mode=0o640) == 500_000
    assert path.read_bytes() == b"\x00\xffabc" * 100_000 and path.stat().st_mode & 0o777 == 0o640
    files.put(access, b"new", str(path), mode=0o600)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == [path.name]
    assert files.read(access, str(path), 3) == b"new"


def test_an_empty_file(access: SshAccess, tmp_path: Path) -> None:
    assert files.put(access, b"", str(tmp_path / "empty")) == 0
    assert files.read(access, str(tmp_path / "empty"), 10) == b""
    assert files.read(access, "/proc/version", 1000).startswith(b"Linux"), "the size of such a file is told as 0"


def test_an_upload_that_fails_leaves_what_was_there(access: SshAccess, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def broken() -> Iterator[bytes]:
        yield b"x" * MIB
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        files.put(access, broken(), str(path))
    with files.opened(access) as session, pytest.raises(TooLarge):
        session.put([b"x" * 100] * 10, str(path), most_bytes=500)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_large_files_pass_in_flat_memory(access: SshAccess, tmp_path: Path) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    piece = os.urandom(MIB)
    with files.opened(access) as session:
        assert session.put((piece for _ in range(80)), str(tmp_path / "big")) == 80 * MIB
        most = process.memory_info().rss
        total = 0
        for part in session.pieces(str(tmp_path / "big")):
            total += len(part)
            if total % (10 * MIB) < len(part):
                most = max(most, process.memory_info().rss)
    assert total == 80 * MIB and most - before < 30 * MIB


def test_a_download_can_be_left_early(access: SshAccess, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(50 * MIB))
    before = threading.active_count()
    with files.opened(access) as session:
        assert len(next(session.pieces(str(tmp_path / "big")))) > 0
        assert session.read(str(tmp_path / "big"), 100 * MIB) == bytes(50 * MIB)
    from tests.real_agent import wait_until

    wait_until(lambda: threading.active_count() <= before + 3)


def test_too_large_a_file_is_not_read(access: SshAccess, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1000))
    with pytest.raises(TooLarge, match="1000 bytes"):
        files.read(access, str(tmp_path / "big"), 999)


def test_a_directory_is_listed_by_name(access: SshAccess, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"12345")
    (tmp_path / "a").mkdir(mode=0o750)
    (tmp_path / "c").symlink_to("b")
    listed = files.list_directory(access, str(tmp_path))
    assert [(file.name, file.kind, file.size if file.kind == "file" else None) for file in listed] == [
        ("a", "directory", None),
        ("b", "file", 5),
        ("c", "link", None),
    ]
    assert listed[0].mode == 0o750 and listed[1].modified_at
    with files.opened(access) as session:
        assert session.stat(str(tmp_path / "c")).kind == "file" and session.absolute(".").startswith("/")


def test_what_cannot_be_is_a_sentence(access: SshAccess, tmp_path: Path) -> None:
    missing = str(tmp_path / "no" / "such")
    for attempt in (
        lambda: files.read(access, missing, 10),
        lambda: files.put(access, b"x", missing),
        lambda: files.list_directory(access, missing),
    ):
        with pytest.raises(SshFileRefused, match="does not exist on gpu-1"):
            attempt()
    with pytest.raises(SshFileRefused):
        files.put(access, b"x", str(tmp_path))
    assert not os.listdir(tmp_path) and not [name for name in os.listdir(tmp_path.parent) if tmp_path.name in name[1:]]


def test_what_the_account_may_not_do(access_to: Callable[..., SshAccess], tmp_path: Path) -> None:
    with RealSshd(password_user=True) as server, pytest.raises(SshFileRefused, match="may not do that"):
        files.read(access_to(server), "/etc/shadow", 10_000)


def test_a_server_without_sftp(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd(sftp_server="/bin/false") as server, pytest.raises(SshError):
        files.read(access_to(server), "/etc/hostname", 100)


def test_a_connection_cut_in_mid_file(access_to: Callable[..., SshAccess], tmp_path: Path) -> None:
    with RealSshd() as server:

        def cut() -> Iterator[bytes]:
            yield b"x" * 100_000
            server.kill_connections()
            for _ in range(200):
                yield b"x" * 100_000

        with pytest.raises(SshConnectionLost, match="gpu-1 was lost"):
            files.put(access_to(server), cut(), str(tmp_path / "file"))
        assert not (tmp_path / "file").exists()
