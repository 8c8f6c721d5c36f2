"""The verbs on a person's conversations. Each takes the person: nobody else's conversation is ever found."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from chat import history
from chat.models import Conversation, Endpoint, Message, MessageState, Role
from chat.parameters import checked
from chat.threads import tree_of
from deployments.models import Service
from infini.errors import Conflict, Invalid, NotFound
from infini.visibility import limits_of_id, within

TITLE_CHARS = 80
SYSTEM_PROMPT_MAX_CHARS = 100_000


@dataclass(frozen=True)
class Asked:
    """A question and the empty answer that is to be written; both are stored."""

    conversation: Conversation
    question_id: int
    answer_id: int


def listed(*, user_id: int, search: str = "") -> QuerySet[Conversation]:
    """The person's conversations, the one changed last first; ``is_answering`` tells whether one is being written.

    ``search`` is looked for in titles and in what was said.
    """
    living = Message.objects.filter(
        conversation=OuterRef("pk"), state=MessageState.STREAMING, touched_at__gte=_living_since()
    )
    mine = _mine(user_id).select_related("service", "endpoint").annotate(is_answering=Exists(living))
    text = search.strip()
    if text:
        said = Message.objects.filter(conversation=OuterRef("pk"), content__icontains=text)
        mine = mine.filter(Q(title__icontains=text) | Exists(said))
    return mine.order_by("-changed_at", "-pk")


def own(*, user_id: int, conversation_id: int) -> Conversation:
    """Raises NotFound for somebody else's as for one that is not there."""
    row = _mine(user_id).select_related("service", "endpoint").filter(pk=conversation_id).first()
    if row is None:
        raise NotFound(_("There is no such conversation."))
    return row


def begin(
    *,
    user_id: int,
    service_id: int | None = None,
    endpoint_id: int | None = None,
    title: str = "",
    system_prompt: str = "",
    parameters: Any = None,
) -> Conversation:
    """A new conversation with a service or an endpoint; raises NotFound, Invalid."""
    return Conversation.objects.create(
        user_id=user_id,
        **_checked_target(service_id, endpoint_id, user_id),
        title=_title(title),
        system_prompt=_prompt(system_prompt),
        parameters=checked(parameters or {}),
    )


def change(*, user_id: int, conversation_id: int, **given: Any) -> Conversation:
    """Set what is given of title, service_id or endpoint_id, system_prompt and parameters; raises NotFound, Invalid.

    With another service or endpoint it is no more the history the API writes to: that belongs to the service before.
    """
    conversation = own(user_id=user_id, conversation_id=conversation_id)
    columns: dict[str, Any] = {}
    if "title" in given:
        columns["title"] = _title(given["title"])
    if "system_prompt" in given:
        columns["system_prompt"] = _prompt(given["system_prompt"])
    if "parameters" in given:
        columns["parameters"] = checked(given["parameters"])
    if given.keys() & {"service_id", "endpoint_id"}:
        target = _checked_target(given.get("service_id"), given.get("endpoint_id"), user_id)
        if target != {"service_id": conversation.service_id, "endpoint_id": conversation.endpoint_id}:
            columns |= {**target, "is_history": False}
    if columns:
        Conversation.objects.filter(pk=conversation.pk).update(**columns, version=F("version") + 1)
    return own(user_id=user_id, conversation_id=conversation_id)


def remove(*, user_id: int, conversation_id: int) -> None:
    """Delete it for good; an answer being written is stopped within a second. Raises NotFound."""
    own(user_id=user_id, conversation_id=conversation_id).delete()


def choose_branch(*, user_id: int, conversation_id: int, message_id: int) -> Conversation:
    """Show the branch through this message, to where it was written last; raises NotFound."""
    conversation = own(user_id=user_id, conversation_id=conversation_id)
    tree = tree_of(conversation.pk)
    if message_id not in tree.parents:
        raise NotFound(_("There is no such message in this conversation."))
    Conversation.objects.filter(pk=conversation.pk).update(head=tree.last_below(message_id), version=F("version") + 1)
    return own(user_id=user_id, conversation_id=conversation_id)


