"""Files over the API and a real sshd: listed, downloaded in ranges, uploaded in pieces, each transfer an event."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from rest_framework.test import APIClient

from infini.models import Event, User
from inventory.models import Server

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def files(api: APIClient, server: Server) -> Any:
    class Files:
        def ask(self, method: str, what: str, data: Any = None, headers: Any = None, **query: Any) -> Any:
            from urllib.parse import urlencode

            path = f"/api/servers/{server.pk}/files{what}?{urlencode(query)}"
            return api.generic(
                method, path, data or b"", content_type="application/octet-stream", headers=headers or {}
            )

        def upload(self, path: Path, data: bytes, piece: int, **query: Any) -> Any:
            done, transfer, answer = 0, "", None
            while answer is None or done < len(data):
                part = data[done : done + piece]
                answer = self.ask("POST", "/upload", part, path=path, offset=done, size=len(data), transfer=transfer)
                if answer.status_code != 200:
                    return answer
                done, transfer = answer.json()["received"], answer.json()["transfer"]
            return answer

    return Files()


def test_a_directory(files: Any, tmp_path: Path) -> None:
    (tmp_path / "b dir").mkdir()
    (tmp_path / "a.txt").write_bytes(b"12345")
    (tmp_path / "名.bin").write_bytes(b"")
    (tmp_path / "to-dir").symlink_to(tmp_path / "b dir")
    (tmp_path / "to-nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    found = files.ask("GET", "", path=tmp_path).json()
    assert found["path"] == str(tmp_path) and found["truncated"] is False
    told = [(entry["name"], entry["kind"]) for entry in found["entries"]]
    assert told == [
        ("b dir", "directory"),
        ("to-dir", "directory"),
        ("a.txt", "file"),
        ("caf\\xe9", "other"),
        ("to-nowhere", "link"),
        ("名.bin", "file"),
    ]
    assert next(entry["size"] for entry in found["entries"] if entry["name"] == "a.txt") == 5
    assert files.ask("GET", "", path=".").json()["path"].startswith("/")
    (tmp_path / "to-odd").symlink_to(os.fsencode(tmp_path) + b"/caf\xe9")
    assert "no UTF-8" in files.ask("GET", "", path=tmp_path / "to-odd").json()["error"]["message"]
    refused = files.ask("GET", "", path=tmp_path / "no")
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "file_not_found"
    assert files.ask("GET", "").status_code == 400


def test_download_in_ranges(files: Any, tmp_path: Path) -> None:
    data = os.urandom(9 * 1024 * 1024 + 17)
    path = tmp_path / "weights"
    path.write_bytes(data)
    got, transfer = b"", ""
    while len(got) < len(data):
        answer = files.ask("GET", "/download", headers={"Range": f"bytes={len(got)}-"}, path=path, transfer=transfer)
        assert answer.status_code == 206 and len(answer.content) <= 4 * 1024 * 1024
        assert answer["Content-Range"].endswith(f"/{len(data)}")
        got += answer.content
        transfer = answer["X-Transfer"]
    assert got == data
    [event] = Event.objects.filter(kind="file.downloaded")
    assert (event.actor_name, event.subject_name, event.data) == (
        "operator",
        "gpu-1",
        {"path": str(path), "bytes": len(data)},
    )
    files.ask("GET", "/download", headers={"Range": "bytes=5-9"}, path=path, transfer="made-up")
    assert Event.objects.filter(kind="file.downloaded").count() == 2, "without its token it is a transfer of its own"
    (tmp_path / "empty").touch()
    assert files.ask("GET", "/download", path=tmp_path / "empty").content == b""
    assert files.ask("GET", "/download", path=tmp_path).status_code == 400


def test_upload_in_pieces(files: Any, tmp_path: Path) -> None:
    data = os.urandom(3 * 1024 * 1024 + 5)
    path = tmp_path / "up load.bin"
    path.write_bytes(b"before")
    path.chmod(0o640)
    assert files.upload(path, data, 1024 * 1024).json()["received"] == len(data)
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert path.stat().st_mode & 0o777 == 0o640 and [p.name for p in tmp_path.iterdir()] == ["up load.bin"]
    [event] = Event.objects.filter(kind="file.uploaded")
    assert event.data == {"path": str(path), "bytes": len(data)}
    assert files.upload(tmp_path / "empty", b"", 10).status_code == 200 and (tmp_path / "empty").read_bytes() == b""


def test_an_upload_is_unseen_until_it_is_whole_and_can_be_given_up(files: Any, tmp_path: Path) -> None:
    path = tmp_path / "part"
    first = files.ask("POST", "/upload", b"abc", path=path, offset=0, size=9, transfer="").json()
    assert first["received"] == 3 and not path.exists()
    [unfinished] = tmp_path.iterdir()
    assert unfinished.stat().st_mode & 0o777 == 0o600, "what it replaces may be secret"
    for _ in range(2):  # sent twice, because the answer was lost: the transfer's name is signed anew each time
        again = files.ask("POST", "/upload", b"def", path=path, offset=3, size=9, transfer=first["transfer"]).json()
        assert again["received"] == 6
    for query in ({"transfer": ""}, {"transfer": "made-up"}, {"transfer": first["transfer"], "size": 8}):
        asked = {"path": path, "offset": 6, "size": 9, **query}
        assert files.ask("POST", "/upload", b"gh", **asked).status_code == 409
    elsewhere = {"path": tmp_path / "other", "offset": 6, "size": 9, "transfer": first["transfer"]}
    assert files.ask("POST", "/upload", b"ghi", **elsewhere).status_code == 409
    assert files.ask("DELETE", "/upload", path=path, transfer=first["transfer"]).status_code == 204
    assert list(tmp_path.iterdir()) == [] and not Event.objects.filter(kind="file.uploaded").exists()


def test_an_upload_that_is_refused_leaves_nothing_behind(files: Any, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there", f"{tmp_path}/", f"{tmp_path}/there/.."):
        answer = files.ask("POST", "/upload", b"x", path=path, offset=0, size=1)
        assert answer.status_code == 400 and str(path) in answer.json()["error"]["message"]
    long = tmp_path / ("名" * 90)  # longer than a file's name may be
    refused = files.ask("POST", "/upload", b"x", headers={"Accept-Language": "zh-hans"}, path=long, offset=0, size=1)
    assert refused.status_code == 409 and ".part" not in refused.json()["error"]["message"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"] and not list((tmp_path / "there").iterdir())
    said = files.ask("GET", "/download", headers={"Accept-Language": "zh-hans"}, path=tmp_path).json()["error"]
    assert said["message"].endswith("不是文件。")


def test_limits(files: Any, tmp_path: Path, settings: Any) -> None:
    settings.FILE_MAX_BYTES = 2000
    path = tmp_path / "big"
    assert files.upload(path, b"x" * 3000, 1000).status_code == 413
    path.write_bytes(b"x" * 3000)
    assert files.ask("GET", "/download", path=path).status_code == 413
    settings.FILE_MAX_BYTES = 10**9
    assert (
        files.ask("POST", "/upload", b"x" * (4 * 1024 * 1024 + 1), path=path, offset=0, size=10**7).status_code == 413
    )
    assert files.ask("POST", "/upload", b"x", path=tmp_path / "no" / "dir", offset=0, size=1).status_code == 409


def test_each_direction_has_its_permission(api_as: Any, make_user: Any, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    user: User = make_user(None, "carrier")
    for code, reads, writes in (("download_files", 200, 403), ("upload_files", 403, 200)):
        user.user_permissions.set(Permission.objects.filter(codename=code))
        client = api_as(User.objects.get(pk=user.pk))
        base = f"/api/servers/{server.pk}/files"
        assert client.get(f"{base}/download?path={path}").status_code == reads
        posted = client.generic("POST", f"{base}/upload?path={path}&offset=0&size=1", b"y", content_type="a/b")
        assert posted.status_code == writes
