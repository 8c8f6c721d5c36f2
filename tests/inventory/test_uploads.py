"""Pictures: told by content, named by us, whole or not at all, for logged-in people."""

import re
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from infini.models import User

Picture = Callable[..., bytes]


def send(api: APIClient, content: bytes, name: str = "logo.png", field: str = "file"):
    return api.post("/api/upload", {field: SimpleUploadedFile(name, content)}, format="multipart")


def stored(uploads_dir: Path) -> list[str]:
    return [path.name for path in uploads_dir.iterdir()] if uploads_dir.exists() else []


@pytest.mark.parametrize(
    ("kind", "extension", "content_type"),
    [
        ("PNG", "png", "image/png"),
        ("JPEG", "jpg", "image/jpeg"),
        ("MPO", "jpg", "image/jpeg"),
        ("GIF", "gif", "image/gif"),
        ("WEBP", "webp", "image/webp"),
    ],
)
def test_a_picture_is_kept_and_served(
    api: APIClient, picture: Picture, uploads_dir: Path, kind: str, extension: str, content_type: str
) -> None:
    answer = send(api, picture(kind), name="../../evil.svg")
    assert answer.status_code == 201, answer.content
    body = answer.json()
    assert re.fullmatch(rf"[0-9a-f]{{32}}\.{extension}", body["filename"])
    assert body == {"url": f"/api/uploads/{body['filename']}", "filename": body["filename"]}
    assert stored(uploads_dir) == [body["filename"]]
    assert stat.S_IMODE((uploads_dir / body["filename"]).stat().st_mode) == 0o600
    for accept in ("*/*", "image/avif,image/webp", "text/html"):
        served = api.get(body["url"], HTTP_ACCEPT=accept)
        assert (served.status_code, served.content, served["Content-Type"]) == (200, picture(kind), content_type)
    assert served["X-Content-Type-Options"] == "nosniff"
    assert "immutable" in served["Cache-Control"] and "private" in served["Cache-Control"]


def test_the_form_field_may_have_another_name(api: APIClient, picture: Picture, uploads_dir: Path) -> None:
    assert send(api, picture(), field="image").status_code == 201


@pytest.mark.parametrize(
    "content",
    [
        b"hello, I am text\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x89PNG\r\n\x1a\n" + b"\x00" * 64,
        b"GIF89a",
        b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        b"BM" + b"\x00" * 60,
    ],
)
def test_what_is_no_picture_is_refused_and_not_kept(api: APIClient, uploads_dir: Path, content: bytes) -> None:
    answer = send(api, content)
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"].keys() == {"file"}
    assert stored(uploads_dir) == []


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(api: APIClient, picture: Picture, uploads_dir: Path, kind: str) -> None:
    assert send(api, picture(kind, (32, 32))).status_code == 400
    assert stored(uploads_dir) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_off_picture_is_refused(api: APIClient, picture: Picture, uploads_dir: Path, kind: str) -> None:
    whole = picture(kind, (200, 200))
    assert send(api, whole[: len(whole) * 2 // 3]).status_code == 400
    assert stored(uploads_dir) == []


def test_a_picture_too_large_is_413(api: APIClient, picture: Picture, uploads_dir: Path) -> None:
    answer = send(api, picture() + b"\x00" * (20 * 1024 * 1024))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert stored(uploads_dir) == []


def test_the_limit_is_a_setting(api: APIClient, picture: Picture, uploads_dir: Path, settings: Any) -> None:
    settings.UPLOAD_MAX_BYTES = len(picture())
    assert send(api, picture()).status_code == 201
    settings.UPLOAD_MAX_BYTES -= 1
    assert send(api, picture()).status_code == 413


def bomb(width: int, height: int) -> bytes:
    """A small PNG that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\x00" * (width + 1) * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(5000, 5000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused(api: APIClient, uploads_dir: Path, size: tuple[int, int]) -> None:
    assert send(api, bomb(*size)).status_code == 400
    assert stored(uploads_dir) == []


def test_no_file_other_bodies_and_an_empty_file(api: APIClient, uploads_dir: Path) -> None:
    assert api.post("/api/upload", {"x": "y"}, format="multipart").status_code == 400
    assert api.post("/api/upload", {"file": "text"}, format="multipart").status_code == 400
    assert send(api, b"").status_code == 400
    assert api.post("/api/upload", {"file": "x"}, format="json").status_code == 415


@pytest.mark.parametrize(
    "name", ["x.png", "..%2fsecrets%2fsigning-key", "a" * 32 + ".png", "A" * 32 + ".png", "." + "a" * 32 + ".png", ".."]
)
def test_no_other_file_is_served(api: APIClient, uploads_dir: Path, name: str) -> None:
    uploads_dir.mkdir()
    (uploads_dir / "x.png").write_bytes(b"not ours")
    (uploads_dir.parent / "signing-key").write_text("canary")
    answer = api.get(f"/api/uploads/{name}")
    assert answer.status_code == 404 and b"canary" not in answer.content


def test_pictures_are_for_people_who_are_logged_in(
    api: APIClient, viewer: User, api_as: Callable, picture: Picture, uploads_dir: Path
) -> None:
    url = send(api, picture()).json()["url"]
    assert api_as(None).get(url).status_code == 401
    assert api_as(viewer).get(url).status_code == 200
    assert send(api_as(viewer), picture()).status_code == 403
    assert send(api_as(None), picture()).status_code == 401
    assert len(stored(uploads_dir)) == 1


def test_a_full_disk_is_said_so(api: APIClient, picture: Picture, uploads_dir: Path) -> None:
    uploads_dir.write_text("a file where the directory should be")
    answer = send(api, picture())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
