"""What all API paths share: credentials, errors, both slash forms, lists, the document."""

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone
from rest_framework.test import APIClient

from infini import keys
from infini.models import User
from inventory.models import Brand


@pytest.fixture
def brands(db: None) -> list[str]:
    Brand.objects.bulk_create(Brand(name=f"brand {n}", sort_order=n) for n in range(5))
    return [f"brand {n}" for n in range(5)]


def test_without_credentials_it_is_401_and_never_a_redirect(db: None) -> None:
    for path in ("/api/brands", "/api/servers/1", "/api/stats", "/api/schema", "/api/docs", "/api/uploads/x.png"):
        answer = APIClient().get(path, HTTP_ACCEPT="text/html,*/*;q=0.8")
        assert (answer.status_code, answer["WWW-Authenticate"]) == (401, "Bearer")
    body = APIClient().get("/api/brands").json()
    assert body["error"]["code"] == "not_authenticated" and body["error"]["message"]


def test_a_key_works_until_it_is_revoked_expired_or_its_owner_leaves(operator: User) -> None:
    key, text = keys.create_key(user=operator, name="test", by=None)
    _old, expired = keys.create_key(user=operator, name="old", by=None, expires_at=timezone.now())

    def ask(credentials: str) -> int:
        return APIClient().get("/api/brands", headers={"Authorization": credentials}).status_code

    assert ask(f"Bearer {text}") == ask(f"bearer {text}") == 200
    assert ask(f"Bearer {expired}") == ask(f"Bearer {text}x") == ask(text) == ask("Bearer \xff") == 401
    User.objects.update(is_active=False)
    assert ask(f"Bearer {text}") == 401
    User.objects.update(is_active=True)
    keys.revoke_key(key, by=None)
    assert ask(f"Bearer {text}") == 401


def test_a_session_needs_its_csrf_token_and_a_key_does_not(operator: User) -> None:
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.get("/api/brands").status_code == 200
    refused = client.post("/api/brands", {"name": "X"}, format="json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    _key, text = keys.create_key(user=operator, name="test", by=None)
    with_key = APIClient(enforce_csrf_checks=True)
    headers = {"Authorization": f"Bearer {text}"}
    assert with_key.post("/api/brands", {"name": "X"}, format="json", headers=headers).status_code == 201


def test_both_slash_forms_answer_without_a_redirect(api: APIClient) -> None:
    made = [api.post(path, {"name": path}, format="json") for path in ("/api/brands", "/api/brands/")]
    assert [answer.status_code for answer in made] == [201, 201]
    for form in ("", "/"):
        assert api.get(f"/api/brands{form}").status_code == 200
        assert api.get(f"/api/brands/{made[0].json()['id']}{form}").status_code == 200
        assert api.post(f"/api/servers/check-all{form}").status_code == 200
        assert api.get(f"/api/schema{form}").status_code == 200


def test_lists_are_plain_arrays_cut_by_limit_and_offset(api: APIClient, brands: list[str]) -> None:
    def names(query: str = "") -> list[str]:
        answer = api.get(f"/api/brands{query}")
        assert (answer.status_code, answer["X-Total-Count"]) == (200, "5")
        return [row["name"] for row in answer.json()]

    assert names() == brands
    assert names("?limit=2") == brands[:2]
    assert names("?limit=2&offset=3") == brands[3:]
    assert names("?offset=4") == brands[4:]
    assert names("?limit=0") == names("?offset=99") == []
    assert names("?limit=999999999") == brands


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=1.5", "offset=", "limit=9999999999", "limit=²"])
def test_a_cut_that_is_no_number_is_refused(api: APIClient, query: str) -> None:
    answer = api.get(f"/api/brands?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"].keys() == {query.split("=")[0]}


@pytest.mark.parametrize("path", ["brands", "servers", "models", "environments", "accelerators"])
@pytest.mark.parametrize("pk", ["987654", "0", "9" * 18])
def test_an_unknown_id_is_404(api: APIClient, path: str, pk: str) -> None:
    for method in ("get", "put", "patch", "delete"):
        answer = getattr(api, method)(f"/api/{path}/{pk}", {"name": "x"}, format="json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/api/brands/x", "/api/brands/-1", "/api/brands/" + "9" * 30, "/api/nothing"])
def test_what_is_no_path_is_404_in_the_same_shape(api: APIClient, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


BROKEN = ["", "{", "name=x", "[1, 2", '{"name": NaN}', "\xff", "[" * 100_000, "1" * 10_000, "null", "7", '"x"', "[]"]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("path", ["/api/brands", "/api/servers", "/api/brands/reorder"])
def test_what_is_no_json_object_is_400(api: APIClient, path: str, body: str) -> None:
    answer = api.generic("POST", path, body.encode("latin-1"), content_type="application/json")
    assert answer.status_code == 400, answer.content
    error = answer.json()["error"]
    assert set(error) <= {"code", "message", "fields"} and error["message"]


def test_another_content_type_is_415(api: APIClient) -> None:
    answer = api.generic("POST", "/api/brands", "<x/>", content_type="application/xml")
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_path_without_the_method_is_405(api: APIClient) -> None:
    for method, path in (("delete", "/api/brands"), ("get", "/api/brands/reorder"), ("post", "/api/brands/1")):
        answer = getattr(api, method)(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_head_is_answered_like_get(api: APIClient, brands: list[str]) -> None:
    for path in ("/api/brands", "/api/stats"):
        answer = api.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_stats_count_the_fleet(api: APIClient) -> None:
    api.post("/api/servers", {"name": "gpu-1", "host_ip": "10.0.0.1"}, format="json")
    counted = api.get("/api/stats").json()
    assert (counted["server_count"], counted["online_server_count"]) == (1, 0)
    expected = {"service_count", "deployed_service_count", "instance_count", "device_count", "device_in_use_count"}
    assert expected <= set(counted)


def test_the_document_has_no_gaps(tmp_path: Path) -> None:
    target = tmp_path / "schema.yml"
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(target))
    text = target.read_text()
    for path in ("/api/brands/reorder:", "/api/servers/{id}/check:", "/api/uploads/{filename}:", "/api/upload:"):
        assert f"  {path}\n" in text


def test_the_document_and_its_page_open_for_people(api: APIClient, api_as: Callable) -> None:
    assert api.get("/api/schema").status_code == 200
    page = api.get("/api/docs", HTTP_ACCEPT="text/html")
    assert page.status_code == 200 and b"cdn" not in page.content.lower()
