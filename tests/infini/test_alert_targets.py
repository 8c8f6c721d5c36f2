"""Targets: what may be one, by mail and over TLS, tested by a person; their secret is never shown."""

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from infini.alert_delivery import deliver_due, send_test
from infini.alerts import Subject, open_alert, open_all, recover
from infini.errors import Unavailable
from infini.models import AlertKind, AlertTarget, Event, User
from tests.inventory.test_agents import make_certificate
from tests.receivers import HttpReceiver, SmtpSink, http_receiver

pytestmark = pytest.mark.django_db(transaction=True)

OFFLINE, FAILED = AlertKind.SERVER_OFFLINE, AlertKind.INSTANCE_FAILED
GPU = Subject("server", "7", "gpu-07")
CANARY = "canary-alert-9d1c"


def test_by_mail(sink: SmtpSink) -> None:
    AlertTarget.objects.create(name="mail", kind="email", address="ops@example.org")
    open_alert(OFFLINE, Subject("server", "7", "gpu\r\nBcc: x"), "gpu-07: no answer.")
    assert deliver_due() == 1
    recover(OFFLINE, Subject("server", "7", ""), "gpu-07 answers again.")
    assert deliver_due() == 1
    first, second = sink.mails
    assert first["Subject"] == "[Infini] Server offline: gpu Bcc: x" and first["Bcc"] is None
    assert second["Subject"].startswith("[Infini] Recovered: ")
    assert "gpu-07: no answer." in first.get_content() and "Since: 2" in first.get_content()
    assert sink.recipients == ["ops@example.org"] * 2


def test_each_target_is_told_in_its_language(sink: SmtpSink) -> None:
    AlertTarget.objects.create(name="mail", kind="email", address="ops@example.org")
    chinese = AlertTarget.objects.create(name="yunwei", kind="email", address="yunwei@example.org", language="zh-hans")
    with http_receiver() as hook:
        AlertTarget.objects.create(name="hook", address=hook.url, language="zh-hans")
        open_alert(OFFLINE, GPU, "gpu-07: no answer since 2026-11-20 14:02:07 UTC.")
        assert deliver_due() == 3
        recover(OFFLINE, GPU, "")
        assert deliver_due() == 3
        documents = [json.loads(post.body) for post in hook.posts]
    assert sorted(sink.recipients) == ["ops@example.org"] * 2 + ["yunwei@example.org"] * 2
    told = {(mail["To"], mail["Subject"]): mail.get_content() for mail in sink.mails}
    assert "gpu-07: no answer since" in told["ops@example.org", "[Infini] Server offline: gpu-07"]
    text = told["yunwei@example.org", "[Infini] 服务器离线: gpu-07"]
    assert "gpu-07：自 2026-11-20 14:02:07 UTC 起" in text and "no answer" not in text and "Since" not in text
    assert "已恢复" in " ".join(subject for to, subject in told if to == "yunwei@example.org")
    assert documents[0]["message"] in text
    assert (documents[0]["kind"], documents[0]["state"]) == ("server_offline", "open")

    send_test(chinese, by=None)
    assert sink.mails[-1]["Subject"] == "[Infini] 测试" and "这是一条测试" in sink.mails[-1].get_content()


def test_a_refused_recipient_and_a_missing_mail_server_are_said(sink: SmtpSink, settings: Any) -> None:
    target = AlertTarget.objects.create(name="mail", kind="email", address="ops@example.org")
    sink.refuse_recipients = True
    for host, said in (("127.0.0.1", "refused the recipient"), ("", "set INFINI_SMTP_HOST")):
        settings.EMAIL_HOST = host
        with pytest.raises(Unavailable, match=said):
            send_test(target, by=None)
        target.refresh_from_db()
        assert said in target.last_error
    assert sink.mails == []


def test_a_dead_mail_server_is_said(sink: SmtpSink, settings: Any) -> None:
    target = AlertTarget.objects.create(name="mail", kind="email", address="ops@example.org")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        settings.EMAIL_PORT = closed.getsockname()[1]
    with pytest.raises(Unavailable, match="connection refused"):
        send_test(target, by=None)


