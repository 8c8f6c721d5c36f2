"""What was said: the verbs and questions on a person's messages with a service."""

from datetime import timedelta

from django.db import transaction
from django.db.models import F, QuerySet, Value
from django.db.models.functions import Concat
from django.utils import timezone

from chat.models import Conversation, Message, MessageState, Role

# Longer texts are cut when they come through the gateway, and refused when they are posted.
MESSAGE_MAX_CHARS = 1_000_000
# A living answer is touched at least every TOUCH_SECONDS; ORPHAN_SECONDS without it, its process is gone.
TOUCH_SECONDS = 15
ORPHAN_SECONDS = 60
ORPHANED = "The site was stopped while this answer was being written."


def messages_of(*, user_id: int, service_id: int) -> QuerySet[Message]:
    """The person's messages with the service, oldest first. Answers whose process died are ended as failed first."""
    mine = Message.objects.filter(conversation__user=user_id, conversation__service=service_id)
    stale = timezone.now() - timedelta(seconds=ORPHAN_SECONDS)
    orphans = mine.filter(state=MessageState.STREAMING, touched_at__lt=stale)
    if orphans.exists():
        orphans.update(state=MessageState.FAILED, reason=ORPHANED)
    return mine.order_by("pk")


def add_message(*, user_id: int, service_id: int, role: str, content: str) -> Message:
    """Append one finished message."""
    with transaction.atomic():
        conversation = _conversation(user_id, service_id)
        return Message.objects.create(conversation=conversation, role=role, content=_storable(content))


def clear(*, user_id: int, service_id: int) -> None:
    """Forget everything between the person and the service; an answer still being written is not kept either."""
    Conversation.objects.filter(user=user_id, service=service_id).delete()


def open_exchange(*, user_id: int, service_id: int, question: str, model: str) -> int:
    """Store the question, if there is one, and an empty answer in state ``streaming``; gives the answer's id."""
    with transaction.atomic():
        conversation = _conversation(user_id, service_id)
        if question:
            Message.objects.create(
                conversation=conversation, role=Role.USER, content=_storable(question)[:MESSAGE_MAX_CHARS]
            )
        answer = Message.objects.create(
            conversation=conversation, role=Role.ASSISTANT, state=MessageState.STREAMING, model=model[:200]
        )
    return answer.pk


def extend_answer(answer_id: int, *, text: str) -> None:
    """Append to an answer that is still being written, and show that its process lives."""
    _living(answer_id).update(content=_appended(text), touched_at=timezone.now())


def end_answer(answer_id: int, *, text: str, model: str, state: str, reason: str) -> None:
    """Append the last piece and say how it ended; an answer that has ended or was cleared stays as it is."""
    _living(answer_id).update(
        content=_appended(text),
        model=_storable(model)[:200],
        state=state,
        reason=_storable(reason)[:500],
        touched_at=timezone.now(),
    )


def _living(answer_id: int) -> QuerySet[Message]:
    return Message.objects.filter(pk=answer_id, state=MessageState.STREAMING)


def _appended(text: str) -> Concat | F:
    return Concat(F("content"), Value(_storable(text))) if text else F("content")


def _conversation(user_id: int, service_id: int) -> Conversation:
    mine = Conversation.objects.filter(user=user_id, service=service_id)
    return mine.order_by("-pk").first() or Conversation.objects.create(user_id=user_id, service_id=service_id)


def _storable(text: str) -> str:
    """Text any database takes: no NUL, no half of a surrogate pair."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
