"""The site as one file, and a site from one: the database, the keys that read its secrets, uploads and recordings.

Not the logs, nor what the local agent keeps of the processes that run on this machine now.
"""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone

from infini import first_start

FORMAT = 1
ABOUT, DATABASE = "infini-backup.json", "infini.sqlite3"
BUSY_SECONDS = 30.0


class BackupRefused(ImproperlyConfigured):
    """Why there is no backup, or nothing was restored, in one line; manage.py prints it and exits with 2."""


@dataclass(frozen=True)
class Backup:
    """What a file holds; ``has_database`` is False when that is PostgreSQL's."""

    path: Path
    version: str
    made_at: datetime
    has_database: bool


def _kept() -> list[Path]:
    """What is beside the database, all below the data directory."""
    return [settings.SECRETS_DIR, settings.UPLOADS_DIR, settings.RECORDINGS_DIR, first_start.password_path()]


def _database() -> Path | None:
    """SQLite's file; None on PostgreSQL."""
    default = settings.DATABASES["default"]
    return Path(default["NAME"]) if default["ENGINE"].endswith("sqlite3") else None


# Making one


def back_up(path: Path) -> Backup:
    """Write everything to a new file at ``path``, for its owner alone, while the site runs.

    The database is as it was at one moment; a recording that grows meanwhile is cut where it was. The file is there
    whole or not at all. Raises BackupRefused.
    """
    if path.exists():
        raise BackupRefused(f"{path} is there already. Name another file, or remove it first.")
    database = _database()
    if database and not database.exists():
        raise BackupRefused(f"There is no site in {settings.DATA_DIR} yet. `make up` begins one.")
    made = Backup(path, settings.VERSION, timezone.now(), database is not None)
    try:
        with tempfile.TemporaryDirectory(prefix=".infini-backup-", dir=path.parent) as folder:
            copy, archive = Path(folder) / DATABASE, Path(folder) / "archive"
            with open(os.open(archive, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as tar:
                    _add_about(tar, made)
                    if database:
                        _copy_database(database, copy)
                        tar.add(copy, DATABASE)
                    for kept in _kept():
                        _add_kept(tar, kept)
                os.fsync(file.fileno())
            archive.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise BackupRefused(f"The backup could not be written to {path}: {error}.") from None
    return made


def _copy_database(database: Path, copy: Path) -> None:
    """SQLite's own way to copy what others write to meanwhile."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=BUSY_SECONDS)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def _add_about(tar: tarfile.TarFile, made: Backup) -> None:
    about = {"format": FORMAT, "version": made.version, "made_at": made.made_at.isoformat()}
    text = json.dumps(about | {"has_database": made.has_database}, indent=1).encode()
    info = tarfile.TarInfo(ABOUT)
    info.size, info.mtime, info.mode = len(text), made.made_at.timestamp(), 0o600
    tar.addfile(info, io.BytesIO(text))


def _add_kept(tar: tarfile.TarFile, kept: Path) -> None:
    for path in sorted(kept.rglob("*")) if kept.is_dir() else [kept]:
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                info = tar.gettarinfo(arcname=str(path.relative_to(settings.DATA_DIR)), fileobj=file)
                tar.addfile(info, _Cut(file, info.size))


class _Cut(io.RawIOBase):
    """A file up to the size it had: more may be written to it meanwhile."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data


# Taking one


def restore(path: Path) -> tuple[Backup, Path | None]:
    """Put what ``path`` holds in the data directory's place; the site must not run. Returns where what was there before
    is kept, None when nothing was.

    Everything is unpacked and looked at first: where that fails nothing has changed. Then it is moved: cut off in
    between, it is done again from the start, and what was there before stays in its folder. Raises BackupRefused.
    """
    first_start.prepare_data_dir()
    with first_start.only_one(), _unpacked(path) as (backup, folder):
        if backup.has_database != (_database() is not None):
            what = "holds SQLite's" if backup.has_database else "was made on PostgreSQL and holds no"
            raise BackupRefused(f"{path} {what} database. Set DATABASE_URL as it was when it was made.")
        if backup.has_database:
            _check_database(folder / DATABASE)
        return backup, _put_in_place(folder)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[tuple[Backup, Path]]:
    folder = settings.DATA_DIR / "restoring"
    shutil.rmtree(folder, ignore_errors=True)  # of one that was cut off
    folder.mkdir(mode=0o700)
    try:
        yield _unpack_all(path, folder), folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_all(path: Path, folder: Path) -> Backup:
    try:
        with tarfile.open(path, "r:gz") as tar:
            backup = _about(path, tar)
            for member in tar:
                _unpack(tar, member, folder)
            return backup
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise BackupRefused(f"{path} could not be restored: {error}.") from None


def _about(path: Path, tar: tarfile.TarFile) -> Backup:
    first = tar.next()
    file = tar.extractfile(first) if first and first.name == ABOUT else None
    about: dict[str, Any] = json.load(file) if file else {}
    if about.get("format") != FORMAT:
        raise BackupRefused(f"{path} is no backup of Infini, or one of a newer version.")
    return Backup(path, about["version"], datetime.fromisoformat(about["made_at"]), about["has_database"])


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Plain files of the names that a backup has, nothing else, whoever made the archive."""
    if member.name == ABOUT:
        return
    parts = PurePosixPath(member.name).parts
    if not member.isfile() or ".." in parts or parts[0] not in {DATABASE, *(kept.name for kept in _kept())}:
        raise ValueError(f"it holds {member.name!r}, which no backup has")
    target = folder.joinpath(*parts)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = tar.extractfile(member)
    assert data is not None
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(data, file)


def _check_database(path: Path) -> None:
    """Whole, and not of a newer Infini: its tables would be unknown here."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            [told] = database.execute("PRAGMA quick_check(1)").fetchone()
            applied = set(database.execute("SELECT app, name FROM django_migrations"))
        except sqlite3.Error as error:
            raise BackupRefused(f"The database in the backup cannot be read: {error}.") from None
    if told != "ok":
        raise BackupRefused(f"The database in the backup is damaged: {told}.")
    known = set(MigrationLoader(None, ignore_no_migrations=True).disk_migrations)
    ours = {app for app, _ in known}
    if unknown := sorted(f"{app} {name}" for app, name in applied - known if app in ours):
        raise BackupRefused(
            f"The backup is of a newer Infini than {settings.VERSION} (it has {unknown[0]}). Restore it with that one."
        )


def _put_in_place(folder: Path) -> Path | None:
    """Move what is there aside and the new in; the next start brings the database up to date."""
    database = _database()
    there = [*_kept(), first_start.prepared_path()]
    if database:
        there += [database, *(database.with_name(database.name + end) for end in ("-wal", "-shm"))]
    there = [path for path in there if path.exists()]
    aside = settings.DATA_DIR / f"before-restore-{timezone.now():%Y%m%d-%H%M%S}"
    try:
        aside.mkdir(mode=0o700)
        for path in there:
            path.rename(aside / path.name)
        for path in sorted(folder.iterdir()):
            path.rename(database if database and path.name == DATABASE else settings.DATA_DIR / path.name)
    except OSError as error:
        raise BackupRefused(
            f"Half of it is in place ({error}). Mend that and restore again; what was here before is in {aside}."
        ) from None
    if not there:
        aside.rmdir()
    return aside if there else None
