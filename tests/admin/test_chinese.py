"""The admin in Chinese: pages with rows on them say nothing in English."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser

import pytest
from django.test import Client
from django.utils import translation

from deployments.models import Instance, Operation, Service
from deployments.phases import Phase
from infini import alerts
from infini.alerts import Subject
from infini.models import AlertKind, User
from inventory.models import Server
from tests.admin.conftest import run_instances


@pytest.fixture(autouse=True)
def nobody_elses_language() -> Iterator[None]:
    """A request leaves its language behind in the thread."""
    yield
    translation.deactivate()


class _Seen(HTMLParser):
    """What a page says to eye and ear: texts and titles, neither scripts nor code nor names of icons."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._left_out: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.texts += [text for name in ("title", "aria-label", "placeholder", "alt") if (text := given.get(name))]
        if tag in ("script", "style", "code", "pre", "textarea", "kbd") or "material-symbols" in (
            given.get("class") or ""
        ):
            self._left_out.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._left_out and self._left_out[-1] == tag:
            self._left_out.pop()

    def handle_data(self, data: str) -> None:
        if not self._left_out and data.strip():
            self.texts.append(" ".join(data.split()))


_ENGLISH = re.compile(r"\b[A-Za-z]{2,} [a-z]{2,}\b|^[A-Z]?[a-z]{3,}[.:…]?$")
_NAMES = {
    "Ctrl",
    "administrator",
    "Agent",
    "Infini",
    "English",
    "Webhook",
    "production",
    "operator",
    "esc",
    "Ollama",
    "Xinference",
    "Maker",
    "one",
    "svc",
    "chat-7b",
}


def english_in(html: str) -> list[str]:
    seen = _Seen()
    seen.feed(html)
    return [text for text in seen.texts if _ENGLISH.search(text) and text not in _NAMES]


@pytest.fixture
def reading(administrator: User, as_user: Callable[[User], Client]) -> Client:
    """An administrator who reads Chinese."""
    User.objects.filter(pk=administrator.pk).update(language="zh-hans")
    return as_user(administrator)


LISTS = (
    *("", "account/", "infini/event/", "infini/user/", "infini/user/add/", "infini/apikey/", "infini/apikey/add/"),
    *("infini/alert/", "infini/alerttarget/", "infini/alerttarget/add/"),
    *("inventory/server/", "inventory/server/add/", "inventory/server/import/", "inventory/brand/", "inventory/card/"),
    *("inventory/card/add/", "inventory/environment/", "inventory/aimodel/", "inventory/device/"),
    *("deployments/service/", "deployments/service/add/", "deployments/operation/", "deployments/unknowninstance/"),
    *("inventory/installation/", "inventory/recording/", "inventory/terminalsession/", "inventory/terminal/"),
    *(
        "scheduler/task/",
        "scheduler/task/add/",
        "scheduler/run/",
        "scheduler/savedcommand/",
        "scheduler/savedcommand/add/",
    ),
    *("chat/conversation/", "chat/conversation/compare/", "chat/usage/", "chat/endpoint/", "chat/endpoint/add/"),
    *("chat/trafficrule/", "chat/trafficrule/add/"),
)


@pytest.fixture
def failed(make_service: Callable[..., Service]) -> Service:
    """A service whose instance failed, with an alert of it: reasons as background work writes them, in English."""
    service = make_service("svc")
    run_instances(
        service, Phase.FAILED, ready=False, reason="Not heard from since 2026-11-20 14:02:07 UTC; it may still run."
    )
    Operation.objects.filter(service=service).update(reason="There was nothing to stop.")
    instance = Instance.objects.get(placement__service=service)
    alerts.open_alert(AlertKind.INSTANCE_FAILED, Subject.of(instance), "svc failed: the process ended")
    return service


@pytest.mark.parametrize("path", LISTS)
def test_pages_in_chinese_say_nothing_in_english(path: str, reading: Client, failed: Service) -> None:
    response = reading.get(f"/admin/{path}")
    assert response.status_code == 200
    assert english_in(response.content.decode()) == []


@pytest.mark.parametrize("tab", ["", "logs", "revisions", "events", "usage"])
def test_a_service_in_chinese(tab: str, reading: Client, failed: Service) -> None:
    html = reading.get(f"/admin/deployments/service/{failed.pk}/", {"tab": tab}).content.decode()
    assert english_in(html) == []
    assert "未运行" in html


@pytest.mark.parametrize("tab", ["", "history", "instances", "files", "events"])
def test_a_server_in_chinese(tab: str, reading: Client, failed: Service) -> None:
    server = Server.objects.get(name="one")
    html = reading.get(f"/admin/inventory/server/{server.pk}/", {"tab": tab}).content.decode()
    assert english_in(html) == []


def test_an_operation_in_chinese(reading: Client, failed: Service) -> None:
    operation = Operation.objects.get(service=failed)
    html = reading.get(f"/admin/deployments/operation/{operation.pk}/").content.decode()
    assert english_in(html) == [] and "没有需要停止的内容。" in html


def test_without_a_choice_of_his_own_the_browser_decides(
    admin_client: Client, make_server: Callable[..., Server]
) -> None:
    assert (
        "服务器" in admin_client.get("/admin/inventory/server/", headers={"accept-language": "zh-CN"}).content.decode()
    )
    assert "Servers" in admin_client.get("/admin/inventory/server/", headers={"accept-language": "fr"}).content.decode()
