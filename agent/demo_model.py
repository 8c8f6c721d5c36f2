#!/usr/bin/env python3
"""Infini's demo model: a tiny language model behind an OpenAI-compatible HTTP server.

It exists so that a fresh installation has something to deploy, to chat with and to measure when no
accelerator and no model weights are at hand. The model is real but tiny: word n-grams over the
project's own documents, learnt at every start. It says so in the first sentence of every answer.

One file, standard library only, Python 3.8 or newer:

    python3 demo_model.py --port 10001
"""

from __future__ import annotations

import argparse
import hmac
import json
import logging
import math
import os
import random
import re
import selectors
import signal
import socket
import socketserver
import sys
import time
import zlib
from array import array
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Sequence

logger = logging.getLogger("demo_model")

NOTICE = "This is Infini's demo model: a tiny n-gram model of the project's documents, not a real assistant."

MAX_BODY_BYTES = 1 << 20
MAX_DRAIN_BYTES = 32 << 20
MAX_CORPUS_CHARS = 400_000
MAX_TOKENS_LIMIT = 100_000
DEFAULT_MAX_TOKENS = 256

BUILT_IN_TEXT = """
Infini is a site from which people run AI model services on their own servers. It keeps an inventory of
servers, of the accelerator cards in them and of the models that run on them. It has three layers: the web
pages, the control plane and one agent per server.

A service is a model that people can use. An instance is one running copy of a service on one server. A
service on many servers is deployed on all of them at once, and each server has its own result. A failed
server shows as failed with its reason, and it never turns the service green.

To deploy a service, choose a model, choose the servers and give the deploy command. The deploy command may
contain placeholders for the port, the host, the service and the model. A port can be fixed, or the agent
takes a free port from a range. The instance reports its port and the chat uses it.

The agent is one file that needs nothing but Python. It starts a model server as a process of its own group,
keeps its log and remembers its exit code. When the agent dies, the model server keeps running. When the agent
comes back, it finds the same process again and nothing is started twice.

The control plane asks every agent for a report and shows what it saw. The status of a service is derived from
its instances and is never set by hand. A service is deployed when every wanted instance is ready. A server is
offline when neither its agent nor its last check answered.

To stop a service, press stop on its page. To restart a service, press restart on its page. Deleting a service
stops its instances first. The log of an instance shows the last lines that the process wrote.

A chat belongs to one user and one service. The answer arrives word by word while the model writes it. A user
can stop the answer at any time, and the part that arrived is kept. Programs talk to a service with the OpenAI
client and an API key.

An accelerator card has a memory size, peak rates, an interconnect bandwidth and a source for each figure.
Cards come from many brands, and a figure that nobody publishes stays empty. Memory decides which model fits
on a card. A larger model needs more cards or more servers.

A viewer reads, an operator deploys and stops, and an administrator manages users. Passwords and keys are
stored encrypted and are never shown again.

An n-gram model counts which word follows which words. It has no understanding of a question. It finds a rare
word of the question in its documents and writes a sentence around that word. For real answers, deploy a real
model with vLLM, SGLang, llama.cpp or Ollama.

你好，欢迎使用演示模型。这个模型很小，只会把文档里的词接起来。请部署一个真正的模型来得到真正的回答。

一个服务可以部署在多台服务器上。每台服务器上有一个代理，代理启动模型进程并保存日志。服务的状态由它的实例得出。
部署失败时，页面会显示失败的原因。停止服务会停止它的所有实例。每块加速卡都有显存、算力和来源。
"""

# ---------------------------------------------------------------------------------------------------------
# Text: from Markdown to tokens and back
# ---------------------------------------------------------------------------------------------------------

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W{_CJK}]+"
_TOKEN = re.compile(rf" ?(?:[{_CJK}]|[-/]*{_WORD}(?:['’./:@-]+{_WORD})*|\S)")
_SENTENCE_END = frozenset(".!?。！？")
_CLOSERS = {")": "(", "]": "[", "}": "{", "”": "“", "）": "（", "」": "「"}

