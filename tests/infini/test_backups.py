"""What a backup holds, and that what is none changes nothing; on a running site: tests/live/test_backup.py."""

import io
import json
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infini import backups, first_start
from infini.backups import BackupRefused, back_up, restore

KEPT = ("secrets/field-keys", "uploads/logo.png", "recordings/2026/one.cast", "admin-password")


def fill(folder: Path, word: str) -> None:
    with closing(sqlite3.connect(folder / "infini.sqlite3")) as database:
        database.execute("CREATE TABLE django_migrations (app, name, applied)")
        database.execute("INSERT INTO django_migrations VALUES (?, ?, ?)", ("infini", "0001_initial", word))
        database.commit()
    for name in (
        "secrets/field-keys",
        "uploads/logo.png",
        "recordings/2026/one.cast",
        "admin-password",
        "logs/web.log",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(word)


def word_of(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "infini.sqlite3")) as database:
        stored = {row[0] for row in database.execute("SELECT applied FROM django_migrations")}
    return stored | {(folder / name).read_text() for name in ("secrets/field-keys", "recordings/2026/one.cast")}


@pytest.fixture
def at(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Makes a folder the data directory."""

    def use(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        settings.DATA_DIR = folder
        for name in ("SECRETS", "UPLOADS", "RECORDINGS", "LOGS"):
            setattr(settings, f"{name}_DIR", folder / name.lower())
        settings.AGENT_STATE_DIR = folder / "agent"
        monkeypatch.setattr(backups, "_database", lambda: folder / "infini.sqlite3")
        return folder

    return use


@pytest.fixture
def backup(at: Callable[[Path], Path], tmp_path: Path) -> Path:
    fill(at(tmp_path / "first"), "then")
    back_up(tmp_path / "backup.tar.gz")
    return tmp_path / "backup.tar.gz"


def test_it_holds_what_a_site_is_for_its_owner_alone(backup: Path) -> None:
    with tarfile.open(backup) as tar:
        kept = {
            "infini.sqlite3",
            "secrets/field-keys",
            "uploads/logo.png",
            "recordings/2026/one.cast",
            "admin-password",
        }
        assert set(tar.getnames()) == {"infini-backup.json", *kept}
    assert backup.stat().st_mode & 0o777 == 0o600
    assert not [path for path in backup.parent.iterdir() if path.name.startswith(".")]


def test_it_replaces_nothing_and_needs_a_site(backup: Path, at: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="is there already"):
        back_up(backup)
    with pytest.raises(BackupRefused, match="could not be written"):
        back_up(tmp_path / "nowhere" / "file")
    empty = at(tmp_path / "empty")
    with pytest.raises(BackupRefused, match="There is no site"):
        back_up(tmp_path / "other.tar.gz")
    assert not list(empty.iterdir())


def test_what_was_there_before_stays_in_a_folder(backup: Path, at: Callable[[Path], Path], tmp_path: Path) -> None:
    there = at(tmp_path / "second")
    fill(there, "now")
    (there / "prepared-for").write_text("0.1.0")
    (there / "restoring").mkdir()
    (there / "restoring" / "infini.sqlite3").write_text("one that was cut off")
    told, aside = restore(backup)
    assert aside is not None and word_of(there) == {"then"} and word_of(aside) == {"now"}
    assert told.has_database and not (there / "restoring").exists()
    assert not (there / "prepared-for").exists(), "the next start brings the database up to date"
    assert (there / "logs" / "web.log").read_text() == "now"


def test_one_that_stops_half_way_says_so_and_is_done_again(
    backup: Path, at: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = at(tmp_path / "second")
    fill(there, "now")
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.parent.name == "restoring" and self.name == "secrets":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as no_room, pytest.raises(BackupRefused, match=r"Half of it.*No space.*before-restore"):
        no_room.setattr(Path, "rename", full)
        restore(backup)
    [first] = there.glob("before-restore*")
    assert word_of(first) == {"now"}
    first.rename(there / "kept")  # the next may come within its second
    restore(backup)
    assert word_of(there) == {"then"}


def packed(path: Path, change: Callable[[str, bytes], bytes | None], *more: tarfile.TarInfo) -> Path:
    """Another archive: ``change`` gives each file's new content, None leaves it out."""
    other = path.with_name("other.tar.gz")
    with tarfile.open(path) as tar, tarfile.open(other, "w:gz") as out:
        for info in tar:
            data = change(info.name, tar.extractfile(info).read())  # type: ignore[union-attr]
            if data is not None:
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        for info in more:
            out.addfile(info)
    return other


def same(name: str, data: bytes) -> bytes:
    return data


def newer(name: str, data: bytes) -> bytes:
    if name != "infini.sqlite3":
        return data
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(data)
        database.execute("INSERT INTO django_migrations VALUES ('chat', '9999_later', '2030-01-01')")
        database.commit()
        return database.serialize()


def torn(name: str, data: bytes) -> bytes:
    return data[: len(data) // 2] if name == "infini.sqlite3" else data


def on_postgresql(name: str, data: bytes) -> bytes | None:
    if name == "infini-backup.json":
        return json.dumps(json.loads(data) | {"has_database": False}).encode()
    return None if name == "infini.sqlite3" else data


def of_another_program(name: str, data: bytes) -> bytes | None:
    return None if name == "infini-backup.json" else data


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("secrets/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        (newer, (), "of a newer Infini"),
        (torn, (), "database in the backup"),
        (on_postgresql, (), "made on PostgreSQL"),
        (of_another_program, (), "is no backup of Infini"),
        (same, (tarfile.TarInfo("../outside"),), "'../outside', which no backup has"),
        (same, (tarfile.TarInfo("secrets/../../outside"),), "outside', which no backup has"),
        (same, (tarfile.TarInfo("/etc/outside"),), "outside', which no backup has"),
        (same, (link(),), "'secrets/link', which no backup has"),
    ],
)
def test_what_is_none_changes_nothing(
    change: Callable, more: tuple, says: str, backup: Path, at: Callable[[Path], Path], tmp_path: Path
) -> None:
    there = at(tmp_path / "second")
    fill(there, "now")
    with pytest.raises(BackupRefused, match=says):
        restore(packed(backup, change, *more))
    assert word_of(there) == {"now"} and not list(there.glob("before-restore*")) and not (there / "restoring").exists()
    assert not (tmp_path / "outside").exists()


def test_not_even_an_archive(backup: Path, at: Callable[[Path], Path], tmp_path: Path) -> None:
    there, half = at(tmp_path / "second"), tmp_path / "half.tar.gz"
    fill(there, "now")
    half.write_bytes(backup.read_bytes()[: backup.stat().st_size // 2])
    for path in (half, tmp_path / "absent", tmp_path):
        with pytest.raises(BackupRefused, match="could not be restored"):
            restore(path)
    assert word_of(there) == {"now"}


def test_a_running_site_is_left_alone(backup: Path, at: Callable[[Path], Path], tmp_path: Path) -> None:
    there = at(tmp_path / "second")
    fill(there, "now")
    with first_start.only_one(), pytest.raises(first_start.StartRefused, match="already runs"):
        restore(backup)
    assert word_of(there) == {"now"}
