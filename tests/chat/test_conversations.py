"""Conversations by their verbs and API: own ones only, branches, settings, search, exports, constant queries."""

import json
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from chat import conversations, history
from chat.models import Conversation, Endpoint, Message
from chat.threads import context_of, shown_turns
from deployments.models import Instance, Placement, Revision, Service
from infini.errors import Conflict, Invalid, NotFound
from infini.models import User
from inventory.models import AIModel, Server

pytestmark = pytest.mark.django_db

URL = "/api/conversations"


@pytest.fixture
def service() -> Service:
    return Service.objects.create(name="tiny", served_model="tiny-1")


@pytest.fixture
def who(operator: User) -> dict[str, int]:
    return {"user_id": operator.pk}


@pytest.fixture
def said(who: dict[str, int], service: Service) -> Callable[..., list[int]]:
    """Asks in one conversation and ends each answer; gives the ids of question and answer."""
    made = conversations.begin(**who, service_id=service.pk)

    def say(content: str, *, answer: str = "ok", state: str = "complete", **place: Any) -> list[int]:
        where = {"parent_id": None, "at_head": True, **place}
        asked = conversations.ask(**who, conversation_id=made.pk, content=content, **where)
        history.end_answer(asked.answer_id, text=answer, model="tiny-1", state=state, reason="")
        return [asked.question_id, asked.answer_id]

    return say


def only() -> Conversation:
    return Conversation.objects.get()


def test_begin_read_change_delete(api: APIClient, service: Service) -> None:
    other = Service.objects.create(name="other")
    body = {"service_id": service.pk, "system_prompt": " Be kind.\n", "parameters": {"temperature": 0.5, "seed": None}}
    made = api.post(URL, body, format="json")
    assert made.status_code == 201
    row = made.json()
    assert (row["system_prompt"], row["parameters"], row["title"]) == (" Be kind.\n", {"temperature": 0.5}, "")
    one = f"{URL}/{row['id']}"
    changed = api.patch(one, {"title": "  A\n title ", "service_id": other.pk}, format="json").json()
    assert (changed["title"], changed["service_name"]) == ("A title", "other")
    assert changed["version"] > row["version"]
    assert api.get(one + "/").json() == changed
    assert api.get(f"{one}/turns").json()["turns"] == []
    assert api.delete(one).status_code == 204
    assert api.get(one).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"parameters": {"temperature": 3}},
        {"parameters": {"temperature": "hot"}},
        {"parameters": {"temperature": True}},
        {"parameters": {"max_tokens": 0}},
        {"parameters": {"max_tokens": 1.5}},
        {"parameters": {"top_p": -0.1}},
        {"parameters": {"stop": "x"}},
        {"parameters": {"stop": ["a", "b", "c", "d", "e"]}},
        {"parameters": {"stop": [""]}},
        {"parameters": {"model": "x"}},
        {"parameters": [1]},
        {"title": "x" * 201},
        {"system_prompt": "x" * 100_001},
        {"service_id": 999999},
        {"service_id": "x"},
        {"service_id": None},
    ],
)
def test_bad_settings_change_nothing(api: APIClient, service: Service, body: dict) -> None:
    row = api.post(URL, {"service_id": service.pk}, format="json").json()
    answer = api.patch(f"{URL}/{row['id']}", body, format="json")
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["message"]
    assert api.get(f"{URL}/{row['id']}").json() == row


def test_a_title_comes_from_the_first_question(said: Callable[..., list[int]]) -> None:
    said("\n\n  How   does " + "a very long question " * 10)
    said("another")
    title = only().title
    assert title.startswith("How does a very long question") and title.endswith("…") and len(title) <= 82


def test_one_answer_at_a_time_and_an_orphan_does_not_block(who: dict[str, int], said: Callable[..., list[int]]) -> None:
    question, answer = said("one")
    asked = conversations.ask_again(**who, conversation_id=only().pk, question_id=question)
    with pytest.raises(Conflict):
        said("two")
    with pytest.raises(Conflict):
        conversations.ask_again(**who, conversation_id=only().pk, question_id=question)
    assert Message.objects.count() == 3
    long_ago = timezone.now() - timedelta(seconds=history.ORPHAN_SECONDS + 1)
    Message.objects.filter(pk=asked.answer_id).update(touched_at=long_ago)
    said("two")
    assert Message.objects.get(pk=asked.answer_id).reason == history.ORPHANED


def test_what_the_model_is_sent(who: dict[str, int], said: Callable[..., list[int]]) -> None:
    said("kept", answer="yes")
    said("lost", state="failed")
    said("empty", answer="")
    said("cut short", answer="so far", state="stopped")
    _question, last = said("second root", parent_id=None, at_head=False)
    conversations.change(**who, conversation_id=only().pk, system_prompt="Be kind.")
    first = Message.objects.get(content="cut short").pk
    sent = context_of(only(), first)
    assert [(m["role"], m["content"]) for m in sent] == [
        ("system", "Be kind."),
        ("user", "kept"),
        ("assistant", "yes"),
        ("user", "cut short"),
    ]
    turns, more = shown_turns(only())
    assert [turn["content"] for turn in turns] == ["second root", "ok"] and not more and turns[1]["id"] == last


