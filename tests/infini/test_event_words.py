"""The timeline speaks in words, not in the code's names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.utils import translation

from infini.event_words import event_words, known
from infini.models import Event
from infini.timeline import event_text

ROOT = Path(__file__).resolve().parents[2]
APPS = ("infini", "inventory", "deployments", "chat", "scheduler")


def recorded_kinds() -> Iterator[str]:
    """Every kind that stands as a text in a call of ``record`` or ``describe``."""
    for app in APPS:
        for path in (ROOT / app).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in ("record", "describe") and isinstance(node.args[0].value, str):
                    yield node.args[0].value


@pytest.mark.parametrize("kind", sorted(set(recorded_kinds())))
def test_each_kind_has_words(kind: str) -> None:
    assert known(kind)


def test_words_say_what_became_of_it() -> None:
    def words(kind: str, **data: object) -> str:
        return event_words(Event(kind=kind, data=data))

    assert words("service.deploy_asked") == "is to be deployed"
    assert words("service.deploy_returned") == "failed and went back"
    assert words("instance.phase", to="lost") == "Lost"
    assert words("server.created") == "added"
    assert words("something.new") == "something.new"


def test_details_are_readable() -> None:
    done = Event(kind="service.deploy_done", data={"operation": 7, "results": {"gpu-1": "done", "gpu-2": "failed"}})
    assert event_text(done) == "results: gpu-1 done, gpu-2 failed"
    phase = Event(
        kind="instance.phase", data={"from": "running", "to": "failed", "server": "gpu-1", "reason": "exit 1"}
    )
    assert event_text(phase) == "server: gpu-1; reason: exit 1"


def test_words_follow_the_language() -> None:
    with translation.override("zh-hans"):
        assert event_words(Event(kind="user.logged_in", data={}))
