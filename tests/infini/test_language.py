"""Chinese: complete, exact, compiled, and what people see and programs are told when they ask for it."""

import ast
import gettext
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import translation
from rest_framework.test import APIClient

from deployments.agent_words import SENTENCES
from deployments.models import Service
from infini import events
from infini.models import Event, User
from infini.roles import WORDS
from infini.said import SYSTEM_WORDS, said
from inventory.installation import words
from inventory.models import Brand, Environment, Installation, Server
from inventory.shown_installations import step_rows
from scheduler import library


@pytest.fixture(autouse=True)
def nobody_elses_language() -> Iterator[None]:
    """A request leaves its language behind in the thread."""
    yield
    translation.deactivate()


ROOT = Path(settings.BASE_DIR)
OURS = ROOT / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"
THEME = ROOT / "locale" / "unfold" / "zh_Hans" / "LC_MESSAGES" / "django.po"
SOURCES = ("chat", "deployments", "infini", "inventory", "scheduler", "templates")
_PLACEHOLDER = re.compile(r"%\(\w+\)[-.\d]*[a-z]|%%|%[sd]|\{\w*\}")
_LINE = re.compile(r'(msgctxt|msgid_plural|msgid|msgstr)(?:\[\d\])? (".*")')


def entries(path: Path) -> Iterator[dict[str, str]]:
    """What stands in a catalogue's source, without its header; obsolete and guessed entries are told by ``odd``."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        entry: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith("#"):
                entry["odd"] = entry.get("odd", "") + (line if line.startswith("#~") or "fuzzy" in line else "")
            elif found := _LINE.fullmatch(line):
                key, text = found.groups()
                entry[key] = ast.literal_eval(text)
            elif line:
                entry[key] += ast.literal_eval(line)
        if entry.get("msgid") or entry.get("odd"):
            yield entry


def name_of(entry: dict[str, str]) -> str:
    return f"{entry['msgctxt']}\x04{entry['msgid']}" if "msgctxt" in entry else entry["msgid"]


@pytest.mark.parametrize("path", [OURS, THEME], ids=["ours", "theme"])
def test_every_text_has_its_translation(path: Path) -> None:
    assert [e.get("msgid") for e in entries(path) if e.get("odd") or not e.get("msgstr")] == []


@pytest.mark.parametrize("path", [OURS, THEME], ids=["ours", "theme"])
def test_placeholders_stay(path: Path) -> None:
    for entry in entries(path):
        asked = _PLACEHOLDER.findall(entry.get("msgid_plural") or entry["msgid"])
        assert sorted(asked) == sorted(_PLACEHOLDER.findall(entry["msgstr"])), entry


@pytest.mark.parametrize("path", [OURS, THEME], ids=["ours", "theme"])
def test_what_is_compiled_is_what_is_written(path: Path) -> None:
    """Nothing is compiled after a clone: the compiled catalogue is kept beside its source."""
    with path.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    texts = {key[0] if isinstance(key, tuple) else key: text for key, text in compiled._catalog.items() if key}  # type: ignore[attr-defined]
    assert texts == {name_of(entry): entry["msgstr"] for entry in entries(path)}


def collected(folder: Path) -> set[str]:
    """What is marked as text in the sources that lie in ``folder``."""
    if not shutil.which("xgettext"):
        missing = "no gettext tools here: whether new texts are in the catalogue cannot be told"
        pytest.fail(missing) if os.environ.get("INFINI_CI") == "1" else pytest.skip(missing)
    (folder / "locale").mkdir(exist_ok=True)
    options = ["makemessages", "--locale", "zh_Hans", "--no-location", "--verbosity", "0"]
    env = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    subprocess.run([sys.executable, "-m", "django", *options], cwd=folder, env=env, check=True, timeout=120)
    return {
        name_of(entry)
        for entry in entries(folder / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po")
        if entry.get("msgid")
    }


def test_the_catalogue_has_what_the_sources_have(tmp_path: Path) -> None:
    """After a change of texts: `make messages`, translate what is new, `make messages` again."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    known = {name_of(entry) for entry in entries(OURS)}
    found = collected(tmp_path)
    assert sorted(found - known) == []
    assert sorted(known - found) == []


def test_the_theme_says_nothing_in_english(tmp_path: Path) -> None:
    """Its own catalogue lacks Chinese; what Django says in the same words comes from Django."""
    found = find_spec("unfold")
    assert found and found.origin
    shutil.copytree(Path(found.origin).parent, tmp_path / "unfold", ignore=shutil.ignore_patterns("locale", "static"))
    with translation.override("zh-hans"):
        english = {text for text in collected(tmp_path) if "\x04" not in text and not _is_translated(text)}
    assert english == set()


def _is_translated(text: str) -> bool:
    plural = translation.ngettext(text, text, 1)
    return translation.gettext(text) != text or plural != text or text in _SAME_IN_BOTH


_SAME_IN_BOTH = {"%(class_name)s %(instance)s"}

# What programs are told


def test_errors_come_in_the_callers_language_with_the_same_code(api: APIClient) -> None:
    service = Service.objects.create(name="svc")
    path = f"/api/services/{service.pk}/deploy"
    chinese, english = (api.post(path, headers={"accept-language": asked}).json() for asked in ("zh-hans", "en"))
    assert chinese["error"] == {"code": "no_command", "message": "该服务还没有部署命令，请先填写。"}
    assert english["error"]["code"] == "no_command"
    assert english["error"]["message"] == "This service has no deploy command yet; enter one first."