_CODE_BLOCK = re.compile(r"^[ \t]*(```|~~~).*?(^[ \t]*\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^[ \t]*(#.*|\|.*|[-=*_ ]{3,}|\[[^\]]+\]:.*|.*\|[-: ]+\|.*)$", re.MULTILINE)
_HTML = re.compile(r"<!--.*?-->|</?[a-zA-Z][^>\n]*>", re.DOTALL)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])")
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d+[.)])[ \t]+(?:\[[ xX]\][ \t]+)?", re.MULTILINE)
_CJK_BREAK = re.compile(f"(?<=[{_CJK}，。！？、；：]) (?=[{_CJK}])")
_MARKS = re.compile(r"[`>]|\*+|(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)")


def plain_paragraphs(markdown: str) -> list[str]:
    """The running text of a Markdown document, one string per paragraph or list item.

    Code, tables and headings are left out: their fragments would make the n-grams ungrammatical.
    """
    text = _CODE_BLOCK.sub("\n", markdown.replace("\r\n", "\n"))
    text = _NOT_PROSE.sub("\n", _HTML.sub(" ", text))
    text = _LINK.sub(r"\1", _IMAGE.sub(" ", text))
    text = _MARKS.sub("", _LIST_ITEM.sub("\n\n", text))
    paragraphs = (_CJK_BREAK.sub("", " ".join(part.split())) for part in re.split(r"\n[ \t]*\n", text))
    return [part for part in paragraphs if part]


def tokenize(text: str) -> list[str]:
    """Cut text into words and marks, each with the space before it, so that joining restores the text."""
    return _TOKEN.findall(" ".join(text.split()))


def is_word(token: str) -> bool:
    """Whether a token is a word rather than punctuation; only words are paced and counted as words."""
    return any(char.isalnum() for char in token)


def is_cjk(text: str) -> bool:
    """Whether a text holds Chinese or Japanese characters, each of which is a token of its own."""
    return bool(re.search(f"[{_CJK}]", text))


