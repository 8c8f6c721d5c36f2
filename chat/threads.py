"""A conversation's tree of messages, read as the one branch that is shown."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db.models.functions import Length
from django.utils.translation import gettext as _

from chat import history
from chat.models import Conversation, Message, MessageState, Role
from infini.errors import NotFound
from infini.said import said

PAGE_MESSAGES, PAGE_CHARS = 100, 2_000_000


@dataclass
class Tree:
    """Who follows whom in one conversation: ids alone, because texts may be long."""

    parents: dict[int, int | None]
    children: dict[int | None, list[int]] = field(default_factory=lambda: defaultdict(list))

    def path_to(self, message_id: int | None) -> list[int]:
        """The ids from the first message to this one."""
        path: list[int] = []
        while message_id is not None and message_id in self.parents and len(path) <= len(self.parents):
            path.append(message_id)
            message_id = self.parents[message_id]
        return path[::-1]

    def last_below(self, message_id: int) -> int:
        """The end of the branch through this message that was written last."""
        while self.children[message_id]:
            message_id = self.children[message_id][-1]
        return message_id

    def siblings_of(self, message_id: int) -> list[int]:
        """The branches to choose between at this place, itself among them, oldest first."""
        return self.children[self.parents.get(message_id)]


def tree_of(conversation_id: int) -> Tree:
    rows = Message.objects.filter(conversation=conversation_id).order_by("pk").values_list("pk", "parent_id")
    tree = Tree(dict(rows))
    for pk, parent_id in tree.parents.items():
        tree.children[parent_id].append(pk)
    return tree


def shown_turns(
    conversation: Conversation, *, before: int | None = None, most: int = PAGE_MESSAGES
) -> tuple[list[dict[str, Any]], bool]:
    """The last turns of the shown branch, oldest first, and whether there are earlier ones; four queries.

    ``before``: those that come before this message. Raises NotFound when it is not on the branch.
    """
    history.end_orphans(conversation.messages.all())
    tree = tree_of(conversation.pk)
    path = tree.path_to(conversation.head_id)
    if before is not None:
        if before not in path:
            raise NotFound(_("This message is not on the branch that is shown."))
        path = path[: path.index(before)]
    shown = _within_chars(path[-most:])
    rows = Message.objects.in_bulk(shown)
    return [as_turn(rows[pk], tree.siblings_of(pk)) for pk in shown if pk in rows], len(path) > len(shown)


def _within_chars(path: list[int]) -> list[int]:
    """The end of ``path`` whose texts together fit in PAGE_CHARS; the last one always does."""
    sizes = dict(Message.objects.filter(pk__in=path).values_list("pk", Length("content") + Length("reasoning")))
    total = 0
    for place in range(len(path) - 1, -1, -1):
        total += sizes.get(path[place], 0)
        if total > PAGE_CHARS and place < len(path) - 1:
            return path[place + 1 :]
    return path


def as_turn(message: Message, siblings: Iterable[int] = ()) -> dict[str, Any]:
    """A message as pages and sockets get it. Lengths are in characters (code points), as offsets are."""
    return {
        "id": message.pk,
        "parent": message.parent_id,
        "role": message.role,
        "content": message.content,
        "reasoning": message.reasoning,
        "siblings": list(siblings) or [message.pk],
        "created_at": message.created_at.isoformat(),
        **end_of(message),
    }


def as_summary(conversation: Conversation) -> dict[str, Any]:
    """A conversation as lists and sockets get it."""
    return {
        "id": conversation.pk,
        "title": conversation.title,
        "target": conversation.target_key,
        "service_id": conversation.service_id,
        "endpoint_id": conversation.endpoint_id,
        "service_name": conversation.target.name,
        "head": conversation.head_id,
        "version": conversation.version,
        "created_at": conversation.created_at.isoformat(),
        "changed_at": conversation.changed_at.isoformat(),
    }


def as_list_row(conversation: Any) -> dict[str, Any]:
    """Expects ``conversations.listed``."""
    return {**as_summary(conversation), "is_answering": conversation.is_answering}


END_COLUMNS = (
    *("state", "reason", "model", "server_name", "first_token_ms", "duration_ms"),
    *("prompt_tokens", "completion_tokens", "tokens_per_second"),
)


def end_of(message: Message) -> dict[str, Any]:
    """How it ended, and what it took."""
    told = {name: getattr(message, name) for name in END_COLUMNS}
    told["reason"] = said(told["reason"])
    return {**told, "length": len(message.content), "reasoning_length": len(message.reasoning)}


def context_of(conversation: Conversation, question_id: int) -> list[dict[str, str]]:
    """What the model server is sent: the system prompt and the branch that ends with the question.

    A question whose answer failed or stayed empty is left out with it: models expect both, in turn.
    """
    rows = Message.objects.in_bulk(tree_of(conversation.pk).path_to(question_id))
    kept: list[dict[str, str]] = []
    if conversation.system_prompt.strip():
        kept.append({"role": Role.SYSTEM.value, "content": conversation.system_prompt})
    for message in sorted(rows.values(), key=lambda row: row.pk):
        useless = message.state in (MessageState.FAILED, MessageState.STREAMING) or not message.content
        if message.role == Role.ASSISTANT and useless:
            if kept and kept[-1]["role"] == Role.USER:
                kept.pop()
        else:
            kept.append({"role": message.role, "content": message.content})
    return kept
