"""Files on a server, over SFTP: whole small ones, and large ones in pieces."""

import contextlib
import itertools
import posixpath
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import paramiko
from django.utils.translation import gettext_noop
from paramiko.sftp import CMD_CLOSE, CMD_OPENDIR, CMD_READDIR

from infini.errors import TooLarge
from inventory.ssh.access import SshAccess
from inventory.ssh.connections import CONNECT_TIMEOUT_SECONDS, connected
from inventory.ssh.errors import SshConnectionLost, SshError, SshFileRefused
from inventory.ssh.handshakes import BROKEN

PIECE_BYTES = 32 * 1024
# How long one answer of the server may take.
ANSWER_TIMEOUT_SECONDS = 60.0
# Pieces that are asked for at once while a file is read.
_AHEAD = 64

Pieces = bytes | Iterable[bytes]


@dataclass(frozen=True)
class RemoteFile:
    """One entry of a directory. ``kind`` is "file", "directory", "link" or "other"."""

    name: str
    kind: str
    size: int
    mode: int
    modified_at: datetime | None


class Files:
    """An SFTP session; get it from ``opened``. Every method raises SshFileRefused or SshConnectionLost."""

    def __init__(self, access: SshAccess, sftp: paramiko.SFTPClient) -> None:
        self._access = access
        self._sftp = sftp

    def put(self, content: Pieces, path: str, *, mode: int = 0o644, most_bytes: int | None = None) -> int:
        """Write ``path`` and return its size. It appears complete or not at all, replacing what was there.

        Raises TooLarge when ``content`` goes past ``most_bytes``.
        """
        unfinished = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.{secrets.token_hex(4)}")
        with self._told(path):
            try:
                size = self._write(content, unfinished, mode, most_bytes)
                self._sftp.posix_rename(unfinished, path)
            except BaseException:
                with contextlib.suppress(*BROKEN):
                    self._sftp.remove(unfinished)
                raise
        return size

    def _write(self, content: Pieces, path: str, mode: int, most_bytes: int | None) -> int:
        size = 0
        with self._sftp.open(path, "wx") as file:
            file.chmod(mode)
            file.set_pipelined(True)
            for piece in [content] if isinstance(content, bytes) else content:
                size += len(piece)
                if most_bytes is not None and size > most_bytes:
                    raise TooLarge(
                        gettext_noop("The file is larger than %(most_bytes)s bytes.") % {"most_bytes": most_bytes}
                    )
                file.write(piece)
        return size

    def read(self, path: str, most_bytes: int) -> bytes:
        """The content of ``path``; raises TooLarge above ``most_bytes``."""
        return b"".join(self.pieces(path, most_bytes=most_bytes))

    def pieces(self, path: str, *, most_bytes: int | None = None) -> Iterator[bytes]:
        """The content of ``path`` piece by piece, read a little ahead; raises TooLarge above ``most_bytes``."""
        with self._told(path), self._sftp.open(path, "rb") as file:
            size = file.stat().st_size or 0
            if most_bytes is not None and size > most_bytes:
                raise TooLarge(
                    gettext_noop("%(path)s has %(size)s bytes; at most %(most_bytes)s are read.")
                    % {"path": path, "size": size, "most_bytes": most_bytes}
                )
            given = 0
            for piece in _read_ahead(file, size):
                given += len(piece)
                if most_bytes is not None and given > most_bytes:
                    raise TooLarge(
                        gettext_noop("%(path)s grew past %(most_bytes)s bytes while it was read.")
                        % {"path": path, "most_bytes": most_bytes}
                    )
                yield piece

    def read_part(self, path: str, offset: int, most: int) -> bytes:
        """Up to ``most`` bytes of ``path`` from ``offset``; fewer only at its end."""
        with self._told(path), self._sftp.open(path, "rb") as file:
            return b"".join(file.readv(_blocks(offset, min(most, max(0, (file.stat().st_size or 0) - offset)))))

    def write_part(self, path: str, offset: int, content: bytes, *, begin: bool, known_as: str) -> None:
        """Write ``content`` at ``offset`` of ``path``, which ``begin`` makes anew and nobody else may read until it is
        whole. A refusal speaks of ``known_as``."""
        with self._told(known_as), self._sftp.open(path, "wx" if begin else "r+") as file:
            if begin:
                file.chmod(0o600)
            file.set_pipelined(True)
            file.seek(offset)
            file.write(content)

    def move_into_place(self, unfinished: str, path: str, *, mode: int) -> None:
        """Let ``path`` be what was written as ``unfinished``, replacing what was there."""
        with self._told(path):
            self._sftp.chmod(unfinished, mode)
            self._sftp.posix_rename(unfinished, path)

    def list_directory(self, path: str, *, most: int = 5000) -> list[RemoteFile]:
        """What is in ``path``, by name; the first ``most`` the server tells.

        A name that is no UTF-8 is written with its odd bytes as ``\\xe9``; its kind is "other": nobody can ask for it.
        """
        with self._told(path):
            found = list(itertools.islice(self._entries(path), most))
        return sorted(found, key=lambda file: file.name)

    def _entries(self, path: str) -> Iterator[RemoteFile]:
        """paramiko's own listing breaks at the first name that is no UTF-8."""
        directory = self._sftp._request(CMD_OPENDIR, path.encode())[1].get_string()
        try:
            while True:
                answer = self._sftp._request(CMD_READDIR, directory)[1]
                for _entry in range(answer.get_int()):
                    name, _line = answer.get_string(), answer.get_string()
                    about = paramiko.SFTPAttributes._from_msg(answer)
                    if name not in (b".", b".."):
                        yield _named(name, about)
        except EOFError:
            return  # the last was told
        finally:
            with contextlib.suppress(*BROKEN):
                self._sftp._request(CMD_CLOSE, directory)

    def stat(self, path: str) -> RemoteFile:
        """What ``path`` is, links followed."""
        with self._told(path):
            return _remote_file(posixpath.basename(path), self._sftp.stat(path))

    def absolute(self, path: str) -> str:
        """``path`` as the server writes it out; "." is where the account begins."""
        with self._told(path):
            return self._sftp.normalize(path)

    def make_directory(self, path: str, *, mode: int = 0o755) -> None:
        with self._told(path):
            self._sftp.mkdir(path, mode)

    def remove(self, path: str) -> None:
        with self._told(path):
            self._sftp.remove(path)

    @contextlib.contextmanager
    def _told(self, path: str) -> Iterator[None]:
        """Turn what SFTP answers into a sentence."""
        name = self._access.server_name
        try:
            yield
        except FileNotFoundError:
            raise SshFileRefused(
                gettext_noop("%(path)s does not exist on %(name)s.") % {"path": path[:200], "name": name},
                code="file_not_found",
            ) from None
        except PermissionError:
            raise SshFileRefused(
                gettext_noop("The account %(username)s may not do that with %(path)s on %(name)s.")
                % {"username": self._access.username, "path": path[:200], "name": name}
            ) from None
        except UnicodeDecodeError:
            raise SshFileRefused(
                gettext_noop("%(path)s leads to a name on %(name)s that is no UTF-8.")
                % {"path": path[:200], "name": name}
            ) from None
        except (TimeoutError, EOFError, paramiko.SSHException):
            raise SshConnectionLost(
                gettext_noop("The connection to %(name)s was lost while %(path)s was in work.")
                % {"name": name, "path": path[:200]}
            ) from None
        except OSError as error:
            if self._sftp.sock.closed:
                raise SshConnectionLost(
                    gettext_noop("The connection to %(name)s was lost while %(path)s was in work.")
                    % {"name": name, "path": path[:200]}
                ) from None
            what = str(error.strerror or error)[:100]
            raise SshFileRefused(
                gettext_noop("%(name)s refuses %(path)s: %(what)s.") % {"name": name, "path": path[:200], "what": what}
            ) from None