def stem(token: str) -> str:
    """A crude key under which ``Deploys``, ``deployed`` and ``deploy`` meet."""
    word = token.strip().lower()
    for ending in ("ments", "ment", "ings", "ing", "ies", "ed", "es", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def sentences_of(paragraph: str) -> Iterator[list[str]]:
    """Split a paragraph into tokenised sentences that all end with a full stop of some kind."""
    tokens = tokenize(paragraph)
    if tokens and not is_cjk(tokens[0]):
        tokens[0] = " " + tokens[0]
    sentence: list[str] = []
    for index, token in enumerate(tokens):
        sentence.append(token)
        following = tokens[index + 1] if index + 1 < len(tokens) else ""
        if token in _SENTENCE_END and _starts_sentence(following, after=token):
            yield sentence
            sentence = []
    if sum(map(is_word, sentence)) >= 3:
        yield [*sentence[:-1], "."] if sentence[-1] in (":", ";", ",") else [*sentence, "."]


def _starts_sentence(token: str, *, after: str) -> bool:
    """Whether a sentence may begin with the token; keeps ``e.g. this`` and ``v1.2`` in one piece."""
    if not token or after in "。！？":
        return True
    return token.startswith(" ") and not token[1:2].islower()


_FUNCTION_WORDS = """
a about all also am an and any are as at be because been but by can could did do does for from get give had
has have hello hey hi how i if in into is it its just let like made make many may me might more most much my
need no not of on one only or other our out please she should show so some such tell than thank thanks that
the their them then there these they this those to too up us use very want was we were what when where which
who why will with would yes you your explain mean work
的 是 了 在 我 你 么 什 怎 吗 这 个 有 和 一 不 请 为 会 能 可 以 样 它
"""
_STOP_WORDS = frozenset(stem(word) for word in _FUNCTION_WORDS.split())


# ---------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------

BOUNDARY = 0  # the token between two sentences: the start of one and the end of the other
LONGEST_ORDER = 4
ORDER_SHARE = 0.85  # how often a known context is taken at its full length, rather than one shorter
TOPIC_BOOST = 2.0  # how much likelier a word of the question becomes


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.7
    top_p: float = 1.0


class Contexts:
    """What follows one to three given tokens, read in one direction.

    The positions of the corpus are sorted by their context, so every context of any order is one
    contiguous range found by bisection. That keeps the model at a few bytes per token, where a
    dictionary of counters would take some hundred.
    """

    def __init__(self, corpus: array[int], size: int) -> None:
        self._size = size
        reach = LONGEST_ORDER - 1
        self._widths = [int(size ** (reach - length)) for length in range(LONGEST_ORDER)]
        keys = array("Q", (self._key(corpus[i - reach : i]) for i in range(reach, len(corpus))))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._keys = array("Q", (keys[i] for i in order))
        self._next = array("I", (corpus[i + reach] for i in order))

    def _key(self, context: Sequence[int]) -> int:
        """One number per context, the last token leading, so that shorter contexts are ranges of it."""
        key = 0
        for token in reversed(context):
            key = key * self._size + token
        return key * self._widths[len(context)]

    def counts(self, context: Sequence[int], greedy: bool, rng: random.Random) -> Counter[int]:
        """Counts of the next token after a context.

        The orders are interpolated by drawing one of them: the longest known context most of the time,
        else a shorter one. A greedy reader always takes the longest. A single token is always known.
        """
        for length in range(min(len(context), LONGEST_ORDER - 1), 1, -1):
            low, high = self._range(context[-length:])
            if low < high and (greedy or rng.random() < ORDER_SHARE):
                return Counter(self._next[low:high])
        low, high = self._range(context[-1:])
        return Counter(self._next[low:high])

    def _range(self, context: Sequence[int]) -> tuple[int, int]:
        low_key = self._key(context)
        low = bisect_left(self._keys, low_key)
        return low, bisect_left(self._keys, low_key + self._widths[len(context)], lo=low)


class LanguageModel:
    """Word n-grams of orders 4 to 1, forwards and backwards.

    Reading backwards as well lets a sentence grow to both sides of a word of the question. Immutable
    once trained, so all requests share it without a lock.
    """

    def __init__(self, sentences: Iterable[Sequence[str]]) -> None:
        ids: dict[str, int] = {"": BOUNDARY}
        corpus = array("I", [BOUNDARY] * (LONGEST_ORDER - 1))
        for sentence in sentences:
            corpus.extend(ids.setdefault(token, len(ids)) for token in sentence)
            corpus.append(BOUNDARY)
        corpus.extend([BOUNDARY] * (LONGEST_ORDER - 2))
        self.tokens = list(ids)
        self.corpus = corpus
        self._forward = Contexts(corpus, len(ids))
        self._backward = Contexts(corpus[::-1], len(ids))
        self._index_words()

    def _index_words(self) -> None:
        """Remember where every content word stands, by its stem."""
        stems = [stem(token) if is_word(token) else "" for token in self.tokens]
        self.positions: dict[str, array[int]] = {}
        self.ids_of: dict[str, list[int]] = {}
        for token_id, key in enumerate(stems):
            if key and key not in _STOP_WORDS:
                self.ids_of.setdefault(key, []).append(token_id)
        for position, token_id in enumerate(self.corpus):
            key = stems[token_id]
            if key in self.ids_of:
                self.positions.setdefault(key, array("I")).append(position)
        self._stems = stems

    def rarity(self, key: str) -> float:
        """Information content of a word: the rarer, the more an answer should turn around it."""
        return math.log(len(self.corpus) / len(self.positions[key]))

    def topics(self, text: str) -> dict[str, float]:
        """The content words of a text that the model knows, with their rarity."""
        known = {key for key in map(stem, tokenize(text)) if key in self.positions}
        return {key: self.rarity(key) for key in sorted(known)}

    def seeds(self, topics: dict[str, float]) -> dict[int, float]:
        """Positions to start a sentence from: topic words, better with other topic words near by."""
        scores: dict[int, float] = {}
        for key in topics:
            for position in self.positions[key][:100]:
                near = {self._stems[token] for token in self.corpus[max(position - 7, 0) : position + 8]}
                scores[position] = sum(weight for word, weight in topics.items() if word in near) ** 2
        return scores

    def any_seed(self, rng: random.Random, cjk: bool) -> int:
        """Order 1, for a question without a known word: content words as often as they occur."""
        while True:
            position = rng.randrange(len(self.corpus))
            key = self._stems[self.corpus[position]]
            if key in self.ids_of and is_cjk(key) == cjk:
                return position

    def sentence(
        self,
        position: int,
        boosted: frozenset[int],
        how: Sampling,
        rng: random.Random,
    ) -> list[str]:
        """Grow a sentence from the n-gram at a position of the corpus, to its end and to its start."""
        seed = [token for token in self.corpus[position : position + 2] if token != BOUNDARY]
        if self.corpus[position - 1] != BOUNDARY:
            seed.insert(0, self.corpus[position - 1])
        grown = self._grow(seed, self._forward, boosted, how, rng)
        grown = self._grow(grown[::-1], self._backward, boosted, how, rng)[::-1]
        return [self.tokens[token] for token in grown]

    @staticmethod
    def _grow(
        start: list[int], contexts: Contexts, boosted: frozenset[int], how: Sampling, rng: random.Random
    ) -> list[int]:
        grown = list(start)
        while len(grown) < 60:
            counts = contexts.counts(grown, how.temperature == 0, rng)
            weights = {token: n * TOPIC_BOOST if token in boosted else n for token, n in counts.items()}
            token = draw(weights, how, rng)
            if token == BOUNDARY:
                break
            grown.append(token)
        return grown


def draw(weights: dict[int, float], how: Sampling, rng: random.Random) -> int:
    """Draw a key by weight under temperature and nucleus sampling; temperature 0 takes the heaviest."""
    ranked = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    if how.temperature == 0 or len(ranked) == 1:
        return ranked[0][0]
    top = ranked[0][1]
    scaled = [(key, (weight / top) ** (1 / how.temperature)) for key, weight in ranked]
    limit = how.top_p * sum(weight for _, weight in scaled)
    kept: list[tuple[int, float]] = []
    mass = 0.0
    for key, weight in scaled:
        kept.append((key, weight))
        mass += weight
        if mass >= limit:
            break
    return rng.choices([key for key, _ in kept], [weight for _, weight in kept])[0]


def well_formed(sentence: Sequence[str]) -> bool:
    """Whether a grown sentence is of a readable length with its brackets and quotes in pairs."""
    if not 4 <= len(sentence) < 45 or sentence[-1] not in _SENTENCE_END:
        return False
    if not (sentence[0].strip()[:1].isupper() or is_cjk(sentence[0])):
        return False
    open_marks: list[str] = []
    for char in "".join(sentence):
        if char in _CLOSERS.values():
            open_marks.append(char)
        elif char in _CLOSERS and (not open_marks or open_marks.pop() != _CLOSERS[char]):
            return False
    return not open_marks and "".join(sentence).count('"') % 2 == 0


def answer_tokens(model: LanguageModel, ask: Ask) -> Iterator[str]:
    """The answer to a conversation, token by token: the notice, then two to four sentences on its topic.

    ``min_tokens`` makes it go on beyond its natural end, which load tests need.
    """
    rng = random.Random(ask.rng_seed)
    topics = model.topics(ask.question) or model.topics(ask.prompt)
    boosted = frozenset(token for key in topics for token in model.ids_of[key])
    notice = tokenize(NOTICE)
    yield from notice
    sent = len(notice)
    last = notice[-1]
    wanted = 3 if ask.sampling.temperature == 0 else rng.randint(2, 4)
    said: set[str] = set()
    seeds: dict[int, float] = {}
    count = 0
    while count < wanted or sent < ask.min_tokens:
        seeds = seeds or model.seeds(topics)
        sentence = _next_sentence(model, seeds, boosted, said, ask, rng)
        if not sentence:
            if sent >= ask.min_tokens:
                return
            said.clear()
            continue
        said.add("".join(sentence))
        if last.isascii() and not sentence[0].startswith(" "):
            sentence[0] = " " + sentence[0]
        yield from sentence
        last = sentence[-1]
        sent += len(sentence)
        count += 1


def _next_sentence(
    model: LanguageModel,
    seeds: dict[int, float],
    boosted: frozenset[int],
    said: set[str],
    ask: Ask,
    rng: random.Random,
) -> list[str]:
    """The first well-formed new sentence of a few tries; each try uses up its seed. Empty when none was."""
    sentence: list[str] = []
    for _ in range(12):
        position = draw(seeds, ask.sampling, rng) if seeds else model.any_seed(rng, is_cjk(ask.question))
        seeds.pop(position, None)
        sentence = model.sentence(position, boosted, ask.sampling, rng)
        if well_formed(sentence) and "".join(sentence) not in said:
            return sentence
    return [] if "".join(sentence) in said else sentence


def load_corpus(paths: Sequence[Path]) -> LanguageModel:
    """Train on the built-in text and the given files or folders, up to a size that starts quickly.

    Raises OSError for a file that cannot be read.
    """
    paragraphs = plain_paragraphs(BUILT_IN_TEXT)
    left = MAX_CORPUS_CHARS
    for path in _documents(paths):
        text = path.read_text(encoding="utf-8", errors="replace")
        if len(text) > left:
            logger.warning("corpus cut at %s: more than %d characters", path, MAX_CORPUS_CHARS)
        paragraphs += plain_paragraphs(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return LanguageModel(sentence for paragraph in paragraphs for sentence in sentences_of(paragraph))


def _documents(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(found for found in path.rglob("*") if found.suffix in (".md", ".rst", ".txt"))
        else:
            yield path


def default_corpus() -> list[Path]:
    """The documents of the project this file lies in, as far as there are any."""
    root = Path(__file__).resolve().parent.parent
    return [path for path in (root / "README.md", root / "CHANGELOG.md", root / "docs") if path.exists()]


# ---------------------------------------------------------------------------------------------------------
# Requests
# ---------------------------------------------------------------------------------------------------------


class ApiError(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        kind = "authentication_error" if self.status == 401 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Ask:
    """A checked request for an answer, the same for both completion paths."""

    prompt: str
    question: str
    rng_seed: int
    prompt_tokens: int
    stream: bool = False
    include_usage: bool = False
    max_tokens: int = DEFAULT_MAX_TOKENS
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)


def _number(body: dict[str, Any], name: str, default: Any, kind: Any, low: float, high: float) -> Any:
    """An optional number within bounds; ``true`` is no number though Python thinks so."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        wanted = "an integer" if kind is int else "a number"
        raise ApiError(400, f"{name} must be {wanted} from {low:g} to {high:g}", param=name)
    return value


def _flag(body: dict[str, Any], name: str, param: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"{param} must be true or false", param=param)
    return bool(value)


def _stop(body: dict[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(s, str) and s for s in stops):
        raise ApiError(400, "stop must be a string or a list of up to 16 strings, none empty", param="stop")
    return tuple(stops)


def _include_usage(body: dict[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or not stream:
        raise ApiError(400, "stream_options must be an object and needs stream", param="stream_options")
    return _flag(options, "include_usage", "stream_options.include_usage")


def _content(message: dict[str, Any], where: str) -> str:
    """The text of a message: a string, a list of text parts, or nothing in a message of the assistant."""
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError(
            400,
            f"{where}.content must be a string or a list of text parts",
            param=f"{where}.content",
        )
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, f"{where}.content may hold text parts only", param=f"{where}.content")
    return "\n".join(part["text"] for part in content)


def read_messages(body: dict[str, Any]) -> tuple[str, str]:
    """The whole conversation and the last thing the user said in it."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a list of at least one message", param="messages")
    texts: list[str] = []
    question = ""
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict):
            raise ApiError(400, f"{where} must be an object with role and content", param=where)
        if message.get("role") not in ("system", "developer", "user", "assistant", "tool"):
            raise ApiError(
                400,
                f"{where}.role must be system, user, assistant or tool",
                param=f"{where}.role",
            )
        texts.append(_content(message, where))
        if message["role"] == "user":
            question = texts[-1]
    return "\n".join(texts), question


def read_prompt(body: dict[str, Any]) -> tuple[str, str]:
    """The prompt of ``/v1/completions``: a string, or a list of exactly one."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise ApiError(400, "prompt must be a string", param="prompt")
    return prompt, prompt


def read_ask(body: Any, model_name: str, read_text: Callable[[dict[str, Any]], tuple[str, str]]) -> Ask:
    """Check a request body; options that only say how, and are not known here, are ignored."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    name = body.get("model")
    if name is not None and not isinstance(name, str):
        raise ApiError(400, "model must be a string", param="model")
    if name and name != model_name:
        message = f"The model {name!r} does not exist; this server has {model_name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    prompt, question = read_text(body)
    _number(body, "n", 1, int, 1, 1)
    stream = _flag(body, "stream", "stream")
    temperature = _number(body, "temperature", Sampling.temperature, (int, float), 0, 2)
    seed = _number(body, "seed", 0 if temperature == 0 else None, int, -(2**63), 2**63 - 1)
    limit = _number(body, "max_tokens", DEFAULT_MAX_TOKENS, int, 1, MAX_TOKENS_LIMIT)
    return Ask(
        prompt=prompt,
        question=question,
        rng_seed=_rng_seed(seed, prompt),
        prompt_tokens=len(tokenize(prompt)),
        stream=stream,
        include_usage=_include_usage(body, stream),
        max_tokens=_number(body, "max_completion_tokens", limit, int, 1, MAX_TOKENS_LIMIT),
        min_tokens=_number(body, "min_tokens", 0, int, 0, MAX_TOKENS_LIMIT),
        stop=_stop(body),
        sampling=Sampling(temperature, _number(body, "top_p", 1.0, (int, float), 0, 1)),
    )


def _rng_seed(seed: int | None, prompt: str) -> int:
    """With a seed, the same conversation gives the same answer; without one, chance decides."""
    if seed is None:
        return int.from_bytes(os.urandom(8), "big")
    return (seed % 2**64) << 32 | zlib.crc32(prompt.encode("utf-8", "surrogatepass"))


class StopFilter:
    """Holds text back while it could still be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What may go out now, and whether a stop string was met."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = [at for at in map(held.find, self._stops) if at >= 0]
        if found:
            self._held = ""
            return held[: min(found)], True
        keep = max(self._overlap(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def rest(self) -> str:
        """What was held back for a stop string that never came."""
        return self._held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        sizes = range(min(len(text), len(stop) - 1), 0, -1)
        return next((size for size in sizes if text.endswith(stop[:size])), 0)


# ---------------------------------------------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    model_name: str
    rate: float
    first_delay: float
    api_key: str | None


class ClientGone(ConnectionError):
    """The client closed its connection while an answer was being written."""


class Server(ThreadingHTTPServer):
    """One thread per connection; that is plenty for a demo and keeps streams independent."""

    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = os.name != "nt"  # on Windows it would let two servers share a port

    def __init__(self, host: str, port: int, model: LanguageModel, options: Options) -> None:
        self.model = model
        self.options = options
        self.started = int(time.time())
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Bind without the name look-up of HTTPServer, which can take seconds where DNS is away."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]


class Pace:
    """Lets words out at a steady rate and notices at once when the client has gone.

    A client that closes only its sending side counts as gone, as it does for most HTTP servers.
    """

    def __init__(self, connection: socket.socket, options: Options) -> None:
        self._connection = connection
        self._rate = options.rate
        self._start = time.monotonic() + options.first_delay
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)

    def __enter__(self) -> Pace:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._selector.close()

    def wait(self, words: int) -> None:
        """Sleep until it is time for the word after so many words; raise ClientGone."""
        due = self._start + (words / self._rate if self._rate else 0.0)
        while True:
            left = max(due - time.monotonic(), 0.0)
            if self._selector.select(left):
                self._check_client()
                time.sleep(min(left, 0.05))  # a pipelined request waits there; do not spin on it
            if time.monotonic() >= due:
                return

    def _check_client(self) -> None:
        if not self._connection.recv(1, socket.MSG_PEEK):
            raise ClientGone


class Run:
    """One answer on its way: what was counted, and how it ended."""

    def __init__(self, model: LanguageModel, ask: Ask, pace: Pace) -> None:
        self._model = model
        self._ask = ask
        self._pace = pace
        self.words = 0
        self.tokens = 0
        self.finish_reason = "stop"

    def pieces(self) -> Iterator[str]:
        """The texts to send, one per token but for what a stop string holds back."""
        stop = StopFilter(self._ask.stop)
        for token in answer_tokens(self._model, self._ask):
            if self.tokens == self._ask.max_tokens:
                self.finish_reason = "length"
                break
            if is_word(token):
                self._pace.wait(self.words)
                self.words += 1
            self.tokens += 1
            text, met = stop.feed(token)
            if text:
                yield text
            if met:
                return
        if stop.rest():
            yield stop.rest()

    def usage(self) -> dict[str, int]:
        prompt = self._ask.prompt_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.tokens,
            "total_tokens": prompt + self.tokens,
        }


class ChatShape:
    """How ``/v1/chat/completions`` words its answers."""

    prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    @staticmethod
    def choice(text: str, reason: str) -> dict[str, Any]:
        return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}

    @staticmethod
    def delta(text: str | None, reason: str | None, first: bool = False) -> dict[str, Any]:
        delta = {} if text is None else {"content": text}
        if first:
            delta = {"role": "assistant", "content": ""}
        return {"index": 0, "delta": delta, "finish_reason": reason}


class TextShape:
    """How ``/v1/completions`` words its answers."""

    prefix = "cmpl-"
    whole = "text_completion"
    chunk = "text_completion"

    @staticmethod
    def choice(text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}

    @classmethod
    def delta(cls, text: str | None, reason: str | None, first: bool = False) -> dict[str, Any]:
        return cls.choice(text or "", reason)


class Handler(BaseHTTPRequestHandler):
    """HTTP on one connection. Neither prompts nor answers are logged."""

    protocol_version = "HTTP/1.1"
    server_version = "infini-demo-model"
    sys_version = ""
    disable_nagle_algorithm = True
    timeout = 75
    server: Server

    def handle(self) -> None:
        """Serve the connection; one that breaks is a client's choice and no error."""
        try:
            super().handle()
        except (ConnectionError, socket.timeout):
            self.close_connection = True

    def do_GET(self) -> None:
        self._serve({"/health": self._health, "/v1/models": self._models}, other=self._post_paths())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._serve(self._post_paths(), other={"/health": self._health, "/v1/models": self._models})

    def _post_paths(self) -> dict[str, Callable[[bytes], None]]:
        return {"/v1/chat/completions": self._chat, "/v1/completions": self._complete}

    def _serve(
        self,
        paths: dict[str, Callable[[bytes], None]],
        other: dict[str, Callable[[bytes], None]],
    ) -> None:
        path = self.path.split("?", 1)[0].rstrip("/")
        try:
            body = self._read_body()
            self._check_key(path)
            if path in other:
                raise ApiError(405, f"{self.command} is not allowed on {path}", code="method_not_allowed")
            if path not in paths:
                raise ApiError(404, f"there is no {path or '/'} here", code="not_found")
            paths[path](body)
        except ApiError as error:
            self._answer(error.status, error.body())

    def _read_body(self) -> bytes:
        """Read the whole body even if it will be refused, so that the client gets to read why."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            self.close_connection = True
            raise ApiError(411, "send the body with a Content-Length", code="length_required")
        declared = self.headers.get("Content-Length", "0").strip()
        if not (declared.isascii() and declared.isdigit()):
            self.close_connection = True
            raise ApiError(400, "Content-Length must be a number", code="bad_content_length")
        length = int(declared[:18])
        if length > MAX_BODY_BYTES:
            self._drain(length)
            raise ApiError(413, f"the body may have up to {MAX_BODY_BYTES} bytes", code="body_too_large")
        body = self.rfile.read(length)
        if len(body) < length:
            raise ClientGone
        return body

    def _drain(self, length: int) -> None:
        """Throw a large body away; a connection closed on unread data would lose the answer."""
        self.close_connection = True
        left = min(length, MAX_DRAIN_BYTES)
        while left > 0:
            read = len(self.rfile.read(min(left, 1 << 16)))
            if not read:
                raise ClientGone
            left -= read

    def _check_key(self, path: str) -> None:
        key = self.server.options.api_key
        if key is None or path == "/health":
            return
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
            raise ApiError(401, "a valid API key is needed", code="invalid_api_key")

    def _health(self, _body: bytes) -> None:
        self._answer(200, {"status": "ok", "model": self.server.options.model_name})

    def _models(self, _body: bytes) -> None:
        card = {
            "id": self.server.options.model_name,
            "object": "model",
            "created": self.server.started,
            "owned_by": "infini-demo",
        }
        self._answer(200, {"object": "list", "data": [card]})

    def _chat(self, body: bytes) -> None:
        self._generate(read_ask(_parse(body), self.server.options.model_name, read_messages), ChatShape)

    def _complete(self, body: bytes) -> None:
        self._generate(read_ask(_parse(body), self.server.options.model_name, read_prompt), TextShape)

    def _generate(self, ask: Ask, shape: type[ChatShape] | type[TextShape]) -> None:
        """Write one answer; when the client leaves, generation ends there and the log says where."""
        began = time.monotonic()
        head = self._head(shape)
        with Pace(self.connection, self.server.options) as pace:
            run = Run(self.server.model, ask, pace)
            try:
                if ask.stream:
                    self._stream(run, ask, shape, pace, {**head, "object": shape.chunk})
                else:
                    text = "".join(run.pieces())
                    choices = [shape.choice(text, run.finish_reason)]
                    self._answer(200, {**head, "choices": choices, "usage": run.usage()})
            except (ConnectionError, socket.timeout):
                logger.info("generation cancelled after %d words", run.words)
                raise
        logger.info("generated %d words in %.2f s", run.words, time.monotonic() - began)

    def _head(self, shape: type[ChatShape] | type[TextShape]) -> dict[str, Any]:
        return {
            "id": shape.prefix + os.urandom(12).hex(),
            "object": shape.whole,
            "created": int(time.time()),
            "model": self.server.options.model_name,
        }

    def _stream(
        self,
        run: Run,
        ask: Ask,
        shape: type[ChatShape] | type[TextShape],
        pace: Pace,
        head: dict[str, Any],
    ) -> None:
        """Server-sent events: the role, the words as they come, the reason, the usage if asked for."""
        extra = {"usage": None} if ask.include_usage else {}
        self._start_stream()
        pace.wait(0)
        if shape is ChatShape:
            self._event({**head, "choices": [shape.delta(None, None, first=True)], **extra})
        for text in run.pieces():
            self._event({**head, "choices": [shape.delta(text, None)], **extra})
        self._event({**head, "choices": [shape.delta(None, run.finish_reason)], **extra})
        if ask.include_usage:
            self._event({**head, "choices": [], "usage": run.usage()})
        self._send(b"data: [DONE]\n\n")
        if self._chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _start_stream(self) -> None:
        self._chunked = self.request_version != "HTTP/1.0"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Accel-Buffering", "no")
        if self._chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, payload: dict[str, Any]) -> None:
        self._send(b"data: " + _dump(payload) + b"\n\n")

    def _send(self, data: bytes) -> None:
        """One write per event: the socket is unbuffered, so each leaves as its own packet."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    def _answer(self, status: int, payload: dict[str, Any]) -> None:
        data = _dump(payload)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if status == 405:
            self.send_header("Allow", "GET, HEAD" if self.command == "POST" else "POST")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses by itself (bad request lines, unknown methods), in our shape."""
        self.close_connection = True
        self._answer(int(code), ApiError(int(code), message or "bad request").body())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """One line per request; health checks come every few seconds and are left out."""
        path = re.sub(r"[^!-~]", "?", getattr(self, "path", "-").split("?", 1)[0])
        if path != "/health" or code != 200:
            logger.info("%s %s %s", self.command, path, int(code))

    def log_message(self, format: str, *args: Any) -> None:
        logger.info(format, *args)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None


def _dump(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


# ---------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be zero or more")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return value


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; the defaults suit a loopback deployment."""
    parser = argparse.ArgumentParser(
        description="Infini's demo model: a tiny n-gram model, OpenAI-compatible.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=10001, help="0 takes a free port and prints it")
    parser.add_argument("--rate", type=_not_negative, default=20.0, help="words per second, 0 = unpaced")
    parser.add_argument(
        "--first-delay",
        type=_not_negative,
        default=0.0,
        help="seconds before the first word",
    )
    parser.add_argument("--model", default="infini-demo", help="the name to serve under")
    parser.add_argument("--api-key", default=None, help="ask for this Bearer key on /v1")
    parser.add_argument(
        "--corpus",
        nargs="+",
        type=_existing,
        metavar="FILE_OR_DIR",
        help="text to learn instead",
    )
    return parser.parse_args(argv)


def _exit_at_once(_signum: int, _frame: object) -> None:
    """Leave without waiting for open streams: nothing here needs saving."""
    os._exit(0)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, listen and serve until a signal."""
    args = parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, _exit_at_once)
    signal.signal(signal.SIGINT, _exit_at_once)
    options = Options(args.model, args.rate, args.first_delay, args.api_key)
    try:
        model = load_corpus(default_corpus() if args.corpus is None else args.corpus)
        server = Server(args.host, args.port, model, options)
    except OSError as error:
        print(f"demo model: cannot serve on {args.host} port {args.port}: {error}", file=sys.stderr)
        return 1
    logger.info("learnt %d tokens, %d distinct", len(model.corpus), len(model.tokens))
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"listening on http://{host}:{server.server_port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