def test_branches_are_chosen_and_foreign_messages_are_not(
    who: dict[str, int], said: Callable[..., list[int]], service: Service
) -> None:
    first = said("one")
    said("two")
    branch = said("two again", parent_id=first[1], at_head=False)
    assert only().head_id == branch[1]
    chosen = conversations.choose_branch(**who, conversation_id=only().pk, message_id=first[0])
    assert chosen.head_id == branch[1], "to where it was written last"
    elsewhere = history.add_message(**who, service_id=service.pk, role="user", content="x")
    mine = Conversation.objects.get(is_history=False)
    for wrong in (elsewhere.pk, 10**15):
        with pytest.raises(NotFound):
            conversations.choose_branch(**who, conversation_id=mine.pk, message_id=wrong)
        with pytest.raises(NotFound):
            conversations.ask(**who, conversation_id=mine.pk, content="x", parent_id=wrong, at_head=False)
        with pytest.raises(NotFound):
            conversations.ask_again(**who, conversation_id=mine.pk, question_id=wrong)
    with pytest.raises(Invalid):
        said(" \n")


def test_long_branches_come_in_pages(said: Callable[..., list[int]]) -> None:
    ids = [pk for number in range(4) for pk in said(f"q{number}", answer="x" * 700_000)]
    turns, more = shown_turns(only())
    assert [turn["id"] for turn in turns] == ids[4:] and more, "no more text at once than a page should hold"
    turns, more = shown_turns(only(), before=ids[4], most=2)
    assert [turn["id"] for turn in turns] == ids[2:4] and more
    turns, more = shown_turns(only(), before=ids[1])
    assert [turn["id"] for turn in turns] == ids[:1] and not more


def test_search_finds_titles_and_words(api: APIClient, said: Callable[..., list[int]], administrator: User) -> None:
    said("Where is the Needle?", answer="In the haystack")
    for text, found in (("needle", 1), ("HAYSTACK", 1), ("hay%", 0), ("nothing", 0), ("", 1)):
        assert len(api.get(URL, {"search": text}).json()) == found, text
    assert api.get(URL, {"search": "x" * 201}).status_code == 400
    theirs = APIClient()
    theirs.force_login(administrator)
    assert theirs.get(URL, {"search": "needle"}).json() == []


def test_the_list_takes_constant_queries(api: APIClient, who: dict[str, int], service: Service) -> None:
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as asked:
            assert api.get(path).status_code == 200
        return len(asked)

    def grow(count: int) -> None:
        for number in range(count):
            made = conversations.begin(**who, service_id=Service.objects.create(name=f"s{number}-{count}").pk)
            conversations.ask(**who, conversation_id=made.pk, content="x", parent_id=None, at_head=True)
            server = Server.objects.create(name=f"srv{number}-{count}", host_ip="127.0.0.1")
            revision = Revision.objects.create(service=made.service, number=1, command="x")
            placement = Placement.objects.create(service=made.service, server=server)
            Instance.objects.create(
                placement=placement, revision=revision, key=f"k{number}-{count}", phase="failed", reason="exit 1"
            )
            model = AIModel.objects.create(name=f"m{number}-{count}")
            far = Endpoint.objects.create(name=f"e{number}-{count}", base_url="http://127.0.0.1:9/v1", model=model)
            conversations.begin(**who, endpoint_id=far.pk, title="x")

    paths = (URL, f"{URL}?search=x", "/api/chat/services", "/admin/chat/conversation/", "/admin/inventory/aimodel/")
    grow(1)
    before = [queries(path) for path in paths]
    grow(7)
    assert [queries(path) for path in paths] == before


def test_a_thread_takes_constant_queries(api: APIClient, said: Callable[..., list[int]]) -> None:
    said("one")
    path = f"{URL}/{only().pk}/turns"

    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            api.get(path)
        return len(asked)

    before = queries()
    for number in range(5):
        said(f"more {number}")
    assert queries() == before


def test_services_say_why_they_cannot_answer(api: APIClient, service: Service) -> None:
    row = api.get("/api/chat/services").json()[0]
    assert (row["name"], row["model"], row["why"]) == ("tiny", "tiny-1", "It has never been deployed.")
    assert set(row["chip"]) == {"word", "role", "icon", "title"}


def test_export(api: APIClient, said: Callable[..., list[int]], who: dict[str, int]) -> None:
    first = said("Grüße 你好", answer="**fine**")
    said("other way", parent_id=None, at_head=False, state="stopped")
    url = f"{URL}/{only().pk}/export"
    whole = api.get(url)
    assert whole["Content-Disposition"].endswith('.json"')
    told = json.loads(whole.content)
    assert len(told["messages"]) == 4 and first[0] not in told["shown"]
    text = api.get(url, {"as": "markdown"}).content.decode()
    assert "other way" in text and "**fine**" not in text and text.startswith("# Grüße 你好")
    assert api.get(url, {"as": "pdf"}).status_code == 400


