"""Files between a person and a server, in pieces: no file is ever held whole, here or by the web server, which takes
whatever it is given to send however slowly the client reads.

Each piece is a request of its own. What ties them together is a signed token that only we can make: it says whose
transfer of which file it is, so that a transfer without one is a new one, with an event of its own.
"""

import posixpath
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.core import signing
from django.utils.translation import gettext as _

from infini import events
from infini.errors import Conflict, Invalid, TooLarge
from infini.models import User
from inventory.models import Server
from inventory.ssh import files as sftp
from inventory.ssh.access import SshAccess
from inventory.ssh.errors import SshError, SshFileRefused
from inventory.ssh.files import Files, RemoteFile

PIECE_BYTES = 4 * 1024 * 1024
SHOWN_ENTRIES = 2000
TOKEN_SECONDS = 24 * 3600
_SALT = "inventory.transfer"


@dataclass(frozen=True)
class Directory:
    path: str
    entries: list[RemoteFile]
    truncated: bool


@dataclass(frozen=True)
class Transfer:
    """One file on its way. ``unfinished`` is where an upload is written until it is whole."""

    kind: str
    user_id: int
    server_id: int
    path: str
    size: int
    unfinished: str = ""

    def token(self) -> str:
        return signing.dumps(self.__dict__, salt=_SALT, compress=True)


@dataclass(frozen=True)
class Piece:
    transfer: Transfer
    offset: int
    data: bytes


def list_directory(server: Server, path: str) -> Directory:
    """What is in ``path``, directories first; raises SshError. "." is where the account begins."""
    with sftp.opened(SshAccess.of(server)) as files:
        whole = files.absolute(path)
        found = files.list_directory(whole, most=SHOWN_ENTRIES + 1)
        shown = [_followed(files, whole, entry) for entry in found[:SHOWN_ENTRIES]]
    shown.sort(key=lambda entry: (entry.kind != "directory", entry.name))
    return Directory(whole, shown, len(found) > SHOWN_ENTRIES)


def _followed(files: Files, path: str, entry: RemoteFile) -> RemoteFile:
    """A link as what it leads to; one that leads nowhere stays a link."""
    if entry.kind == "link":
        with suppress(SshFileRefused):
            return replace(files.stat(posixpath.join(path, entry.name)), name=entry.name)
    return entry


def download_piece(user: User, server: Server, path: str, *, offset: int, most: int, token: str) -> Piece:
    """Up to ``most`` bytes of ``path`` from ``offset``; raises SshError, TooLarge, Invalid."""
    transfer = _known("download", user, server, path, token)
    with sftp.opened(SshAccess.of(server)) as files:
        if transfer is None:
            transfer = _begin_download(files, user, server, path)
        data = files.read_part(path, offset, min(most, PIECE_BYTES)) if offset < transfer.size else b""
    return Piece(transfer, offset, data)


def _begin_download(files: Files, user: User, server: Server, path: str) -> Transfer:
    found = files.stat(path)
    if found.kind != "file":
        raise Invalid(_("%(path)s is no file.") % {"path": path[:200]})
    _check_size(found.size)
    events.record("file.downloaded", server, by=user, data={"path": path, "bytes": found.size})
    return Transfer("download", user.pk, server.pk, path, found.size)


def upload_piece(
    user: User, server: Server, path: str, *, offset: int, size: int, data: bytes, token: str
) -> tuple[Transfer, int]:
    """Write ``data`` at ``offset`` of a file of ``size`` bytes; returns how many bytes are there.

    The file appears under its name with its last byte, and replaces what was there, whose mode it keeps. A piece may
    be sent again. Raises SshError, TooLarge, Conflict, Invalid.
    """
    _check_size(size)
    if offset + len(data) > size or (not data and size):
        raise Invalid(_("A piece must lie within the file's size."))
    known = _known("upload", user, server, path, token)
    if known is None and offset:
        raise Conflict(_("This upload is unknown or too old; begin it again."))
    if known and known.size != size:
        raise Conflict(_("This upload began with another size."))
    with sftp.opened(SshAccess.of(server)) as files:
        transfer = known or _begin_upload(files, user, server, path, size)
        received = offset + len(data)
        try:
            files.write_part(transfer.unfinished, offset, data, begin=known is None, known_as=path)
            if received == size:
                _finish_upload(files, transfer, user, server)
        except (SshFileRefused, Conflict):
            if known is None or received == size:  # nobody can go on with it, nor give it up
                with suppress(SshError):
                    files.remove(transfer.unfinished)
            raise
    return transfer, received


def _begin_upload(files: Files, user: User, server: Server, path: str, size: int) -> Transfer:
    directory, name = posixpath.split(path)
    is_directory = name in ("", ".", "..")
    with suppress(SshFileRefused):  # nothing is there yet
        is_directory = is_directory or files.stat(path).kind == "directory"
    if is_directory:
        raise Invalid(_("%(path)s is a directory; name the file that is to be in it.") % {"path": path[:200]})
    unfinished = posixpath.join(directory, f".{_short(name)}.{secrets.token_hex(4)}.part")
    return Transfer("upload", user.pk, server.pk, path, size, unfinished)


def _short(name: str) -> str:
    """What leaves room in a file name, which has at most 255 bytes, for ours around it."""
    return name.encode()[:200].decode(errors="ignore")


def _finish_upload(files: Files, transfer: Transfer, user: User, server: Server) -> None:
    there = files.stat(transfer.unfinished).size
    if there != transfer.size:
        raise Conflict(
            _("%(there)s of %(size)s bytes have arrived; begin the upload again.")
            % {"there": there, "size": transfer.size}
        )
    mode = 0o644
    with suppress(SshFileRefused):
        mode = files.stat(transfer.path).mode
    files.move_into_place(transfer.unfinished, transfer.path, mode=mode)
    events.record("file.uploaded", server, by=user, data={"path": transfer.path, "bytes": transfer.size})


def cancel_upload(user: User, server: Server, path: str, *, token: str) -> None:
    """Remove what has arrived of an upload; raises SshError, Conflict."""
    transfer = _known("upload", user, server, path, token)
    if transfer is None:
        raise Conflict(_("This upload is unknown or too old; begin it again."))
    with sftp.opened(SshAccess.of(server)) as files:
        files.remove(transfer.unfinished)


def _check_size(size: int) -> None:
    if size > settings.FILE_MAX_BYTES:
        raise TooLarge(
            _("The file has %(size)s bytes; at most %(most)s are transferred.")
            % {"size": size, "most": settings.FILE_MAX_BYTES}
        )


def _known(kind: str, user: User, server: Server, path: str, token: str) -> Transfer | None:
    """The transfer ``token`` stands for, when it is this one."""
    try:
        stored: Any = signing.loads(token, salt=_SALT, max_age=TOKEN_SECONDS) if token else None
    except signing.BadSignature:
        return None
    if stored is None:
        return None
    found = Transfer(**stored)
    same = (found.kind, found.user_id, found.server_id, found.path) == (kind, user.pk, server.pk, path)
    return found if same else None
