"""The chat socket against a real site: send, stop, resume, regenerate, branch, several tabs, a closed page."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chat.conftest import Case
from tests.chat.site import Site, start_site
from tests.chat.socket_client import ChatClient
from tests.chat.upstream_script import WORDS, ScriptedUpstream

pytestmark = pytest.mark.live

TEXT = "".join(WORDS)


async def api(site: Site, method: str, path: str, role: str = "viewer", **given: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers=site.bearer(role)) as http,
        http.request(method, f"{site.url}/api/{path}", **given) as response,
    ):
        body = await response.read()
        return response.status, json.loads(body) if body.startswith((b"{", b"[")) else body.decode()


async def turns(site: Site, conversation: int) -> list[dict[str, Any]]:
    status, told = await api(site, "GET", f"conversations/{conversation}/turns")
    assert status == 200
    return told["turns"]


async def until_ended(site: Site, conversation: int) -> dict[str, Any]:
    """The last turn once it is no longer being written."""
    for _ in range(200):
        last = (await turns(site, conversation))[-1]
        if last["state"] != "streaming":
            return last
        await asyncio.sleep(0.05)
    raise AssertionError(f"never ended: {last}")


async def test_a_question_and_its_answer(site: Site, case: Callable[..., Case]) -> None:
    thinks = case("thinks")
    parameters = {"temperature": 0.5, "max_tokens": 99}
    async with ChatClient(site) as page:
        await page.say(
            type="send",
            service=thinks.service_id,
            content="Who\nare you?",
            ref="a",
            system_prompt="Be kind.",
            parameters=parameters,
        )
        created = await page.got("created", ref="a")
        conversation = created["conversation"]["id"]
        question = await page.got("message", ref="a")
        assert question["turn"]["content"] == "Who\nare you?"
        start = await page.got("start", ref="a")
        assert (start["conversation"], start["turn"]["parent"]) == (conversation, question["turn"]["id"])
        done = await page.got("done", answer=start["answer"])
    assert page.text(start["answer"]) == TEXT
    assert page.text(start["answer"], "reasoning") == "Let me see."
    end = done["end"]
    assert (end["length"], end["reasoning_length"], end["state"]) == (len(TEXT), 11, "complete")
    assert (end["prompt_tokens"], end["completion_tokens"], end["model"]) == (11, 42, "tiny")
    assert 0 < end["first_token_ms"] < end["duration_ms"] < 5000
    assert 41 / end["tokens_per_second"] * 1000 < end["duration_ms"]
    sent = json.loads(thinks.seen.bodies[0])
    assert sent["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who\nare you?"},
    ]
    assert (sent["temperature"], sent["max_tokens"], sent["stream"], sent["model"]) == (0.5, 99, True, "tiny")
    stored = await turns(site, conversation)
    assert [(turn["content"], turn["reasoning"]) for turn in stored] == [("Who\nare you?", ""), (TEXT, "Let me see.")]
    assert {name: stored[1][name] for name in end} == end
    status, told = await api(site, "GET", f"conversations/{conversation}")
    assert (status, told["title"], told["parameters"]) == (200, "Who", parameters)


async def test_stop_closes_the_upstream_within_100_ms(site: Site, case: Callable[..., Case]) -> None:
    for behaviour in ("endless", "silent"):
        stopped = case(behaviour)
        async with ChatClient(site) as page:
            start = await page.ask(stopped.service_id)
            assert await asyncio.to_thread(stopped.seen.arrived.wait, 5)
            if behaviour == "endless":
                await page.got("chunk")
            begun = time.monotonic()
            await page.say(type="cancel", answer=start["answer"])
            assert await asyncio.to_thread(stopped.seen.closed.wait, 5)
            took = stopped.seen.closed_at - begun
            print(f"{behaviour}: closed after {took * 1000:.1f} ms")
            assert took < 0.1
            told = await page.got("cancelled", answer=start["answer"])
        last = (await turns(site, start["conversation"]))[-1]
        assert (last["state"], last["content"]) == ("stopped", page.text(start["answer"]))
        assert told["end"]["length"] == len(last["content"])


async def test_a_closed_page_does_not_end_the_answer(site: Site, case: Callable[..., Case]) -> None:
    waits = case("waits")
    async with ChatClient(site) as page:
        start = await page.ask(waits.service_id)
        await page.got("chunk")
    waits.seen.go_on.set()
    last = await until_ended(site, start["conversation"])
    assert (last["state"], last["content"]) == ("complete", WORDS[0] + TEXT)
    assert not waits.seen.closed.is_set()


async def test_resume_goes_on_where_the_page_was(site: Site, case: Callable[..., Case]) -> None:
    waits = case("waits")
    async with ChatClient(site) as page:
        start = await page.ask(waits.service_id)
        await page.got("chunk")
    answer = start["answer"]
    async with ChatClient(site) as again:
        await again.say(type="join", conversation=start["conversation"])
        await again.got("status")
        await again.say(type="resume", answer=answer, offset=3)
        await again.got("chunk", offset=3)
        waits.seen.go_on.set()
        await again.got("done", answer=answer)
        assert again.text(answer) == (WORDS[0] + TEXT)[3:]
        # What has ended is read from the database, by the same offset.
        again.frames.clear()
        await again.say(type="resume", answer=answer, offset=7)
        await again.got("done", answer=answer)
        assert again.text(answer) == (WORDS[0] + TEXT)[7:]


async def test_two_tabs_see_the_same(site: Site, case: Callable[..., Case]) -> None:
    waits = case("waits")
    async with ChatClient(site) as one, ChatClient(site) as other:
        start = await one.ask(waits.service_id)
        conversation, answer = start["conversation"], start["answer"]
        await other.say(type="join", conversation=conversation)
        await other.say(type="resume", answer=answer)
        await other.got("chunk", answer=answer)
        waits.seen.go_on.set()
        for page in (one, other):
            await page.got("done", answer=answer)
            assert page.text(answer) == WORDS[0] + TEXT
        # A question asked in one tab appears in the other by itself; either may stop it.
        waits.seen.go_on.clear()
        await other.say(type="send", conversation=conversation, content="And now?")
        second = await one.got("start", answer=answer + 2)
        assert (await one.got("message", conversation=conversation))["turn"]["content"] == "Hi"
        await one.got("chunk", answer=second["answer"])
        await one.say(type="cancel", answer=second["answer"])
        for page in (one, other):
            await page.got("cancelled", answer=second["answer"])
        # Renamed elsewhere, deleted elsewhere.
        assert (await api(site, "PATCH", f"conversations/{conversation}", json={"title": "New"}))[0] == 200
        for page in (one, other):
            while (await page.got("status"))["conversation"].get("title") != "New":
                page.frames.remove(await page.got("status"))
        assert (await api(site, "DELETE", f"conversations/{conversation}"))[0] == 204
        for page in (one, other):
            await page.got("status", conversation={"id": conversation, "gone": True})


async def test_regenerate_edit_and_choose(site: Site, case: Callable[..., Case]) -> None:
    good = case("good")
    async with ChatClient(site) as page:
        start = await page.ask(good.service_id, "one")
        conversation, first = start["conversation"], start["answer"]
        question = start["turn"]["parent"]
        await page.got("done", answer=first)
        await page.say(type="send", conversation=conversation, question=question, ref="again")
        second = await page.got("start", ref="again")
        assert (second["turn"]["parent"], second["turn"]["siblings"]) == (question, [first, second["answer"]])
        await page.got("done", answer=second["answer"])
        await page.say(type="send", conversation=conversation, content="two", parent=None, ref="edit")
        edited = await page.got("start", ref="edit")
        await page.got("done", answer=edited["answer"])
        await page.say(type="history", conversation=conversation, ref="history")
        told = await page.got("history", ref="history")
        await page.say(type="leave", conversation=conversation)
        await page.say(type="join", conversation=conversation, ref="back")
        assert (await page.got("status", ref="back"))["conversation"]["head"] == edited["answer"]
    shown = await turns(site, conversation)
    assert (told["turns"], told["more"]) == (shown, False)
    assert [turn["content"] for turn in shown] == ["two", TEXT]
    assert shown[0]["siblings"] == [question, shown[0]["id"]]
    assert [m["content"] for m in json.loads(good.seen.bodies[-1])["messages"]] == ["two"]
    assert (await api(site, "PUT", f"conversations/{conversation}/branch", json={"message_id": first}))[0] == 200
    assert [turn["id"] for turn in await turns(site, conversation)] == [question, first]
    assert (await api(site, "PUT", f"conversations/{conversation}/branch", json={"message_id": question}))[0] == 200
    assert [turn["id"] for turn in await turns(site, conversation)] == [question, second["answer"]]
    status, told = await api(site, "GET", f"conversations/{conversation}/export?as=json")
    assert (status, len(told["messages"]), told["shown"]) == (200, 5, [question, second["answer"]])
    status, text = await api(site, "GET", f"conversations/{conversation}/export?as=markdown")
    assert status == 200 and text.count(TEXT) == 1 and text.startswith("# one")


async def test_a_failure_is_told_and_left_out_of_the_next_question(site: Site, case: Callable[..., Case]) -> None:
    cut = case("cut")
    async with ChatClient(site) as page:
        start = await page.ask(cut.service_id, "lost")
        told = await page.got("error", answer=start["answer"])
        assert "broke off in the middle" in told["message"] and told["end"]["state"] == "failed"
        await page.say(type="send", conversation=start["conversation"], content="next", ref="b")
        await page.got("error", answer=(await page.got("start", ref="b"))["answer"])
    assert [m["content"] for m in json.loads(cut.seen.bodies[1])["messages"]] == ["next"]


async def test_an_answer_that_fails_at_once_is_told_like_any_other(site: Site, case: Callable[..., Case]) -> None:
    refuses = case("refuses")
    async with ChatClient(site) as page:
        for number in range(5):
            start = await page.ask(refuses.service_id, f"q{number}")
            assert "too many tokens" in (await page.got("error", answer=start["answer"]))["message"]


async def test_what_cannot_be_asked(site: Site, case: Callable[..., Case]) -> None:
    waits, down = case("waits"), case("good")
    site.do("stop", service_id=down.service_id)
    async with ChatClient(site) as page:
        await page.say(type="send", service=down.service_id, content="Hi", ref="down")
        assert "It is stopped." in (await page.got("error", ref="down"))["message"]
        start = await page.ask(waits.service_id)
        conversation = start["conversation"]
        for number, (frame, code) in enumerate(
            [
                ({"type": "send", "conversation": conversation, "content": "x"}, "answering"),
                ({"type": "send", "service": waits.service_id, "content": " "}, "invalid"),
                ({"type": "send", "service": 999999, "content": "x"}, "service_not_found"),
                ({"type": "send", "content": "x"}, "invalid"),
                ({"type": "send", "service": "1", "content": "x"}, "invalid"),
                ({"type": "send", "service": waits.service_id, "content": 5}, "invalid"),
                ({"type": "send", "service": waits.service_id, "content": "x", "parameters": {"x": 1}}, "invalid"),
                ({"type": "cancel", "answer": 10**15}, "not_found"),
                ({"type": "resume"}, "invalid"),
                ({"type": "join", "conversation": -1}, "invalid"),
                ({"type": "dance"}, "invalid"),
                ({}, "invalid"),
            ]
        ):
            await page.say(**frame, ref=f"r{number}")
            assert (await page.got("error", ref=f"r{number}"))["code"] == code, frame
        await page._socket.send_str("no json")
        await page._socket.send_bytes(b"\x00")
        await page.say(type="cancel", answer=start["answer"])
        await page.got("cancelled")
    listed = (await api(site, "GET", "conversations"))[1]
    ours = [row["id"] for row in listed if row["service_id"] in (waits.service_id, down.service_id)]
    assert ours == [conversation], "what is refused stores nothing"


async def test_other_peoples_chats_are_nobodys(site: Site, case: Callable[..., Case]) -> None:
    waits = case("waits")
    async with ChatClient(site) as mine, ChatClient(site, "administrator") as theirs:
        start = await mine.ask(waits.service_id)
        conversation, answer = start["conversation"], start["answer"]
        for frame in (
            {"type": "join", "conversation": conversation},
            {"type": "history", "conversation": conversation},
            {"type": "send", "conversation": conversation, "content": "x"},
            {"type": "send", "conversation": conversation, "question": start["turn"]["parent"]},
            {"type": "resume", "answer": answer},
            {"type": "cancel", "answer": answer},
        ):
            await theirs.say(**frame, ref=str(frame))
            assert (await theirs.got("error", ref=str(frame)))["code"] == "not_found"
        waits.seen.go_on.set()
        await mine.got("done", answer=answer)
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"title": "x"}),
        ("DELETE", "", None),
        ("GET", "/turns", None),
        ("GET", "/export", None),
        ("PUT", "/branch", {"message_id": answer}),
    ):
        url = f"conversations/{conversation}{path}"
        assert (await api(site, method, url, "administrator", json=body))[0] == 404, (method, path)
    assert conversation not in [row["id"] for row in (await api(site, "GET", "conversations", "administrator"))[1]]
    assert len(await turns(site, conversation)) == 2


async def test_who_may_not_chat_is_told_and_closed(site: Site) -> None:
    async with ChatClient(site, "nobody") as page:
        await page.say(type="send", service=1, content="x", ref="x")
        assert (await page.got("error"))["code"] == "permission_denied"
        while page.close_code is None:
            await asyncio.sleep(0.01)
    assert page.close_code == 4403
    assert not [frame for frame in page.frames if frame.get("ref") == "x"]


async def test_a_page_that_acknowledges_nothing_gets_a_window_and_no_more(
    site: Site, case: Callable[..., Case]
) -> None:
    async with ChatClient(site, acknowledges=False) as slow:
        starts = [await slow.ask(case("flood").service_id, content) for content in ("one", "two", "three")]
        lasts = [await until_ended(site, start["conversation"]) for start in starts]
        assert all(last["state"] == "failed" and "longer than" in last["reason"] for last in lasts)
        for _ in range(100):
            got = sum(len(slow.text(start["answer"])) for start in starts)
            if got > 200_000:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        got = sum(len(slow.text(start["answer"])) for start in starts)
        assert 200_000 < got <= 256 * 1024 < sum(last["length"] for last in lasts)
        slow.acknowledges = True
        await slow.say(type="ack", n=max(frame["n"] for frame in slow.frames if frame["type"] == "chunk"))
        for start, last in zip(starts, lasts, strict=True):
            await slow.got("error", answer=start["answer"])
            assert slow.text(start["answer"]) == last["content"]


async def test_another_process_shows_stops_and_survives_the_death_of_one(
    site: Site, upstream: ScriptedUpstream
) -> None:
    """What one web process writes, another shows from the database; stops arrive; a death leaves a failed answer."""
    second = start_site(Path(site.environment["INFINI_DATA_DIR"]), migrate=False)
    second.people = site.people
    try:
        service_id = site.service([upstream.port], "/endless/elsewhere/v1")
        async with ChatClient(site) as here, ChatClient(second) as there:
            start = await there.ask(service_id)
            conversation, answer = start["conversation"], start["answer"]
            await here.say(type="join", conversation=conversation)
            await here.say(type="resume", answer=answer)
            await here.got("chunk", answer=answer)
            await here.say(type="cancel", answer=answer)
            assert await asyncio.to_thread(upstream.seen["elsewhere"].closed.wait, 3)
            await here.got("cancelled", answer=answer)
            await there.got("cancelled", answer=answer)

            await there.say(type="send", conversation=conversation, content="again")
            await here.got("start", answer=answer + 2)
            await here.got("chunk", answer=answer + 2)
            second.process.send_signal(signal.SIGKILL)
            second.process.wait(10)
            site.do("orphan", service_id=service_id)
            told = await here.got("error", answer=answer + 2)
            assert "site was stopped" in told["message"]
        last = (await turns(site, conversation))[-1]
        assert last["state"] == "failed" and last["content"]
    finally:
        second.end()
