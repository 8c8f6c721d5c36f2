"""API keys over HTTP: one's own, and all of them for administrators."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from infini import keys
from infini.models import ApiKey, Event, User

pytestmark = pytest.mark.django_db
Api = Callable[[User | None], APIClient]


def by_key(text: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return client


def test_a_key_is_told_once_and_works(viewer: User, api_as: Api) -> None:
    ends = timezone.now() + timedelta(days=7)
    given = {"name": " ci ", "models": ["b", "a"], "limits": {"concurrency": 3, "tokens_per_month": None}}
    made = api_as(viewer).post("/api/keys", {**given, "expires_at": ends.isoformat()}, format="json")
    assert made.status_code == 201 and made["Cache-Control"] == "no-store"
    told = made.json()
    text = told.pop("key")
    assert text.startswith(told["prefix"]) and (told["name"], told["user"]) == ("ci", "viewer")
    assert (told["use"], told["models"], told["limits"]) == ("all", ["a", "b"], {"concurrency": 3})
    found = keys.find_key(text)
    assert found and found.pk == told["id"] and found.expires_at == ends
    [row] = by_key(text).get("/api/keys").json()
    assert row["state"] == "usable" and text not in str(row) and found.digest not in str(row)
    assert {name: row[name] for name in told if name != "last_used_at"} == {
        name: told[name] for name in told if name != "last_used_at"
    }
    assert Event.objects.get(kind="apikey.created").data["owner"] == "viewer"


def test_one_sees_one_s_own_and_an_administrator_all(viewer: User, administrator: User, api_as: Api) -> None:
    mine, _ = keys.create_key(user=viewer, name="mine", by=None)
    theirs, _ = keys.create_key(user=administrator, name="theirs", by=None)
    own, all_of_them = api_as(viewer), api_as(administrator)
    assert [row["id"] for row in own.get("/api/keys").json()] == [mine.pk]
    for method, path in (("get", ""), ("post", "/revoke")):
        assert getattr(own, method)(f"/api/keys/{theirs.pk}{path}").status_code == 404
    theirs.refresh_from_db()
    assert theirs.revoked_at is None
    assert [row["id"] for row in all_of_them.get("/api/keys").json()] == [theirs.pk, mine.pk]
    assert [row["id"] for row in all_of_them.get("/api/keys?user=viewer").json()] == [mine.pk]
    assert own.get("/api/keys?user=administrator").json() == []


def test_revoked_it_ends_and_twice_is_as_once(viewer: User, administrator: User, api_as: Api) -> None:
    key, text = keys.create_key(user=viewer, name="ci", by=None)
    for _ in range(2):
        answer = api_as(viewer).post(f"/api/keys/{key.pk}/revoke")
        assert answer.status_code == 200 and answer.json()["state"] == "revoked"
    assert by_key(text).get("/api/keys").status_code == 401
    assert Event.objects.filter(kind="apikey.revoked").count() == 1
    assert api_as(administrator).patch(f"/api/keys/{key.pk}", {"name": "again"}, format="json").status_code == 409


def test_an_administrator_changes_what_is_given(viewer: User, administrator: User, api_as: Api) -> None:
    limits = {"concurrency": 3, "tokens_per_month": 50}
    key, _ = keys.create_key(user=viewer, name="ci", by=None, scopes={"models": ["a"]}, limits=limits)
    path, change = f"/api/keys/{key.pk}", {"limits": {"concurrency": None, "requests_per_minute": 9}, "use": "models"}
    assert api_as(viewer).patch(path, change, format="json").status_code == 403, "a limit its owner could lift"
    changed = api_as(administrator).patch(path, change, format="json").json()
    assert changed["limits"] == {"tokens_per_month": 50, "requests_per_minute": 9}
    assert (changed["name"], changed["use"], changed["models"]) == ("ci", "models", ["a"])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x", "use": "anything"}, "use"),
        ({"name": "x", "models": [""]}, "models"),
        ({"name": "x", "models": "a"}, "models"),
        ({"name": "x", "limits": {"concurrency": 0}}, "concurrency"),
        ({"name": "x", "limits": {"speed": 1}}, "limits"),
        ({"name": "x", "expires_at": "soon"}, "expires_at"),
        ({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "x", "requests_per_minute": 3}, "requests_per_minute"),
        ({"name": "x", "user": "admin"}, "user"),
    ],
)
def test_what_is_wrong_is_named_and_makes_nothing(given: dict, field: str, viewer: User, api_as: Api) -> None:
    answer = api_as(viewer).post("/api/keys", given, format="json")
    assert answer.status_code == 400 and field in str(answer.json()["error"]["fields"])
    assert not ApiKey.objects.exists()


def test_a_limited_key_makes_no_other(viewer: User) -> None:
    plain, text = keys.create_key(user=viewer, name="plain", by=None)
    assert by_key(text).post("/api/keys", {"name": "second"}, format="json").status_code == 201
    keys.change_key(plain, by=None, limits={"tokens_per_month": 5})
    refused = by_key(text).post("/api/keys", {"name": "third"}, format="json")
    assert refused.status_code == 403 and "may not make others" in refused.json()["error"]["message"]


def test_states_are_told_apart_in_a_constant_number_of_queries(viewer: User, api_as: Api) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            assert api_as(viewer).get("/api/keys").status_code == 200
        return len(found)

    def make(name: str, **values: object) -> ApiKey:
        return keys.create_key(user=viewer, name=name, by=None, **values)[0]  # type: ignore[arg-type]

    make("usable")
    before = queries()
    make("expired", expires_at=timezone.now() - timedelta(seconds=1))
    keys.revoke_key(make("revoked", expires_at=timezone.now() - timedelta(seconds=1)), by=None)
    assert queries() == before
    for state in keys.STATES:
        found = api_as(viewer).get(f"/api/keys?state={state}").json()
        assert [(row["name"], row["state"]) for row in found] == [(state, state)]
    assert api_as(viewer).get("/api/keys?state=lost").status_code == 400
