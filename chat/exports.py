"""A conversation as a file a person keeps."""

import json
from typing import Any

from chat.models import Conversation, Message, Role
from chat.threads import as_summary, as_turn, tree_of

NAMES = {Role.USER: "Question", Role.ASSISTANT: "Answer", Role.SYSTEM: "System"}


def as_json(conversation: Conversation) -> str:
    """Everything, every branch; ``shown`` lists the ids of the branch that is shown."""
    tree = tree_of(conversation.pk)
    told: dict[str, Any] = {
        **as_summary(conversation),
        "system_prompt": conversation.system_prompt,
        "parameters": conversation.parameters,
        "shown": tree.path_to(conversation.head_id),
        "messages": [as_turn(row, tree.siblings_of(row.pk)) for row in conversation.messages.order_by("pk")],
    }
    return json.dumps(told, ensure_ascii=False, indent=2)


def as_markdown(conversation: Conversation) -> str:
    """The branch that is shown, to be read."""
    path = tree_of(conversation.pk).path_to(conversation.head_id)
    rows = Message.objects.in_bulk(path)
    parts = [
        f"# {conversation.title or conversation}",
        f"{conversation.target.name}, {conversation.created_at:%Y-%m-%d}",
    ]
    if conversation.system_prompt.strip():
        parts += ["## System", conversation.system_prompt]
    for pk in path:
        if pk in rows:
            parts += _turn_as_markdown(rows[pk])
    return "\n\n".join(parts) + "\n"


def _turn_as_markdown(message: Message) -> list[str]:
    who = NAMES[Role(message.role)]
    by = ", ".join(part for part in (message.model, message.server_name) if part)
    parts = [f"## {who}{f' ({by})' if by and message.role == Role.ASSISTANT else ''}", message.content]
    if message.reason:
        parts.append(f"*{message.get_state_display()}: {message.reason}*")
    return parts
