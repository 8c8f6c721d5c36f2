"""Sentences that background work wrote down, said in the reader's language.

What is stored is English, whoever reads it later: why an instance failed, what an agent answered. Where such a sentence
is written its text is marked with ``gettext_noop``, so the catalogue has it, and here it is found again by its shape.
"""

import gettext
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from django.conf import settings
from django.utils.translation import get_language, gettext_noop, to_locale
from django.utils.translation import gettext as _

_PLACEHOLDER = re.compile(r"%\((\w+)\)[-.\d]*([a-z])")
_WORDS = re.compile(r"[A-Za-z]{2} [A-Za-z(]|[a-z]\.$")
_BETWEEN = re.compile(r"(?<=[a-z)0-9]\.) (?=\S)")  # two sentences
_SHAPES = {"d": r"(-?\d+)", "g": r"(-?[\d.e+-]+)", "f": r"(-?[\d.]+)"}
_LONGEST = 1000  # longer ones are output, not sentences of ours
# What the system says of a connection: it stands within sentences of ours, whose translation would stop at it.
SYSTEM_WORDS = (
    gettext_noop("Connection refused"),
    gettext_noop("Connection timed out"),
    gettext_noop("Connection reset by peer"),
    gettext_noop("Broken pipe"),
    gettext_noop("No route to host"),
    gettext_noop("Network is unreachable"),
    gettext_noop("Host is down"),
    gettext_noop("Permission denied"),
    gettext_noop("Name or service not known"),
    gettext_noop("Temporary failure in name resolution"),
    gettext_noop("No such file or directory"),
)
_FEWEST_LETTERS = 6  # of its own, for a text to be told from another by its shape


@dataclass(frozen=True)
class _Shape:
    """A text with placeholders: how it looks once they are filled, and its translation."""

    own: tuple[str, ...]  # its own words, all of which stand in what it was filled to
    pattern: re.Pattern[str]
    names: tuple[str, ...]
    translation: str
    letters: int


def said(text: str) -> str:
    """``text`` in the active language where the catalogue knows it, else as it is."""
    language = get_language() or "en"
    if language.startswith("en") or len(text) > _LONGEST or not _WORDS.search(text):
        return text
    return _said(text, language)


def said_subject(kind: str, name: str) -> str:
    """What an alert or event is about: an instance is stored as ``<service> on <server>``, names stay as they are."""
    service, on, server = name.rpartition(" on ") if kind == "instance" else ("", "", name)
    return _("%(service)s on %(server)s") % {"service": service, "server": server} if on else name


@lru_cache(maxsize=4096)
def _said(text: str, language: str) -> str:
    known = _catalogue(language).get(text)
    if known:
        return known
    sentences = _BETWEEN.split(text)
    told = [said(sentence) for sentence in sentences] if len(sentences) > 1 else sentences
    if len(told) > 1 and all(one != other for one, other in zip(told, sentences, strict=True)):
        return "".join(told)  # each by itself, before the blank of a shape takes several
    for shape in _shapes(language):
        if all(words in text for words in shape.own) and (found := shape.pattern.fullmatch(text)):
            values = {name: _value(name, value) for name, value in zip(shape.names, found.groups(), strict=True)}
            return shape.translation % values
    return "".join(told) if told != sentences else _after_a_name(text)


def _value(placeholder: str, value: str) -> str:
    return said_subject(placeholder, value) if placeholder == "instance" else said(value)


def _after_a_name(text: str) -> str:
    """``gpu-07: <a sentence>``, as sums of several are written."""
    name, colon, sentence = text.partition(": ")
    told = said(sentence) if colon and " " not in name else sentence
    return f"{name}：{told}" if told != sentence else text


@cache
def _catalogue(language: str) -> Mapping[str, str]:
    """Our own texts alone: those of the admin and its theme are never stored."""
    found = gettext.translation("django", settings.LOCALE_PATHS[0], [to_locale(language)], fallback=True)
    texts: dict[object, str] = getattr(found, "_catalog", {})
    return {key: text for key, text in texts.items() if isinstance(key, str) and key}


@cache
def _shapes(language: str) -> tuple[_Shape, ...]:
    """Those with most letters of their own first: they say most surely what a text is."""
    shapes = [_shape(key, text) for key, text in _catalogue(language).items() if _PLACEHOLDER.search(key)]
    return tuple(sorted((one for one in shapes if one.letters >= _FEWEST_LETTERS), key=lambda one: -one.letters))


def _shape(template: str, translation: str) -> _Shape:
    pattern, names, own, end = "", [], [], 0
    for found in _PLACEHOLDER.finditer(template):
        own.append(template[end : found.start()].replace("%%", "%"))
        pattern += re.escape(own[-1]) + _SHAPES.get(found[2], "(.+?)")
        names.append(found[1])
        end = found.end()
    own.append(template[end:].replace("%%", "%"))
    compiled = re.compile(pattern + re.escape(own[-1]), re.DOTALL)
    letters = sum(map(str.isalpha, "".join(own)))
    return _Shape(tuple(own), compiled, tuple(names), _PLACEHOLDER.sub(r"%(\1)s", translation), letters)
