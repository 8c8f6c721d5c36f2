"""What an event's kind is called: words that follow its subject. Each app has a table of its own kinds."""

from collections.abc import Callable, Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from infini.models import Event

Words = Any  # a text, translated when shown, or a function of the event's data that gives one
_words: dict[str, Words | Callable[[dict[str, Any]], Words]] = {
    "apikey.revoked": _("revoked"),
    "alert.opened": _("raised an alert"),
    "alert.recovered": _("is all right again"),
    "alerttarget.tested": _("tested"),
    "alerttarget.given_up": _("could not be told"),
    "user.logged_in": _("logged in"),
    "user.logged_out": _("logged out"),
    "user.login_failed": _("failed to log in"),
    "user.password_changed": _("has a new password"),
    "user.recovery_code_used": _("used a recovery code"),
    "user.sessions_ended": _("was logged out"),
    "user.two_step_on": _("turned two-step login on"),
    "user.two_step_off": _("has two-step login no more"),
}
_ANY = {"created": _("added"), "changed": _("changed"), "deleted": _("deleted")}


def register(words: Mapping[str, Words]) -> None:
    """Add the words for an app's kinds, ``{"service.placed": _("placed")}``."""
    _words.update(words)


def event_words(event: Event) -> str:
    """The words; a kind that has none is shown as it is."""
    words = _words.get(event.kind) or _ANY.get(event.kind.rpartition(".")[2]) or event.kind
    return str(words(event.data) if callable(words) else words)


def known(kind: str) -> bool:
    return kind in _words or kind.rpartition(".")[2] in _ANY
