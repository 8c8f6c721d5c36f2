"""Alerts in the admin: everybody who reads sees them, administrators say who is told."""

from django.test import Client

from infini.alerts import Subject, open_alert, recover
from infini.models import AlertDelivery, AlertKind, AlertTarget, Event
from inventory.models import Server
from tests.admin.conftest import form_data, messages_of
from tests.receivers import http_receiver

TARGETS, ALERTS = "/admin/infini/alerttarget/", "/admin/infini/alert/"
CANARY = "canary-target-51f0"


def test_an_administrator_adds_tests_and_changes_a_target(admin: Client) -> None:
    with http_receiver() as receiver:
        data = {"name": "hook", "kind": "webhook", "address": receiver.url, "secret": CANARY, "enabled": "on"}
        assert admin.post(f"{TARGETS}add/", {**data, "kinds": ["brake"]}).status_code == 302
        target = AlertTarget.objects.get()
        assert (target.secret, target.kinds, target.version) == (CANARY, ["brake"], 1)

        page = f"{TARGETS}{target.pk}/"
        assert "Not tried" in admin.get(page).content.decode()
        done = admin.post(f"{page}do/test/", follow=True)
        assert "The test message was taken: hook." in messages_of(done) and "Reached" in done.content.decode()
        receiver.statuses = [500]
        refused = admin.post(f"{page}do/test/", follow=True)
        assert "was not taken: It answered 500." in messages_of(refused) and "Not reached" in refused.content.decode()

    kept = {name: value for name, value in form_data(admin.get(f"{page}change/")).items() if name != "secret"}
    assert admin.post(f"{page}change/", {**kept, "name": "renamed"}).status_code == 302
    target.refresh_from_db()
    assert (target.name, target.secret, target.last_error) == ("renamed", CANARY, "It answered 500.")
    assert CANARY not in str(list(Event.objects.values_list("data", flat=True)))


def test_the_form_refuses_an_address_that_does_not_fit(admin: Client) -> None:
    data = {"name": "mail", "kind": "email", "address": "http://127.0.0.1/", "enabled": "on"}
    response = admin.post(f"{TARGETS}add/", data)
    assert response.context["adminform"].form.errors == {"address": ["Enter an e-mail address."]}


def test_others_see_alerts_and_no_targets(viewing: Client, operating: Client, admin: Client) -> None:
    target = AlertTarget.objects.create(name="hook", address="http://127.0.0.1:1/")
    admin.post(f"{TARGETS}{target.pk}/do/test/")
    server = Server.objects.create(name="gpu-07", host_ip="127.0.0.1")
    open_alert(AlertKind.SERVER_OFFLINE, Subject.of(server), "gpu-07: no answer.")
    for client in (viewing, operating):
        for path in ("", "add/", f"{target.pk}/", f"{target.pk}/change/"):
            assert client.get(TARGETS + path).status_code == 403
        assert client.post(f"{TARGETS}{target.pk}/do/test/").status_code == 403
        html = client.get(ALERTS).content.decode()
        assert "gpu-07: no answer." in html and f'href="/admin/inventory/server/{server.pk}/"' in html
        assert TARGETS not in html and ALERTS in html
        assert "alerttarget" not in client.get("/admin/infini/event/").content.decode()
    assert TARGETS in admin.get(ALERTS).content.decode()


def test_open_alerts_come_first_and_nobody_changes_them(admin: Client) -> None:
    first, second = (Subject("server", str(n), f"gpu-{n}") for n in (1, 2))
    open_alert(AlertKind.SERVER_OFFLINE, first, "first")
    open_alert(AlertKind.SERVER_OFFLINE, second, "second")
    recover(AlertKind.SERVER_OFFLINE, second, "second is back")
    response = admin.get(ALERTS)
    assert [alert.subject_name for alert in response.context["cl"].result_list] == ["gpu-1", "gpu-2"]
    assert "second is back" in response.content.decode()
    assert [a.subject_name for a in admin.get(f"{ALERTS}?state__exact=open").context["cl"].result_list] == ["gpu-1"]
    assert admin.get(f"{ALERTS}add/").status_code == 403


def test_a_target_leaves_with_its_deliveries(admin: Client) -> None:
    target = AlertTarget.objects.create(name="hook", address="http://127.0.0.1:1/")
    open_alert(AlertKind.BRAKE, Subject("site", "", "Infini"), "x")
    assert "Automatic action paused: Infini" in admin.get(f"{TARGETS}{target.pk}/").content.decode()
    done = admin.post(f"{TARGETS}{target.pk}/do/delete_selected/", {"confirmed": "1", "word": target.name}, follow=True)
    assert "Deleted: hook." in messages_of(done) and not AlertDelivery.objects.exists()