def test_the_secret_is_shown_nowhere(
    administrator: User, api_as: Callable[..., Any], receiver: HttpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    api, browser = api_as(administrator), Client()
    browser.force_login(administrator)
    made = api.post("/api/alert-targets", {"name": "hook", "address": receiver.url, "secret": CANARY}, format="json")
    path, page = f"/api/alert-targets/{made.json()['id']}", f"/admin/infini/alerttarget/{made.json()['id']}/"
    assert made.status_code == 201 and made.json()["secret_set"] is True
    receiver.statuses = [500]
    open_alert(OFFLINE, GPU, "x")
    deliver_due()
    shown = [made, api.get("/api/alert-targets"), api.get(path), api.patch(path, {"name": "x"}, format="json")]
    shown += [api.post(f"{path}/test"), browser.get(page), browser.get(f"{page}change/")]
    shown += [browser.get("/admin/infini/alerttarget/"), browser.get("/admin/infini/event/")]
    for answer in shown:
        assert answer.status_code in (200, 201) and CANARY.encode() not in answer.content
    assert CANARY not in str(list(Event.objects.values_list("data", flat=True))) + caplog.text
    assert AlertTarget.objects.get().secret == CANARY
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret FROM infini_alerttarget")
        assert CANARY not in str(cursor.fetchall())


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"address": "ftp://127.0.0.1/"}, "address"),
        ({"address": "http://"}, "address"),
        ({"address": "http://user:word@127.0.0.1/"}, "address"),
        ({"address": "http://127.0.0.1/a b"}, "address"),
        ({"address": "http://127.0.0.1:99999/"}, "address"),
        ({"kind": "email", "address": "http://127.0.0.1/"}, "address"),
        ({"kinds": ["nonsense"]}, "kinds.0"),
        ({"name": "TAKEN"}, "name"),
    ],
)
def test_what_the_api_refuses(values: dict, field: str, administrator: User, api_as: Callable[..., Any]) -> None:
    AlertTarget.objects.create(name="taken", address="http://127.0.0.1/")
    body = {"name": "hook", "address": "http://127.0.0.1/"} | values
    answer = api_as(administrator).post("/api/alert-targets", body, format="json")
    assert answer.status_code == 400 and field in answer.json()["error"]["fields"]


def test_the_api_changes_tests_and_removes(
    administrator: User, api_as: Callable[..., Any], hook: AlertTarget, receiver: HttpReceiver
) -> None:
    api, path = api_as(administrator), f"/api/alert-targets/{hook.pk}"
    assert api.patch(path, {"kind": "email"}, format="json").status_code == 400, "the address fits no more"
    assert api.patch(path, {"enabled": False, "version": 9}, format="json").status_code == 409
    assert api.patch(path, {"kinds": ["brake"]}, format="json").json()["kinds"] == ["brake"]
    assert api.post(f"{path}/test").status_code == 200 and receiver.told == [("test", "open")]
    receiver.statuses = [500]
    refused = api.post(f"{path}/test")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_delivered")
    tested = Event.objects.filter(kind="alerttarget.tested").order_by("id")
    assert [event.data["sent"] for event in tested] == [True, False]
    assert api.delete(path).status_code == 204 and not AlertTarget.objects.exists()


def test_the_api_lists_alerts_for_whoever_reads(viewer: User, api_as: Callable[..., Any]) -> None:
    open_alert(OFFLINE, GPU, "gpu-07: no answer.")
    open_alert(FAILED, GPU, "x")
    recover(FAILED, GPU, "ready")
    api = api_as(viewer)
    [row] = api.get("/api/alerts?state=open").json()
    assert (row["subject"], row["state"]) == ({"kind": "server", "id": "7", "name": "gpu-07"}, "open")
    assert len(api.get("/api/alerts").json()) == 2
    assert api.get("/api/alerts?state=nonsense").status_code == 400


def test_a_certificate_nobody_vouches_for_is_refused(hook: AlertTarget, tmp_path: Path) -> None:
    with http_receiver(make_certificate(tmp_path, "receiver")) as receiver:
        AlertTarget.objects.update(address=receiver.url)
        with pytest.raises(Unavailable, match="Its TLS certificate is not valid"):
            send_test(AlertTarget.objects.get(), by=None)
        assert receiver.posts == []


def test_lists_over_the_api_do_not_grow(administrator: User, api_as: Callable[..., Any], hook: AlertTarget) -> None:
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as asked:
            assert api.get(path).status_code == 200
        return len(asked)

    api, paths = api_as(administrator), ("/api/alerts", "/api/alert-targets")
    open_alert(OFFLINE, GPU, "x")
    before = [queries(path) for path in paths]
    open_all(OFFLINE, {Subject("server", f"s{n}", f"gpu-{n}"): "x" for n in range(20)})
    AlertTarget.objects.bulk_create(AlertTarget(name=f"t{n}", address="http://127.0.0.1/") for n in range(20))
    assert [queries(path) for path in paths] == before
