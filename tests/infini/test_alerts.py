"""Alerts and their delivery: told once, recovery too, no storm, nothing lost, nothing twice."""

import hashlib
import hmac
import socket
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_q.models import OrmQ

from infini import alert_delivery
from infini.alert_delivery import deliver_due, queue_delivery
from infini.alerts import FLAPPING, Subject, open_alert, open_all, recover, recover_all
from infini.models import Alert, AlertDelivery, AlertKind, AlertTarget, Event
from tests.receivers import HttpReceiver

pytestmark = pytest.mark.django_db(transaction=True)

OFFLINE, FAILED = AlertKind.SERVER_OFFLINE, AlertKind.INSTANCE_FAILED
GPU = Subject("server", "7", "gpu-07")
CANARY = "canary-alert-9d1c"


def passed(wait: timedelta) -> None:
    """As if ``wait`` had gone by, for alerts and deliveries."""
    for delivery in AlertDelivery.objects.all():
        delivery.next_at -= wait
        delivery.tried_at = delivery.tried_at and delivery.tried_at - wait
        delivery.save()
    for alert in Alert.objects.exclude(recovered_at=None):
        alert.recovered_at -= wait
        alert.save()


def test_told_once_and_recovery_once(hook: AlertTarget, receiver: HttpReceiver) -> None:
    assert open_alert(OFFLINE, GPU, "gpu-07: no answer.") and not open_alert(OFFLINE, GPU, "again")
    assert (deliver_due(), deliver_due()) == (1, 0)
    assert recover(OFFLINE, GPU, "gpu-07 answers again.") and not recover(OFFLINE, GPU)
    assert (deliver_due(), deliver_due()) == (1, 0)

    first, second = (post.json for post in receiver.posts)
    assert first | {"opened_at": "", "site": ""} == {
        "kind": "server_offline",
        "state": "open",
        "subject": {"kind": "server", "id": "7", "name": "gpu-07"},
        "message": "gpu-07: no answer.",
        "opened_at": "",
        "recovered_at": None,
        "site": "",
    }
    assert (second["state"], second["message"]) == ("recovered", "gpu-07 answers again.")
    assert second["opened_at"] == first["opened_at"] < second["recovered_at"] and first["site"].startswith("http")
    assert list(Event.objects.order_by("id").values_list("kind", flat=True)) == ["alert.opened", "alert.recovered"]
    hook.refresh_from_db()
    assert hook.last_sent_at and hook.last_error == ""


def test_the_signature_is_right_and_only_with_a_key(hook: AlertTarget, receiver: HttpReceiver) -> None:
    open_alert(OFFLINE, GPU, "Größe")
    deliver_due()
    AlertTarget.objects.update(secret="")
    recover(OFFLINE, GPU)
    deliver_due()
    signed, unsigned = receiver.posts
    digest = hmac.new(CANARY.encode(), signed.body, hashlib.sha256).hexdigest()
    assert signed.headers["x-infini-signature"] == f"sha256={digest}"
    assert "x-infini-signature" not in unsigned.headers
    assert signed.headers["x-infini-delivery"] != unsigned.headers["x-infini-delivery"]


def test_only_wanted_kinds_and_enabled_targets_are_told(hook: AlertTarget, receiver: HttpReceiver) -> None:
    AlertTarget.objects.update(kinds=["instance_failed"])
    AlertTarget.objects.create(name="off", address=receiver.url, enabled=False)
    open_alert(OFFLINE, GPU, "x")
    open_alert(FAILED, Subject("instance", "1", "svc on gpu-07"), "x")
    deliver_due()
    assert receiver.told == [("instance_failed", "open")]


def test_what_is_due_to_a_target_switched_off_meanwhile_is_not_kept(hook: AlertTarget) -> None:
    open_alert(OFFLINE, GPU, "x")
    AlertTarget.objects.update(enabled=False)
    assert deliver_due() == 0
    assert (AlertDelivery.objects.get().state, queue_delivery()) == ("failed", False)