def ask(*, user_id: int, conversation_id: int, content: str, parent_id: int | None, at_head: bool) -> Asked:
    """Store a question after ``parent_id`` (None: as the first), or at the end of the shown branch, and its empty
    answer; a question beside another one is a branch. Raises NotFound, Invalid, Conflict while an answer is written.
    """
    if not content.strip():
        raise Invalid(_("Write a message first."), fields={"content": [_("Empty.")]})
    if len(content) > history.MESSAGE_MAX_CHARS:
        most = history.MESSAGE_MAX_CHARS
        raise Invalid(
            _("A message may have at most {n} characters.").format(n=most), fields={"content": [_("Too long.")]}
        )
    with transaction.atomic():
        conversation = _locked(user_id, conversation_id)
        after = conversation.head_id if at_head else parent_id
        if after is not None and not conversation.messages.filter(pk=after).exists():
            raise NotFound(_("There is no such message in this conversation."))
        question = history.append(conversation, parent_id=after, role=Role.USER, content=history.storable(content))
        if not conversation.title:
            conversation.title = _title_from(question.content)
            conversation.save(update_fields=["title"])
        answer = history.open_answer(conversation, parent_id=question.pk, model=conversation.target.served_model)
    return Asked(conversation, question.pk, answer.pk)


def ask_again(*, user_id: int, conversation_id: int, question_id: int) -> Asked:
    """Another empty answer to a question, beside those it has; raises as ``ask`` does."""
    with transaction.atomic():
        conversation = _locked(user_id, conversation_id)
        if not conversation.messages.filter(pk=question_id, role=Role.USER).exists():
            raise NotFound(_("There is no such question in this conversation."))
        answer = history.open_answer(conversation, parent_id=question_id, model=conversation.target.served_model)
    return Asked(conversation, question_id, answer.pk)


def stop_answer(*, user_id: int, answer_id: int, reason: str) -> bool:
    """End an answer that is being written, whichever process writes it; that one notices within a second.

    False when it has ended. Raises NotFound for what is not the person's.
    """
    if not Message.objects.filter(pk=answer_id, conversation__user=user_id).exists():
        raise NotFound(_("There is no such message."))
    stopped = history.living(answer_id).update(state=MessageState.STOPPED, reason=reason, touched_at=timezone.now())
    if stopped:
        Conversation.objects.filter(messages=answer_id).update(version=F("version") + 1)
    return bool(stopped)


def _locked(user_id: int, conversation_id: int) -> Conversation:
    """The conversation, held until the transaction's end and without an answer being written; raises Conflict."""
    mine = _mine(user_id).select_for_update(of=("self",)).select_related("service", "endpoint")
    conversation = mine.filter(pk=conversation_id).first()
    if conversation is None:
        raise NotFound(_("There is no such conversation."))
    rows = conversation.messages.all()
    history.end_orphans(rows)
    if rows.filter(state=MessageState.STREAMING).exists():
        raise Conflict(_("An answer is still being written here. Stop it, or wait for its end."), code="answering")
    return conversation


def _mine(user_id: int) -> QuerySet[Conversation]:
    """Of services and endpoints he may see."""
    return within(Conversation.objects.filter(user=user_id), limits_of_id(user_id))


def _checked_target(service_id: int | None, endpoint_id: int | None, user_id: int) -> dict[str, int | None]:
    """The columns that name the one or the other; raises Invalid for none or both, NotFound."""
    if bool(service_id) == bool(endpoint_id):
        told = _("Name one service, or one endpoint.")
        raise Invalid(told, fields={"service_id": [told]})
    limits = limits_of_id(user_id)
    if service_id and not within(Service.objects.filter(pk=service_id), limits).exists():
        raise NotFound(_("There is no such service."))
    if endpoint_id and not within(Endpoint.objects.filter(pk=endpoint_id), limits).exists():
        raise NotFound(_("There is no such endpoint."))
    return {"service_id": service_id or None, "endpoint_id": endpoint_id or None}


def _title(text: str) -> str:
    return " ".join(history.storable(text).split())[:200]


def _title_from(question: str) -> str:
    """The question's first line, cut at a word."""
    line = " ".join(next((line for line in question.splitlines() if line.strip()), "").split())
    if len(line) <= TITLE_CHARS:
        return line
    return (line[:TITLE_CHARS].rsplit(" ", 1)[0] or line[:TITLE_CHARS]) + "…"


def _prompt(text: str) -> str:
    if len(text) > SYSTEM_PROMPT_MAX_CHARS:
        most = SYSTEM_PROMPT_MAX_CHARS
        raise Invalid(
            _("A system prompt may have at most {n} characters.").format(n=most),
            fields={"system_prompt": [_("Too long.")]},
        )
    return history.storable(text)


def _living_since() -> datetime:
    return timezone.now() - timedelta(seconds=history.ORPHAN_SECONDS)
