"""Pictures people upload: told by their content, named by us, written whole or not at all."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.utils.translation import gettext as _
from PIL import Image

from infini.errors import Invalid, NotFound, TooLarge, Unavailable

PREFIX = "/api/uploads/"
CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}
# MPO is what phones write: a JPEG with further pictures behind the first.
_EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "GIF": "gif", "WEBP": "webp"}
_FILENAME = re.compile(r"[0-9a-f]{32}\.(?:png|jpg|gif|webp)")
_MAX_PIXELS = 16_000_000


def store_picture(file: BinaryIO, *, field: str = "file") -> str:
    """Keep an uploaded picture and return its file name; raises TooLarge, Invalid about ``field``, Unavailable."""
    limit = settings.UPLOAD_MAX_BYTES
    content = file.read(limit + 1)
    if len(content) > limit:
        text = _("A picture may have at most %(n)g MB.") % {"n": limit / (1024 * 1024)}
        raise TooLarge(text, fields={field: [text]})
    filename = f"{uuid.uuid4().hex}.{_extension_of(content, field)}"
    try:
        _write(settings.UPLOADS_DIR / filename, content)
    except OSError as error:
        raise Unavailable(_("The picture cannot be stored: %(strerror)s.") % {"strerror": error.strerror}) from None
    return filename


@contextmanager
def stored_picture(file: BinaryIO, *, field: str) -> Iterator[str]:
    """Keep a picture for as long as what is done with its address succeeds."""
    filename = store_picture(file, field=field)
    try:
        yield PREFIX + filename
    except BaseException:
        (settings.UPLOADS_DIR / filename).unlink(missing_ok=True)
        raise


def read_picture(filename: str) -> tuple[bytes, str]:
    """Content and content type of an upload; raises NotFound, also for names that are not ours."""
    if _FILENAME.fullmatch(filename):
        try:
            return (settings.UPLOADS_DIR / filename).read_bytes(), CONTENT_TYPES[filename.rpartition(".")[2]]
        except OSError:
            pass
    raise NotFound(_("There is no such picture."))


def _extension_of(content: bytes, field: str) -> str:
    """What the bytes are; every picture is decoded once, so that broken ones and bombs end here."""
    try:
        with _open(content) as picture:
            extension = _EXTENSIONS[picture.format or ""]
            _refuse_bomb(picture, field)
            picture.verify()
        with _open(content) as picture:
            picture.load()
    except Invalid:
        raise
    except Exception:  # noqa: BLE001  (decoders of foreign bytes fail in many ways, and each means the same)
        text = _("This is no readable PNG, JPEG, GIF or WebP picture.")
        raise Invalid(text, fields={field: [text]}) from None
    return extension


def _open(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content), formats=["PNG", "JPEG", "GIF", "WEBP"])


def _refuse_bomb(picture: Image.Image, field: str) -> None:
    if picture.width * picture.height > _MAX_PIXELS:
        text = _("A picture may have at most %(n)s million pixels.") % {"n": _MAX_PIXELS // 1_000_000}
        raise Invalid(text, fields={field: [text]})


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