def test_fields_are_told_in_it_too(api: APIClient) -> None:
    given = {"name": "x", "host_ip": "not an address"}
    error = api.post("/api/servers", given, format="json", headers={"accept-language": "zh-hans"}).json()["error"]
    assert error["code"] == "invalid" and "请输入 IP 地址或主机名" in str(error["fields"]["host_ip"])


def test_stored_sentences_are_said_by_the_api_too(api: APIClient) -> None:
    server = Server.objects.create(
        name="one",
        host_ip="127.0.0.1",
        environment=Environment.objects.create(name="production"),
        agent_error="The agent on one did not answer within 5 s.",
    )
    answer = api.get(f"/api/servers/{server.pk}", headers={"accept-language": "zh-hans"}).json()
    assert answer["agent_error"] == "one 上的 Agent 在 5 秒内没有响应。"


# What is stored


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("There was nothing to stop.", "没有需要停止的内容。"),
        ("The process ended with exit code 137.", "进程已结束，退出码 137。"),
        ("It keeps failing. The process ended with exit code 1.", "持续失败。进程已结束，退出码 1。"),
        ("svc on gpu-07 failed: the process ended", "gpu-07 上的 svc 失败：进程已结束"),
        (
            "1 of 1 failed. gpu-07: It keeps failing. Exited with code 3.",
            "1 台中有 1 台失败。gpu-07：持续失败。进程退出，退出码 3。",
        ),
        ("r12 failed, r11 is deployed again. gpu-07: Not ready.", "r12 失败，重新部署 r11。gpu-07：未就绪。"),
        ("gpu-07: Exited with code 3.", "gpu-07：进程退出，退出码 3。"),
        (
            "1 of 1 failed. one: cwd: Give the absolute path of a directory that exists on this server.",
            "1 台中有 1 台失败。one：cwd：请填写该服务器上已存在目录的绝对路径。",
        ),
        ("CUDA error: out of memory", "CUDA error: out of memory"),
        ("", ""),
    ],
)
def test_a_stored_sentence_is_said_in_the_readers_language(stored: str, shown: str) -> None:
    assert said(stored) == stored
    with translation.override("zh-hans"):
        assert said(stored) == shown


def test_the_agents_sentences_are_those_it_writes() -> None:
    agent = (ROOT / "agent" / "infini_agent.py").read_text(encoding="utf-8")
    assert [text for text in SENTENCES if re.sub(r"%\(\w+\)", "%", text) not in agent] == []


def test_the_installers_sentences_are_those_it_writes() -> None:
    installer = (ROOT / "agent" / "install_agent.py").read_text(encoding="utf-8")
    assert [text for text in words.SENTENCES if re.sub(r"%\(\w+\)", "%", text) not in installer] == []


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("Version 0.3.0 reports, with no instance.", "版本 0.3.0 已上报，没有实例。"),
        (
            "Version 0.3.0 reports, with 2 instances (a, b). 2 of 2 run on as the same process.",
            "版本 0.3.0 已上报，2 个实例（a, b）。2 个中有 2 个以同一进程继续运行。",
        ),
        (
            "Start it again: it runs another version than the file on disk.",
            "重新启动：它运行的版本与磁盘上的文件不同。",
        ),
        (
            "It starts at boot and is kept running by cron (/etc/a). cron is installed and does not "
            "run. After a reboot nothing starts it.",
            "已由 cron (/etc/a) 开机启动并保持运行。已安装 cron，但没有运行。重启后不会有任何程序启动它。",
        ),
    ],
)
def test_a_step_of_an_installation_in_chinese(stored: str, shown: str) -> None:
    steps = [{"name": "start", "state": "done", "text": stored, "output": "", "started_at": "", "finished_at": ""}]
    with translation.override("zh-hans"):
        assert step_rows(Installation(kind="install", steps=steps))[0].text == shown


def test_a_brand_is_called_by_its_chinese_name_and_stored_by_its_own(administrator: User) -> None:
    brand = Brand.objects.create(name="Huawei", name_zh="华为")
    with translation.override("zh-hans"):
        assert str(brand) == "华为"
        events.record("brand.changed", brand, by=administrator)
    assert Event.objects.get(subject_kind="brand").subject_name == "Huawei"
    assert str(brand) == "Huawei"


def test_roles_have_words() -> None:
    with translation.override("zh-hans"):
        assert [str(word) for word in WORDS.values()] == ["只读用户", "运维人员", "管理员"]


def test_what_the_system_says_and_what_examples_say_is_said_in_chinese() -> None:
    told = [text for job in json.loads(library.FILE.read_text()) for text in texts_of(job)]
    with translation.override("zh-hans"):
        for text in (*SYSTEM_WORDS, *told):
            assert said(text) != text, text
        sentence = "The agent on gpu-1 cannot be reached at 10.0.0.1:8888: Connection refused."
        assert said(sentence) == "无法连接 gpu-1 上的 Agent（10.0.0.1:8888）：连接被拒绝。"


def texts_of(job: dict[str, Any]) -> list[str]:
    return [job["description"], *(parameter["label"] for parameter in job.get("parameters", []))]
