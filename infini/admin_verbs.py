"""Verbs in the admin: one declaration gives the button on an object's page and the action of its list.

Both are POST with a CSRF token; nothing of it ever happens on GET. What has an effect worth a thought is confirmed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from infini import extras, tabs
from infini.confirmation import FORCE, NAMES_SHOWN, Question, Word, ask, asks_only, is_confirmed
from infini.errors import InfiniError
from infini.said import said


@dataclass(frozen=True)
class Verb:
    """Something done to rows. ``run(row, by=)`` does it to one and raises InfiniError; ``run_all`` to many at once.

    ``done`` says it in a sentence about the names. ``effect``, a text or what makes one of the rows, is what a person
    confirms first; ``word`` tells what he types for it, where a click is not enough.
    ``refused`` tells why a row cannot take it now: its button is then disabled, with the reason beside it.
    ``leads_to`` is the page where rows are seen to, for what takes more than a yes; nothing is done before it.
    """

    name: str
    label: Any
    icon: str
    permission: str | None
    done: Callable[[Sequence[Model]], str]
    run: Callable[..., object] | None = None
    run_all: Callable[..., object] | None = None
    effect: Any = ""
    word: Callable[[Sequence[Any]], Word | None] = lambda rows: None
    dismiss: Any = ""  # how No is called, where Cancel is what is asked about
    danger: bool = False
    primary: bool = False
    forceable: bool = False
    refused: Callable[[Any], str] = lambda row: ""
    leads_to: Callable[[Sequence[Model]], str] | None = None
    away: bool = False  # the row may be gone afterwards: back to the list
    in_menu: bool | Callable[[Any], bool] = False  # on a row's page it stands behind "More", or on that row's
    offered: Callable[[Any], bool] = lambda row: True  # False: no button on that row's page, since it says nothing

    def allowed(self, user: Any) -> bool:
        return self.permission is None or user.has_perm(self.permission)

    @property
    def asks(self) -> bool:
        return bool(self.effect)

    def question(self, rows: Sequence[Model], *, back: str) -> Question | None:
        """What is asked before it is done to ``rows``; None when it is done at once."""
        if not self.asks or not rows:
            return None
        several = len(rows) > 1
        title = _("%(verb)s these %(n)d?") if several else _("%(verb)s %(name)s?")
        return Question(
            title=title % {"verb": self.label, "n": len(rows), "name": rows[0]},
            effect=str(self.effect(rows) if callable(self.effect) else self.effect),
            button=f"{self.label} {len(rows)}" if several else str(self.label),
            names=rows if several else (),
            word=self.word(rows),
            dismiss=str(self.dismiss),
            danger=self.danger,
            forceable=self.forceable,
            back=back,
        )


def names_of(rows: Sequence[object]) -> str:
    """``a, b and 3 more``"""
    names = [str(row) for row in rows[:NAMES_SHOWN]]
    more = len(rows) - len(names)
    shown = ", ".join(names)
    return _("%(names)s and %(n)d more") % {"names": shown, "n": more} if more else shown


class VerbsAdmin:
    """For a ModelAdmin whose ``verbs`` are its only actions."""

    verbs: Sequence[Verb] = ()
    model: Any
    admin_site: Any
    opts: Any

    def verbs_for(self, request: HttpRequest) -> list[Verb]:
        return [verb for verb in self.all_verbs() if verb.allowed(request.user)]

    def all_verbs(self) -> Sequence[Verb]:
        """Its own, and those that other apps have for its rows."""
        return [*self.verbs, *extras.verbs(self.opts.label_lower)]

    # On the list

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {verb.name: (partial(_bulk, verb), verb.name, verb.label) for verb in self.verbs_for(request)}

    def refuse_foreign_action(self, request: HttpRequest) -> None:
        """An action that exists and is not this person's is refused, not overlooked."""
        asked = request.POST.get("action")
        for verb in self.all_verbs():
            if asked == verb.name and not verb.allowed(request.user):
                raise PermissionDenied(verb.permission)

    # On an object's page

    def verb_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.verb_view)
        return [path("<int:pk>/do/<slug:name>/", view, name=f"{self.opts.app_label}_{self.opts.model_name}_do")]

    def verb_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        verb = next((verb for verb in self.all_verbs() if verb.name == name), None)
        row = self.get_queryset(request).filter(pk=pk).first()  # type: ignore[attr-defined]
        if verb is None or row is None:
            raise Http404
        if not verb.allowed(request.user):
            raise PermissionDenied(verb.permission)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if verb.leads_to:
            return HttpResponse(status=204) if asks_only(request) else HttpResponseRedirect(verb.leads_to([row]))
        page = reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_page", args=[pk]) + tabs.kept(request)
        unanswered = ask_first(self, request, verb, [row], back=page)
        if unanswered:
            return unanswered
        done = do(request, verb, [row])
        gone = verb.away and done and not self.get_queryset(request).filter(pk=pk).exists()  # type: ignore[attr-defined]
        return HttpResponseRedirect(list_url(self) if gone else page)

    def buttons(self, request: HttpRequest, row: Model) -> list[dict[str, Any]]:
        """What a page shows of each verb its viewer may use."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_do"
        return [
            {
                "verb": verb,
                "url": reverse(name, args=[row.pk, verb.name]) + tabs.kept(request),
                "refused": verb.refused(row),
                "in_menu": verb.in_menu(row) if callable(verb.in_menu) else verb.in_menu,
            }
            for verb in self.verbs_for(request)
            if verb.offered(row)
        ]


def _bulk(verb: Verb, model_admin: Any, request: HttpRequest, rows: QuerySet) -> HttpResponse | None:
    chosen = list(rows)
    if verb.leads_to:
        return HttpResponse(status=204) if asks_only(request) else HttpResponseRedirect(verb.leads_to(chosen))
    unanswered = ask_first(model_admin, request, verb, chosen, back=request.get_full_path())
    if unanswered:
        return unanswered
    do(request, verb, chosen)
    return None


def ask_first(
    model_admin: Any, request: HttpRequest, verb: Verb, rows: Sequence[Model], *, back: str
) -> HttpResponse | None:
    """The question, as long as it is not answered; None: do it. A script that asks where there is none gets 204."""
    question = verb.question(rows, back=back)
    if question and not is_confirmed(request, question.word):
        return ask(model_admin.admin_site, request, question, opts=model_admin.opts)
    return HttpResponse(status=204) if asks_only(request) else None


def do(request: HttpRequest, verb: Verb, rows: Sequence[Model]) -> bool:
    """Do it, and tell what came of it; False when some row refused. One refusal does not keep the others."""
    by: Any = request.user
    rows = _whole(rows)
    refused: list[str] = []
    done: list[Model] = []
    made: list[Any] = []
    if verb.run_all:
        verb.run_all(rows, by=by)
        done = list(rows)
    for row in rows if verb.run else ():
        try:
            force = {"force": FORCE in request.POST} if verb.forceable else {}
            made.append(verb.run(row, by=by, **force))  # type: ignore[misc]
            done.append(row)
        except InfiniError as error:
            refused.append(said(error.message) if len(rows) == 1 else f"{row}: {said(error.message)}")
    if done:
        new = [] if verb.away else [one for one in made if isinstance(one, Model) and one not in rows]
        messages.success(request, with_link(request, verb.done(done), new))
    for sentence in refused[:NAMES_SHOWN]:
        messages.error(request, sentence)
    if len(refused) > NAMES_SHOWN:
        messages.error(request, _("%(n)d more were refused.") % {"n": len(refused) - NAMES_SHOWN})
    return not refused


def with_link(request: HttpRequest, sentence: str, made: Sequence[Model]) -> str:
    """``sentence``, and where to find what was ``made``, all of one kind: its page, or the list of these."""
    listed: Any = admin.site._registry.get(type(made[0])) if made else None
    if not getattr(listed, "page_template", None) or not listed.has_view_permission(request):
        return sentence
    if len(made) == 1:
        url, name = listed.page_url(made[0]), str(made[0])
    else:
        ids = ",".join(str(row.pk) for row in made)
        url, name = f"{list_url(listed)}?id__in={ids}", capfirst(str(listed.opts.verbose_name_plural))
    return format_html('{} <a class="link" href="{}">{}</a>', sentence, url, name)


def _whole(rows: Sequence[Model]) -> list[Model]:
    """The rows with all their columns: lists leave some out, which a verb may read where no query can be made."""
    if not rows:
        return []
    found = type(rows[0])._default_manager.in_bulk([row.pk for row in rows])
    return [found[row.pk] for row in rows if row.pk in found]


def list_url(model_admin: Any) -> str:
    return reverse(f"admin:{model_admin.opts.app_label}_{model_admin.opts.model_name}_changelist")
