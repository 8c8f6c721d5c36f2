"""The history API: own messages only, oldest first, cut, added, cleared."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from chat import history
from chat.models import Conversation, Message
from deployments.models import Service
from infini.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def service() -> Service:
    return Service.objects.create(name="tiny")


@pytest.fixture
def url(service: Service) -> str:
    return f"/api/services/{service.pk}/chat"


@pytest.mark.parametrize("slash", ["", "/"])
def test_added_messages_come_back_oldest_first(api: APIClient, url: str, slash: str) -> None:
    first = api.post(url + slash, {"role": "system", "content": " Be kind. "}, format="json")
    assert first.status_code == 201
    assert set(first.json()) == {"id", "role", "content", "state", "reason", "model", "created_at"}
    assert (first.json()["content"], first.json()["state"]) == (" Be kind. ", "complete")
    for role in ("user", "assistant"):
        assert api.post(url + slash, {"role": role, "content": role}, format="json").status_code == 201
    answer = api.get(url + slash)
    assert [row["role"] for row in answer.json()] == ["system", "user", "assistant"]
    assert answer.headers["X-Total-Count"] == "3"
    cut = api.get(url + slash, {"limit": 1, "offset": 1})
    assert [row["role"] for row in cut.json()] == ["user"]
    assert cut.headers["X-Total-Count"] == "3"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"role": "user"},
        {"role": "tool", "content": "x"},
        {"role": "user", "content": ""},
        {"role": "user", "content": "  "},
        {"role": "user", "content": 5},
        {"role": "user", "content": None},
        {"role": "user", "content": ["x"]},
        {"role": "user", "content": "a\x00b"},
        {"role": "user", "content": "x" * (history.MESSAGE_MAX_CHARS + 1)},
        [],
        "text",
    ],
)
def test_bad_messages_are_400_and_not_stored(api: APIClient, url: str, body: object) -> None:
    answer = api.post(url, body, format="json")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"]
    assert not Message.objects.exists()


def test_the_ends_of_a_message_are_not_the_callers_to_set(api: APIClient, url: str) -> None:
    body = {"role": "assistant", "content": "x", "state": "failed", "reason": "y", "model": "z", "id": 999}
    row = api.post(url, body, format="json").json()
    assert (row["state"], row["reason"], row["model"]) == ("complete", "", "")


def test_clear_takes_the_callers_own_alone(
    operator: User, administrator: User, api_as: Callable[[User | None], APIClient], url: str
) -> None:
    mine, theirs = api_as(operator), api_as(administrator)
    for client, text in ((mine, "mine"), (theirs, "theirs")):
        client.post(url, {"role": "user", "content": text}, format="json")
    assert [row["content"] for row in theirs.get(url).json()] == ["theirs"]
    assert mine.delete(url).status_code == 204
    assert mine.get(url).json() == []
    assert [row["content"] for row in theirs.get(url).json()] == ["theirs"]
    assert mine.delete(url).status_code == 204


def test_roles(make_user: Callable[..., User], api_as: Callable[[User | None], APIClient], url: str) -> None:
    assert api_as(None).get(url).status_code == 401
    assert api_as(make_user(None)).get(url).status_code == 403
    assert api_as(make_user("viewer")).post(url, {"role": "user", "content": "x"}, format="json").status_code == 201


@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_an_unknown_service_is_404(api: APIClient, method: str) -> None:
    answer = getattr(api, method)("/api/services/999999/chat", {"role": "user", "content": "x"}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_an_answer_that_ended_stays_as_it_is(operator: User, service: Service) -> None:
    who = {"user_id": operator.pk, "service_id": service.pk}
    answer_id = history.open_exchange(**who, question="q", model="m")
    history.extend_answer(answer_id, text="one ")
    history.end_answer(answer_id, text="two", model="m", state="stopped", reason="left")
    history.extend_answer(answer_id, text="three")
    history.end_answer(answer_id, text="four", model="m", state="complete", reason="")
    row = history.messages_of(**who).last()
    assert row is not None
    assert (row.content, row.state, row.reason) == ("one two", "stopped", "left")
    assert Conversation.objects.count() == 1


def test_a_services_chat_button(client, service: Service, make_user: Callable[..., User]) -> None:
    url = f"/admin/chat/service/{service.pk}/"
    answer = client.get(url)
    assert answer.status_code == 302
    assert "/admin/login/" in answer.headers["Location"]
    client.force_login(make_user(None))
    assert client.get(url).status_code == 403
    client.force_login(make_user("viewer"))
    assert client.get(url).headers["Location"] == f"/admin/chat/conversation/?service={service.pk}"
    assert "never been deployed" in client.get(url, follow=True).content.decode()
    assert client.get("/admin/chat/service/999999/").status_code == 404
