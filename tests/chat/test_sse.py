"""The reader of events: however the bytes are cut, the same comes out and the same is understood."""

import json
import random

import pytest

from chat.refusals import Refusal
from chat.sse import EVENT_MAX_BYTES, EventReader, split_events


def event(told: object, end: str = "\n\n") -> bytes:
    return b"data: " + json.dumps(told, separators=(",", ":")).encode() + end.encode()


def piece(text: str) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}}
WORDS = ["a", 'say "error" or [DONE]\n\ndata: {', "\u4f60\u597d }", '"usage":{', "\\", "z"]
STREAM = [
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
    *(event(piece(word)) for word in WORDS * 5),
    b": a comment\n\n",
    event(piece("late"), "\r\n\r\n"),
    event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
]


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("hide", [True, False])
def test_cut_anywhere_it_is_the_same(texts: bool, hide: bool) -> None:
    whole = b"".join([*STREAM, event(USAGE), b"data: [DONE]\n\n"])
    wanted = b"".join([*STREAM, b"" if hide else event(USAGE), b"data: [DONE]\n\n"])
    dice = random.Random(5)
    for most in (1, 7, 60, 300, 2000, len(whole)):
        reader = EventReader(texts=texts, hide_usage=hide)
        out, text, rest = b"", "", whole
        while rest:
            size = dice.randint(1, most)
            out += reader.feed(rest[:size])
            text += reader.take_text()
            rest = rest[size:]
        assert out == wanted
        assert (reader.pieces, reader.done, reader.finished) == (len(WORDS) * 5 + 1, True, True)
        assert reader.usage == USAGE["usage"]
        assert text == ("".join(WORDS) * 5 + "late" if texts else "")


def test_nothing_passes_after_the_end_or_an_error() -> None:
    reader = EventReader(texts=False)
    assert reader.feed(event(piece("a")) + b"data: [DONE]\n\n" + event(piece("b"))).count(b"data") == 2
    reader = EventReader(texts=False)
    reader.feed(event(piece("a")))
    out = reader.feed(event(piece("b")) + event({"error": {"message": "no memory"}}) + event(piece("c")))
    assert out.count(b"data: ") == 2 and reader.error == "no memory"


@pytest.mark.parametrize("bad", [b"data: prose\n\n", b"data: [1]\n\n", b'data: {"a": \n\n', b'data: {"a": 1}}\n\n'])
def test_what_is_no_object_is_refused(bad: bytes) -> None:
    with pytest.raises(Refusal):
        EventReader(texts=True).feed(bad)
    reader = EventReader(texts=False)
    reader.feed(event(piece("a")))
    if bad[6:7] != b"{" or bad[-3:-2] != b"}":  # in mid-stream whole objects are told by their braces alone
        with pytest.raises(Refusal):
            reader.feed(bad)


def test_an_event_without_end_is_refused() -> None:
    reader = EventReader(texts=False)
    with pytest.raises(Refusal):
        for _ in range(EVENT_MAX_BYTES // 10_000 + 2):
            reader.feed(b"x" * 10_000)


def test_events_are_split_for_the_site_itself() -> None:
    block = event(piece("a")) + b": ping\n\n" + event(piece("b"), "\r\n\r\n") + b"data: [DONE]\n\n"
    assert split_events(block) == [piece("a"), piece("b")]
