"""Logging in: attempts limited, sessions listed and ended, the second step."""

from collections.abc import Callable
from datetime import timedelta

import pyotp
import pytest
from django.test import Client
from django.utils import timezone

from infini import logins, two_step
from infini.errors import Conflict, Invalid
from infini.models import Event, LoginFailure, LoginSession, User

pytestmark = pytest.mark.django_db

LOGIN, CODE, ACCOUNT = "/admin/login/", "/admin/login/code/", "/admin/account/"
PASSWORD = "a-long-password"


def log_in(client: Client, password: str = PASSWORD, name: str = "viewer", address: str = "192.0.2.7"):  # noqa: ANN201
    return client.post(LOGIN, {"username": name, "password": password}, REMOTE_ADDR=address)


def code_of(user: User) -> str:
    user.refresh_from_db()
    return pyotp.TOTP(user.totp_secret).now()


@pytest.fixture
def guarded(viewer: User) -> tuple[User, list[str]]:
    """Somebody with two-step login on, and his recovery codes."""
    secret = two_step.new_secret()
    codes = two_step.turn_on(
        viewer, secret=secret, code=pyotp.TOTP(secret).at(timezone.now() - timedelta(seconds=30)), by=viewer
    )
    return viewer, codes


def test_logging_in_and_out_is_told(viewer: User, client: Client) -> None:
    assert log_in(client).url == "/admin/"
    told = Event.objects.get(kind="user.logged_in")
    assert (told.actor, told.address) == (viewer, "192.0.2.7")
    assert client.get(LOGIN).url == "/admin/", "who is in needs no login"
    client.post("/admin/logout/")
    assert Event.objects.filter(kind="user.logged_out", actor=viewer).exists()
    assert not LoginSession.objects.exists()


def test_failures_are_counted_per_name_and_address(viewer: User, client: Client) -> None:
    for _ in range(logins.FAILURES_OF_A_NAME):
        assert b"is not right" in log_in(client, "wrong").content
    assert b"Too many failed logins" in log_in(client).content, "the right password is not even looked at"
    assert b"Too many" in log_in(client, name="VIEWER").content
    assert Event.objects.filter(kind="user.login_failed").count() == logins.FAILURES_OF_A_NAME
    assert log_in(Client(), address="192.0.2.8").status_code == 302, "nobody is locked out by somebody else"
    LoginFailure.objects.update(at=timezone.now() - logins.WINDOW)
    assert log_in(client).status_code == 302
    assert not LoginFailure.objects.filter(name="viewer", address="192.0.2.7").exists()


def test_one_address_does_not_try_many_names(viewer: User, client: Client) -> None:
    for number in range(logins.FAILURES_OF_AN_ADDRESS):
        log_in(client, "wrong", name=f"name-{number}", address=f"2001:db8::{number + 1:x}")
    assert b"Too many" in log_in(client, address="2001:db8::ffff").content, "one /64 is one caller"
    assert log_in(client, address="2001:db8:1::1").status_code == 302


def test_old_failures_are_forgotten(viewer: User, client: Client) -> None:
    log_in(client, "wrong")
    LoginFailure.objects.update(at=timezone.now() - logins.KEPT - timedelta(seconds=1))
    log_in(client, "wrong")
    assert LoginFailure.objects.count() == 1


def test_a_proxy_is_believed_only_when_trusted(viewer: User, client: Client, settings: object) -> None:
    headers = {"HTTP_X_FORWARDED_FOR": "203.0.113.9, 198.51.100.4"}
    for trusted, expected in ((False, "127.0.0.1"), (True, "198.51.100.4")):
        settings.TRUST_PROXY = trusted  # type: ignore[attr-defined]
        Client().post(LOGIN, {"username": "viewer", "password": PASSWORD}, **headers)
        assert Event.objects.filter(kind="user.logged_in").first().address == expected


def test_sessions_are_listed_and_ended(viewer: User, client: Client) -> None:
    other = Client(HTTP_USER_AGENT="Other/1.0")
    log_in(client)
    log_in(other, address="192.0.2.8")
    page = client.get(ACCOUNT).content.decode()
    assert "Other/1.0" in page and "192.0.2.8" in page and "this one" in page
    line = LoginSession.objects.get(address="192.0.2.8")
    asked = client.post("/admin/account/sessions/end/", {"session": line.pk}).content.decode()
    assert "End 1 session?" in asked and other.get(ACCOUNT).status_code == 200
    client.post("/admin/account/sessions/end/", {"session": line.pk, "confirmed": "1"})
    assert other.get(ACCOUNT).status_code == 302
    assert client.get(ACCOUNT).status_code == 200
    log_in(other)
    client.post("/admin/account/sessions/end/", {"confirmed": "1"})
    assert other.get(ACCOUNT).status_code == 302
    assert client.get(ACCOUNT).status_code == 200


