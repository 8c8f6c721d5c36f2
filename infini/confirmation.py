"""What a person is asked before something is done: what happens, to what, and, where a slip would hurt, a word to type.

One question serves everywhere: as a page, which works without scripts, and, when ``X-Dialog`` asks for it, as the
inside of a dialog (dialog.js). Its answer is posted to where it was asked, with all that was posted there before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _

CONFIRMED, WORD, FORCE = "confirmed", "word", "force"
NAMES_SHOWN = 10
MANY = 5  # from so many on, stopping or restarting takes their number
_OF_THE_ANSWER = {CONFIRMED, WORD, FORCE, "csrfmiddlewaretoken"}


@dataclass(frozen=True)
class Word:
    """What has to be typed, and the sentence that asks for it."""

    text: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """``button`` repeats what is done and to how many; ``back`` is where Cancel leads on a page of its own."""

    title: str
    effect: str
    button: str
    back: str
    names: Sequence[object] = ()
    facts: Sequence[tuple[str, str]] = ()  # what has to be compared: labels and codes
    word: Word | None = None
    dismiss: str = ""  # how No is called, where Cancel is what is asked about
    danger: bool = False
    forceable: bool = False


def typed_name(rows: Sequence[object]) -> Word:
    """The name of the one; of several, how many they are."""
    if len(rows) != 1:
        return typed_count(len(rows))
    return Word(str(rows[0]), _("Type %(word)s to confirm") % {"word": rows[0]})


def typed_count(count: int) -> Word:
    return Word(str(count), _("Type %(word)s, their number, to confirm") % {"word": count})


def typed_if_many(rows: Sequence[object]) -> Word | None:
    return typed_count(len(rows)) if len(rows) >= MANY else None


def asks_only(request: HttpRequest) -> bool:
    """Whether a script wants the question alone; whatever stands behind it, nothing may be done."""
    return "X-Dialog" in request.headers


def is_confirmed(request: HttpRequest, word: Word | None = None) -> bool:
    """Whether this is the answer: yes, and the word where there is one."""
    said_yes = request.method == "POST" and CONFIRMED in request.POST and not asks_only(request)
    return said_yes and (word is None or request.POST.get(WORD, "").strip() == word.text)


def ask(admin_site: Any, request: HttpRequest, question: Question, **context: Any) -> HttpResponse:
    """The question as a page or as the inside of a dialog; 409 when it was answered with another word."""
    kept = [(name, text) for name in request.POST for text in request.POST.getlist(name) if name not in _OF_THE_ANSWER]
    context |= {
        "question": question,
        "names": question.names[:NAMES_SHOWN],
        "more": max(0, len(question.names) - NAMES_SHOWN),
        "kept": kept,
        "action": request.get_full_path(),
        "title": question.title,
    }
    if asks_only(request):
        return TemplateResponse(request, "partials/confirm.html", {**context, "in_dialog": True})
    context |= {"wrong": CONFIRMED in request.POST, **admin_site.each_context(request), "title": question.title}
    return TemplateResponse(request, "admin/confirm.html", context, status=409 if context["wrong"] else 200)
