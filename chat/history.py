"""What was said: the verbs and questions on a person's messages with a service."""

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Concat
from django.utils import timezone
from django.utils.translation import gettext_noop

from chat.models import Conversation, Message, MessageState, Role

# Longer texts are cut when they come through the gateway, and refused when they are posted.
MESSAGE_MAX_CHARS = 1_000_000
# A living answer is touched at least every TOUCH_SECONDS; ORPHAN_SECONDS without it, its process is gone.
TOUCH_SECONDS = 15
ORPHAN_SECONDS = 60
ORPHANED = gettext_noop("The site was stopped while this answer was being written.")


def messages_of(*, user_id: int, service_id: int) -> QuerySet[Message]:
    """The person's messages with the service, oldest first. Answers whose process died are ended as failed first."""
    mine = Message.objects.filter(conversation__user=user_id, conversation__service=service_id)
    end_orphans(mine)
    return mine.order_by("pk")


def end_orphans(messages: QuerySet[Message]) -> None:
    """End those of ``messages`` whose process died as failed."""
    stale = timezone.now() - timedelta(seconds=ORPHAN_SECONDS)
    orphans = messages.filter(state=MessageState.STREAMING, touched_at__lt=stale)
    ids = list(orphans.values_list("pk", flat=True))
    if ids:
        Message.objects.filter(pk__in=ids, state=MessageState.STREAMING, touched_at__lt=stale).update(
            state=MessageState.FAILED, reason=ORPHANED
        )
        Conversation.objects.filter(messages__in=ids).update(version=F("version") + 1)


def add_message(*, user_id: int, service_id: int, role: str, content: str) -> Message:
    """Append one finished message."""
    with transaction.atomic():
        conversation = _history_conversation(user_id, service_id)
        return append(conversation, parent_id=conversation.head_id, role=role, content=storable(content))


def clear(*, user_id: int, service_id: int) -> None:
    """Forget everything between the person and the service; an answer still being written is not kept either."""
    Conversation.objects.filter(user=user_id, service=service_id).delete()


def open_exchange(*, user_id: int, service_id: int, question: str, model: str) -> int:
    """Store the question, if there is one, and an empty answer in state ``streaming``; gives the answer's id."""
    with transaction.atomic():
        conversation = _history_conversation(user_id, service_id)
        parent_id = conversation.head_id
        if question:
            content = storable(question)[:MESSAGE_MAX_CHARS]
            parent_id = append(conversation, parent_id=parent_id, role=Role.USER, content=content).pk
        return open_answer(conversation, parent_id=parent_id, model=model).pk


def append(conversation: Conversation, *, parent_id: int | None, role: str, content: str, **columns: Any) -> Message:
    """A message after ``parent_id``, which the conversation then ends with. The caller holds a transaction."""
    message = Message.objects.create(
        conversation=conversation, parent_id=parent_id, role=role, content=content, **columns
    )
    Conversation.objects.filter(pk=conversation.pk).update(
        head=message, version=F("version") + 1, changed_at=message.created_at
    )
    return message


def open_answer(conversation: Conversation, *, parent_id: int | None, model: str) -> Message:
    """An empty answer in state ``streaming``. The caller holds a transaction."""
    columns = {"state": MessageState.STREAMING, "model": storable(model)[:200]}
    return append(conversation, parent_id=parent_id, role=Role.ASSISTANT, content="", **columns)


def extend_answer(answer_id: int, *, text: str, reasoning: str = "") -> bool:
    """Append to an answer that is still being written, and show that its process lives; False when it is not."""
    columns = {"content": _appended("content", text), "reasoning": _appended("reasoning", reasoning)}
    return bool(living(answer_id).update(**columns, touched_at=timezone.now()))


def end_answer(
    answer_id: int, *, text: str, model: str, state: str, reason: str, reasoning: str = "", **figures: Any
) -> None:
    """Append the last piece and say how it ended; an answer that has ended or was cleared stays as it is.

    ``figures`` are columns of Message: what it took.
    """
    with transaction.atomic():
        ended = living(answer_id).update(
            content=_appended("content", text),
            reasoning=_appended("reasoning", reasoning),
            model=storable(model)[:200],
            state=state,
            reason=storable(reason)[:500],
            touched_at=timezone.now(),
            **figures,
        )
        if ended:
            Conversation.objects.filter(messages=answer_id).update(version=F("version") + 1)


def living(answer_id: int) -> QuerySet[Message]:
    """The answer, unless it has ended."""
    return Message.objects.filter(pk=answer_id, state=MessageState.STREAMING)


def _appended(column: str, text: str) -> Concat | F:
    return Concat(F(column), Value(storable(text))) if text else F(column)


def _history_conversation(user_id: int, service_id: int) -> Conversation:
    """The one conversation the API writes to; made when there is none."""
    return Conversation.objects.get_or_create(user_id=user_id, service_id=service_id, is_history=True)[0]


def storable(text: str) -> str:
    """Text any database takes: no NUL, no half of a surrogate pair."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