def test_the_history_api_writes_to_one_conversation_and_reads_all(
    api: APIClient, who: dict[str, int], service: Service, said: Callable[..., list[int]]
) -> None:
    said("on the page")
    path = f"/api/services/{service.pk}/chat"
    for text in ("a", "b"):
        api.post(path, {"role": "user", "content": text}, format="json")
    assert [row["content"] for row in api.get(path).json()] == ["on the page", "ok", "a", "b"]
    mine = Conversation.objects.get(is_history=True)
    assert [turn["content"] for turn in shown_turns(mine)[0]] == ["a", "b"]
    with pytest.raises(IntegrityError), transaction.atomic():
        Conversation.objects.create(user_id=who["user_id"], service=service, is_history=True)
    other = Service.objects.create(name="other")
    conversations.change(**who, conversation_id=mine.pk, service_id=other.pk)
    api.post(path, {"role": "user", "content": "c"}, format="json")
    assert [row["content"] for row in api.get(path).json()] == ["on the page", "ok", "c"]
    assert api.delete(path).status_code == 204
    assert [row["service_name"] for row in api.get(URL).json()] == ["other"]


def test_what_was_a_line_becomes_a_tree(who: dict[str, int], service: Service) -> None:
    """The migration's step, on rows as they were before it."""
    for _ in range(2):
        made = Conversation.objects.create(user_id=who["user_id"], service=service)
        for text in "abc":
            Message.objects.create(conversation=made, role="user", content=text)
    import_module("chat.migrations.0003_conversation_branches").chain_messages(apps, None)
    old, new = Conversation.objects.order_by("pk")
    assert (old.is_history, new.is_history) == (False, True)
    for conversation in (old, new):
        assert [turn["content"] for turn in shown_turns(conversation)[0]] == ["a", "b", "c"]


def test_pages_are_for_the_person_alone(
    client: Any, make_user: Callable[..., User], service: Service, said: Callable[..., list[int]]
) -> None:
    said("<script>alert(1)</script> secret")
    pages = {name: f"/admin/chat/conversation/{name}" for name in ("", "compare/", f"{only().pk}/")}
    for path in pages.values():
        assert client.get(path).status_code == 302
    nobody = make_user(None)
    client.force_login(nobody)
    for path in pages.values():
        assert client.get(path).status_code == 403
    client.force_login(make_user("viewer"))
    assert client.get(pages[""]).status_code == 200
    assert client.get(pages["compare/"]).status_code == 200
    assert client.get(pages[f"{only().pk}/"]).status_code == 404
    assert client.post(pages[""]).status_code == 405
    client.force_login(User.objects.get(username="operator"))
    page = client.get(pages[f"{only().pk}/"]).content.decode()
    assert "secret" in page and "<script>alert(1)" not in page
    button = client.get(f"/admin/chat/service/{service.pk}/")
    assert (button.status_code, button["Location"]) == (302, f"/admin/chat/conversation/{only().pk}/")


def test_the_menu_marks_the_page_one_is_on(client: Any, operator: User) -> None:
    client.force_login(operator)
    for path, marked in (("", "Chat"), ("compare/", "Compare")):
        groups = client.get(f"/admin/chat/conversation/{path}").context["sidebar_navigation"]
        assert [str(item["title"]) for group in groups for item in group["items"] if item["active"]] == [marked]


def test_who_deletes_an_endpoint_reads_nothing_of_what_was_said(administrator: User, viewer: User) -> None:
    endpoint = Endpoint.objects.create(name="far", base_url="http://127.0.0.1:9/v1")
    begun = conversations.begin(user_id=viewer.pk, endpoint_id=endpoint.pk, title="canary title")
    browser = Client()
    browser.force_login(administrator)
    path = f"/admin/chat/endpoint/{endpoint.pk}/delete/"
    asked = browser.get(path).content.decode()
    assert "far" in asked and "canary" not in asked
    assert browser.post(path, {"confirmed": "1", "word": "far"}).status_code == 302
    assert not Endpoint.objects.exists() and not Conversation.objects.filter(pk=begun.pk).exists()


def test_a_models_chat_leads_to_what_can_answer(viewer: User) -> None:
    model = AIModel.objects.create(name="Qwen")
    browser = Client()
    browser.force_login(viewer)
    path = f"/admin/chat/model/{model.pk}/"
    assert browser.get(path).status_code == 404
    listing = "/admin/inventory/aimodel/"
    assert path not in browser.get(listing).content.decode()
    stopped = Service.objects.create(name="stopped", model=model)
    assert browser.get(path).url.endswith(f"?service={stopped.pk}")  # type: ignore[attr-defined]
    far = Endpoint.objects.create(name="far", base_url="http://127.0.0.1:9/v1", model=model)
    assert browser.get(path).url.endswith(f"?endpoint={far.pk}")  # type: ignore[attr-defined]
    assert path in browser.get(listing).content.decode()
    begun = conversations.begin(user_id=viewer.pk, endpoint_id=far.pk)
    assert browser.get(path).url.endswith(f"/conversation/{begun.pk}/")  # type: ignore[attr-defined]
    assert browser.get(f"/admin/chat/endpoint/{far.pk}/chat/").url.endswith(f"/{begun.pk}/")  # type: ignore[attr-defined]