@pytest.mark.parametrize(
    ("status", "said"), [(500, "It answered 500."), (302, "It answered 302; redirects are not followed.")]
)
def test_refused_then_taken(status: int, said: str, hook: AlertTarget, receiver: HttpReceiver) -> None:
    receiver.statuses = [status]
    open_alert(OFFLINE, GPU, "x")
    assert (deliver_due(), deliver_due(), len(receiver.posts)) == (0, 0, 1)
    hook.refresh_from_db()
    assert hook.last_error == said and hook.last_sent_at is None
    passed(timedelta(seconds=29))
    assert deliver_due() == 0
    passed(timedelta(seconds=2))
    assert deliver_due() == 1
    hook.refresh_from_db()
    assert (hook.last_error, AlertDelivery.objects.get().state) == ("", "sent")


def test_given_up_after_five_attempts_and_said(hook: AlertTarget, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    AlertTarget.objects.update(address=f"http://127.0.0.1:{port}/{CANARY}")
    open_alert(OFFLINE, GPU, "x")
    waits = []
    for _attempt in range(5):
        deliver_due()
        waits.append(round((AlertDelivery.objects.get().next_at - timezone.now()).total_seconds(), -1))
        passed(timedelta(minutes=10))
    assert waits[:4] == [30, 120, 600, 600]
    delivery, hook = AlertDelivery.objects.get(), AlertTarget.objects.get()
    assert (delivery.state, delivery.attempts) == ("failed", 5)
    assert hook.last_error == "Given up after 5 attempts: It cannot be reached (connection refused)."
    assert Event.objects.filter(kind="alerttarget.given_up", subject_name="hook").count() == 1
    assert "alerts.given_up" in caplog.text and CANARY not in caplog.text
    recover(OFFLINE, GPU)
    assert AlertDelivery.objects.count() == 1, "who was not told of the opening is not told of its end"


def test_a_recovery_waits_for_its_opening(hook: AlertTarget, receiver: HttpReceiver) -> None:
    receiver.statuses = [500]
    open_alert(OFFLINE, GPU, "x")
    deliver_due()
    recover(OFFLINE, GPU)
    assert deliver_due() == 0
    passed(timedelta(seconds=31))
    deliver_due()
    passed(timedelta(seconds=6))
    deliver_due()
    assert receiver.told == [("server_offline", "open")] * 2 + [("server_offline", "recovered")]


def test_what_is_over_before_it_was_told_is_not_told(hook: AlertTarget, receiver: HttpReceiver) -> None:
    open_alert(OFFLINE, GPU, "x")
    recover(OFFLINE, GPU)
    assert (deliver_due(), receiver.posts, AlertDelivery.objects.count()) == (0, [], 0)


def test_flapping_is_damped_and_what_stays_open_is_told(hook: AlertTarget, receiver: HttpReceiver) -> None:
    open_alert(OFFLINE, GPU, "x")
    deliver_due()
    recover(OFFLINE, GPU)
    deliver_due()
    for _flap in range(4):
        passed(timedelta(minutes=1))
        assert open_alert(OFFLINE, GPU, "x") and deliver_due() == 0
        assert recover(OFFLINE, GPU) and deliver_due() == 0
    assert (Alert.objects.count(), len(receiver.posts)) == (1, 2)

    open_alert(OFFLINE, GPU, "x")
    passed(FLAPPING)
    assert deliver_due() == 1
    recover(OFFLINE, GPU)
    assert deliver_due() == 1
    passed(FLAPPING)
    open_alert(OFFLINE, GPU, "x")
    assert (deliver_due(), Alert.objects.count()) == (1, 2)


def test_reopened_before_the_recovery_was_told_is_silent(hook: AlertTarget, receiver: HttpReceiver) -> None:
    open_alert(OFFLINE, GPU, "x")
    deliver_due()
    recover(OFFLINE, GPU)
    open_alert(OFFLINE, GPU, "x")
    passed(FLAPPING)
    assert (deliver_due(), len(receiver.posts)) == (0, 1)
    recover(OFFLINE, GPU)
    assert (deliver_due(), receiver.told[-1]) == (1, ("server_offline", "recovered"))


def test_twenty_a_minute_and_one_summary(hook: AlertTarget, receiver: HttpReceiver) -> None:
    open_all(OFFLINE, {Subject("server", f"s{n}", f"gpu-{n}"): "x" for n in range(50)})
    assert deliver_due() == 20
    summary = receiver.posts[-1].json
    assert summary["kind"] == "summary" and summary["message"].startswith("and 31 more: Server offline: gpu-19;")
    assert len(summary["alerts"]) == 31
    assert not AlertDelivery.objects.exclude(state="sent").exists()

    open_alert(OFFLINE, GPU, "one more")
    open_alert(OFFLINE, Subject("server", "gone", "other"), "one more")
    assert (deliver_due(), queue_delivery()) == (0, False), "the minute is full"
    passed(timedelta(minutes=1))
    assert deliver_due() == 2


def test_opening_many_takes_as_many_statements_as_few(hook: AlertTarget) -> None:
    def statements(tag: str, count: int) -> tuple[int, int]:
        subjects = [Subject("server", f"{tag}{n}", f"{tag}{n}") for n in range(count)]
        with CaptureQueriesContext(connection) as opening:
            open_all(OFFLINE, dict.fromkeys(subjects, "x"))
        with CaptureQueriesContext(connection) as ending:
            recover_all(OFFLINE, dict.fromkeys(subjects, "x"))
        return len(opening), len(ending)

    assert statements("a", 2) == statements("b", 60)


def test_two_workers_deliver_each_once(hook: AlertTarget, receiver: HttpReceiver) -> None:
    open_all(OFFLINE, {Subject("server", str(n), f"gpu-{n}"): "x" for n in range(8)})
    receiver.hold, start, sent = threading.Event(), threading.Barrier(2), []

    def work() -> None:
        try:
            start.wait()
            sent.append(deliver_due())
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    receiver.hold.set()
    for worker in workers:
        worker.join(20)
    assert sum(sent) == 8
    assert sorted(post.json["subject"]["id"] for post in receiver.posts) == sorted(map(str, range(8)))


def test_a_worker_that_died_is_made_up_for(
    hook: AlertTarget, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    def die(*args: object) -> None:
        raise SystemExit

    open_alert(OFFLINE, GPU, "x")
    with monkeypatch.context() as dying:
        dying.setattr(alert_delivery, "_deliver", die)
        with pytest.raises(SystemExit):
            deliver_due()
    assert deliver_due() == 0
    assert timedelta(seconds=settings.Q_CLUSTER["timeout"]) < alert_delivery.LEASE
    passed(alert_delivery.LEASE)
    assert (deliver_due(), receiver.told) == (1, [("server_offline", "open")])


def test_who_lost_his_claim_writes_nothing(hook: AlertTarget) -> None:
    open_alert(OFFLINE, GPU, "x")
    late = alert_delivery._claim(hook, timezone.now())
    assert late
    passed(alert_delivery.LEASE)
    assert deliver_due() == 1
    alert_delivery._record_failure(late, late.ids_from(0), "too late")
    delivery = AlertDelivery.objects.get()
    assert (delivery.state, delivery.error) == ("sent", "")


def test_one_slow_target_holds_up_no_other(
    hook: AlertTarget, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infini.alert_messages.TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        AlertTarget.objects.create(name="a-slow", address=f"http://127.0.0.1:{silent.getsockname()[1]}/")
        open_alert(OFFLINE, GPU, "x")
        assert deliver_due() == 1
    slow = AlertTarget.objects.get(name="a-slow")
    assert slow.last_error.startswith("No answer within")


def test_queued_only_when_due_and_not_over_and_over(hook: AlertTarget, receiver: HttpReceiver) -> None:
    assert not queue_delivery()
    open_alert(OFFLINE, GPU, "x")
    assert queue_delivery() and not queue_delivery()
    task = OrmQ.objects.get().task
    assert task["func"] == "infini.tasks.deliver_alerts"
    from infini.tasks import deliver_alerts

    deliver_alerts()
    assert receiver.told == [("server_offline", "open")]