@contextlib.contextmanager
def opened(access: SshAccess, connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS) -> Iterator[Files]:
    """An SFTP session on the shared connection; raises SshError."""
    with connected(access, connect_timeout_seconds) as connection:
        channel = connection.open_channel(timeout_seconds=connect_timeout_seconds)
    try:
        try:
            channel.settimeout(ANSWER_TIMEOUT_SECONDS)
            channel.invoke_subsystem("sftp")
            sftp = paramiko.SFTPClient(channel)
        except BROKEN:
            raise SshError(
                gettext_noop("%(server_name)s offers no file transfer (SFTP) for this account.")
                % {"server_name": access.server_name}
            ) from None
        yield Files(access, sftp)
    finally:
        with contextlib.suppress(*BROKEN):
            channel.close()


def put(
    access: SshAccess,
    content: Pieces,
    path: str,
    *,
    mode: int = 0o644,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
) -> int:
    """Write one file, see ``Files.put``; raises SshError."""
    with opened(access, connect_timeout_seconds) as files:
        return files.put(content, path, mode=mode)


def read(
    access: SshAccess, path: str, most_bytes: int, *, connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
) -> bytes:
    """The content of one file of at most ``most_bytes``; raises SshError, TooLarge."""
    with opened(access, connect_timeout_seconds) as files:
        return files.read(path, most_bytes)


def list_directory(
    access: SshAccess, path: str, *, connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
) -> list[RemoteFile]:
    """What is in one directory; raises SshError."""
    with opened(access, connect_timeout_seconds) as files:
        return files.list_directory(path)


def _blocks(offset: int, size: int) -> list[tuple[int, int]]:
    """Reads that SFTP servers answer whole, asked for all at once."""
    return [(at, min(PIECE_BYTES, offset + size - at)) for at in range(offset, offset + size, PIECE_BYTES)]


def _read_ahead(file: paramiko.SFTPFile, size: int) -> Iterator[bytes]:
    """Some pieces are asked for at once, and the next when these are taken: paramiko's own way of reading ahead
    keeps whatever a slow taker has not fetched yet."""
    for start in range(0, size, _AHEAD * PIECE_BYTES):
        wanted = range(start, min(size, start + _AHEAD * PIECE_BYTES), PIECE_BYTES)
        yield from filter(None, file.readv([(at, PIECE_BYTES) for at in wanted]))
    while piece := file.read(PIECE_BYTES):  # what has no size, such as in /proc, or has grown
        yield piece


def _named(name: bytes, found: paramiko.SFTPAttributes) -> RemoteFile:
    text = name.decode("utf-8", "backslashreplace")
    entry = _remote_file(text, found)
    return entry if text.encode() == name else replace(entry, kind="other")


def _remote_file(name: str, found: paramiko.SFTPAttributes) -> RemoteFile:
    mode = found.st_mode or 0
    kinds = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "link"))
    kind = next((kind for fits, kind in kinds if fits(mode)), "other")
    modified = datetime.fromtimestamp(found.st_mtime, UTC) if found.st_mtime is not None else None
    return RemoteFile(name, kind, found.st_size or 0, stat.S_IMODE(mode), modified)