def test_nobody_ends_the_sessions_of_others(viewer: User, operator: User, client: Client) -> None:
    theirs = Client()
    log_in(theirs, name="operator")
    log_in(client)
    client.post(
        "/admin/account/sessions/end/", {"session": LoginSession.objects.get(user=operator).pk, "confirmed": "1"}
    )
    assert theirs.get(ACCOUNT).status_code == 200


def test_an_administrator_logs_somebody_out(viewer: User, administrator: User, client: Client) -> None:
    theirs = Client()
    log_in(theirs)
    client.force_login(administrator)
    chosen = {"action": "end_sessions", "_selected_action": viewer.pk, "confirmed": 1}
    client.post("/admin/infini/user/", chosen)
    assert theirs.get(ACCOUNT).status_code == 302


def test_a_changed_password_keeps_one_line(viewer: User, client: Client) -> None:
    log_in(client)
    fresh = {"old_password": PASSWORD, "new_password1": "another-long-one-9", "new_password2": "another-long-one-9"}
    assert client.post("/admin/password_change/", fresh).status_code == 302
    client.get(ACCOUNT)
    assert logins.open_sessions(viewer).count() == 1


def test_the_second_step(guarded: tuple[User, list[str]], client: Client) -> None:
    user, _codes = guarded
    assert log_in(client).url == CODE
    assert client.get(ACCOUNT).status_code == 302, "the password alone opens nothing"
    assert client.get("/api/stats").status_code == 401
    assert client.get(CODE).status_code == 200
    assert b"not right" in client.post(CODE, {"code": "000000"}).content
    code = code_of(user)
    assert client.post(CODE, {"code": code}).url == "/admin/"
    assert client.get(ACCOUNT).status_code == 200
    again = Client()
    log_in(again)
    assert b"used already" in again.post(CODE, {"code": code}).content


def test_a_recovery_code_opens_once(guarded: tuple[User, list[str]], client: Client) -> None:
    _user, codes = guarded
    log_in(client)
    assert client.post(CODE, {"code": codes[3].upper()}).status_code == 302
    log_in(other := Client())
    assert b"not right" in other.post(CODE, {"code": codes[3]}).content
    assert b"9." in client.get(ACCOUNT).content


def test_the_second_step_is_limited_and_runs_out(guarded: tuple[User, list[str]], client: Client) -> None:
    user, _codes = guarded
    log_in(client)
    session = client.session
    session["login_pending"] = {**session["login_pending"], "at": 0}
    session.save()
    assert client.post(CODE, {"code": code_of(user)}).url == LOGIN
    log_in(client)
    for _ in range(logins.FAILURES_OF_A_NAME):
        client.post(CODE, {"code": "ÄÖ12"})
    assert b"Too many" in client.post(CODE, {"code": code_of(user)}).content


def test_turning_it_on_takes_a_code_and_off_the_password(viewer: User, client: Client) -> None:
    client.force_login(viewer)
    client.post("/admin/account/two-step/begin/")
    secret = client.session["two_step_secret"]
    page = client.get(ACCOUNT)
    assert secret in page.content.decode() and b"<svg" in page.content and page["Cache-Control"] == "no-store"
    client.post("/admin/account/two-step/on/", {"code": "123"})
    viewer.refresh_from_db()
    assert viewer.totp_secret == ""
    shown = client.post("/admin/account/two-step/on/", {"code": pyotp.TOTP(secret).now()})
    assert shown.content.count(b"<li><code>") == two_step.RECOVERY_CODES
    client.post("/admin/account/two-step/off/", {"password": "wrong"})
    viewer.refresh_from_db()
    assert viewer.totp_secret == secret
    client.post("/admin/account/two-step/off/", {"password": PASSWORD})
    viewer.refresh_from_db()
    assert (viewer.totp_secret, viewer.recovery_digests) == ("", [])


def test_verbs_refuse_what_makes_no_sense(guarded: tuple[User, list[str]]) -> None:
    user, _codes = guarded
    secret = two_step.new_secret()
    with pytest.raises(Conflict):
        two_step.turn_on(user, secret=secret, code=pyotp.TOTP(secret).now(), by=user)
    with pytest.raises(Invalid):
        two_step.turn_on(user, secret=secret, code="1234567", by=user)


def test_language_and_time_zone_are_ones_own(viewer: User, make_user: Callable[..., User], client: Client) -> None:
    client.force_login(viewer)
    client.post("/admin/account/preferences/", {"language": "zh-hans", "time_zone": "Asia/Shanghai"})
    page = client.get(ACCOUNT)
    assert page["Content-Language"] == "zh-hans" and ' CST"' in page.content.decode()
    client.post("/admin/account/preferences/", {"language": "tlh", "time_zone": "Asia/Shanghai"})
    client.post("/admin/account/preferences/", {"language": "", "time_zone": "Mars/Olympus"})
    viewer.refresh_from_db()
    assert (viewer.language, viewer.time_zone) == ("zh-hans", "Asia/Shanghai")
    client.force_login(make_user("operator"))
    other = client.get(ACCOUNT)
    assert other["Content-Language"] == "en" and ' CST"' not in other.content.decode()
