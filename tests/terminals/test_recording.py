"""Recordings: what stands in the file, after an end and after a crash; who may see them; how long they are kept."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone
from rest_framework.test import APIClient

from infini.models import User
from inventory.models import Recording, Server, TerminalSession
from inventory.terminals import recording, registry, rows
from inventory.terminals.recording import Recorder
from tests.terminals.conftest import PROMPT, row_of
from tests.terminals.test_sessions import Make

pytestmark = pytest.mark.django_db(transaction=True)


def read(path: Path) -> tuple[dict[str, Any], list[tuple[float, str, str]]]:
    head, *events = [json.loads(line) for line in b"".join(recording.whole_lines(path)).decode().splitlines()]
    return head, events


def written(path: Path, *pieces: bytes, most_bytes: int = 10**6) -> Recorder:
    recorder = Recorder(path, cols=80, rows=24, title="t", most_bytes=most_bytes)
    for piece in pieces:
        recorder.output(piece)
        recorder.flush()
    recording._writer.submit(lambda: None).result()
    return recorder


async def test_a_session_is_recorded_with_resize_and_exit(terminal: Make, operator: User, recordings_dir: Path) -> None:
    one = await (await terminal(operator)).open(cols=90, rows=20)
    assert one.frames[0]["recorded"] is True
    await one.until(PROMPT)
    await one.run(r"printf '\xe4\xbd'; sleep 0.1; printf '\xa0\xe5\xa5\xbd\n'; read -s -t 0.1 SECRET")
    await one.say({"type": "resize", "cols": 100, "rows": 30})
    await one.type("exit 4\r")
    await one.end()
    await registry.settled()
    row = await sync_to_async(row_of)(one.session)
    path = recordings_dir / row.recording.file
    head, events = read(path)
    assert (head["version"], head["term"]["cols"], head["term"]["type"]) == (3, 90, "xterm-256color")
    assert "你好" in "".join(text for _, code, text in events if code == "o")
    assert [text for _, code, text in events if code == "r"] == ["100x30"]
    assert events[-1][1:] == ["x", "4"] and all(interval >= 0 for interval, *_ in events)
    assert row.recording.state == "finished" and row.recording.bytes == path.stat().st_size
    assert row.recording.seconds == pytest.approx(sum(interval for interval, *_ in events), abs=0.01)
    assert (path.stat().st_mode & 0o777, recordings_dir.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(
    ("setting", "of_server", "recorded"),
    [("always", False, True), ("never", True, False), ("per-server", True, True), ("per-server", False, False)],
)
def test_the_policy(settings: Any, setting: str, of_server: bool, recorded: bool) -> None:
    settings.TERMINAL_RECORD = setting
    assert rows.recorded(Server(name="s", record_terminals=of_server)) is recorded


async def test_what_is_not_to_be_recorded_is_not(
    terminal: Make, operator: User, settings: Any, recordings_dir: Path
) -> None:
    settings.TERMINAL_RECORD = "never"
    one = await (await terminal(operator)).open()
    assert one.frames[0]["recorded"] is False
    await one.type("exit\r")
    await one.end()
    await registry.settled()
    assert not recordings_dir.exists() and await sync_to_async(Recording.objects.count)() == 0


def test_characters_cut_at_any_byte_are_whole(tmp_path: Path) -> None:
    text = "a€😀中\n"
    written(tmp_path / "one", *(bytes([byte]) for byte in text.encode()))
    assert "".join(event[2] for event in read(tmp_path / "one")[1]) == text
    written(tmp_path / "two", b"\xff\xfe ok \xe4")
    assert read(tmp_path / "two")[1][0][2] == "\ufffd\ufffd ok "


def test_a_crash_costs_no_more_than_the_last_line(tmp_path: Path) -> None:
    path = tmp_path / "cast"
    written(path, b"one\n", b"two\n")
    whole = path.read_bytes()
    for cut in range(len(whole.splitlines(keepends=True)[0]), len(whole)):
        path.write_bytes(whole[:cut])
        lines = b"".join(recording.whole_lines(path)).splitlines()
        assert all(json.loads(line) for line in lines) and len(lines) >= 1
        assert recording.length_of(path) >= 0


def test_the_size_limit_is_told_and_kept(tmp_path: Path) -> None:
    recorder = written(tmp_path / "cast", *[b"x" * 1000] * 50, most_bytes=5000)
    assert recorder.capped and recorder.backlog_bytes == 0
    recorder.resized(10, 10)
    recorder.flush()
    recording._writer.submit(lambda: None).result()
    assert (tmp_path / "cast").stat().st_size < 5200
    assert [code for _, code, _ in read(tmp_path / "cast")[1]][-2:] == ["m", "r"]


def test_a_full_disk_ends_the_recording_alone(tmp_path: Path) -> None:
    recorder = written(tmp_path / "no" / "such" / "folder", b"x", b"y")
    assert recorder.failed and recorder.backlog_bytes == 0


def _kept(user: User, ended_days_ago: float, name: str) -> Recording:
    at = timezone.now() - timedelta(days=ended_days_ago)
    session = TerminalSession.objects.create(
        key=rows.new_key(), user=user, user_name="operator", server_name="gpu-1", account="root", process="x:1:y",
        ended_at=at, ending="exit", exit_status=0,
    )  # fmt: skip
    written(recording.recordings_dir() / name, b"hello\r\n")
    return Recording.objects.create(session=session, file=name, state="finished", seconds=1, bytes=1)


def test_old_ones_are_deleted_with_their_files(operator: User, settings: Any, recordings_dir: Path) -> None:
    settings.RECORDING_KEEP_DAYS = 30
    old, new = _kept(operator, 31, "old"), _kept(operator, 29, "new")
    assert rows.prune() == 1 and rows.prune() == 0
    assert not Recording.objects.filter(pk=old.pk).exists() and not (recordings_dir / "old").exists()
    assert Recording.objects.filter(pk=new.pk).exists() and (recordings_dir / "new").exists()


def test_the_api_gives_them_to_administrators(api_as: Any, administrator: User, operator: User) -> None:
    made = _kept(operator, 1, "cast")
    boss: APIClient = api_as(administrator)
    [row] = boss.get("/api/recordings").json()
    assert (row["user"], row["server"], row["state"]) == ("operator", "gpu-1", "finished")
    answer = boss.get(f"/api/recordings/{made.pk}/cast")
    assert answer.status_code == 200
    assert api_as(operator).get(f"/api/recordings/{made.pk}/cast").status_code == 403
    assert boss.delete(f"/api/recordings/{made.pk}").status_code == 204
    assert not (recording.recordings_dir() / "cast").exists()


def test_lists_and_player_page(administrator: User, operator: User) -> None:
    from django.test import Client

    for number in range(3):
        made = _kept(operator, 1, f"cast{number}")
    web = Client()
    web.force_login(administrator)

    def queries(path: str) -> int:
        from django.db import connection
        from django.test.utils import CaptureQueriesContext

        with CaptureQueriesContext(connection) as seen:
            assert web.get(path).status_code == 200
        return len(seen)

    lists = (
        "/admin/inventory/recording/",
        "/admin/inventory/terminalsession/",
        "/api/recordings",
        "/api/terminals?state=ended",
    )
    before = [queries(path) for path in lists]
    for number in range(10):
        _kept(operator, 1, f"more{number}")
    assert [queries(path) for path in lists] == before
    page = web.get(f"/admin/inventory/recording/{made.pk}/")
    assert b"do/end/" in page.content and b"It is over." in page.content
    assert f'data-cast="/api/recordings/{made.pk}/cast"'.encode() in page.content
    other = Client()
    other.force_login(operator)
    assert other.get("/admin/inventory/recording/").status_code == 403
    assert other.get("/admin/inventory/terminalsession/").status_code == 200
