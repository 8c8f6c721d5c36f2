"""The socket of the chat page, as docs/chat-protocol.md tells it: it starts and shows answers, it never holds them."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer
from django.db import transaction
from django.db.models import Max
from django.urls import re_path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from chat import conversations, generation, rooms
from chat.admission import PERMISSION
from chat.asking import Door, door_to
from chat.conversations import Asked
from chat.frames import Window, frame_of, id_in, needed_id, ref_of
from chat.models import Conversation, Message, MessageState, Role
from chat.refusals import Refusal
from chat.threads import as_summary, as_turn, context_of, shown_turns, tree_of
from chat.watching import TRACKS, Ended, watch
from infini.errors import Forbidden, InfiniError, Invalid, NotFound
from infini.off_loop import off_loop
from infini.said import said
from infini.sockets import identify

logger = logging.getLogger(__name__)

FOLLOWED_MOST = 20
WATCHED_MOST = 40
LOOK_AGAIN_SECONDS = 30.0
END_TYPES = {MessageState.COMPLETE: "done", MessageState.STOPPED: "cancelled", MessageState.FAILED: "error"}


@dataclass
class Followed:
    """A conversation this socket has joined, and what of it the page was told."""

    conversation_id: int
    last_id: int
    version: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    task: asyncio.Task[None] | None = None


class ChatSocket(AsyncWebsocketConsumer):
    """``/ws/chat``: who asks is known already; whether he may is told in a frame."""

    async def connect(self) -> None:
        await self.accept()
        self._user_id: int = self.scope["user"].pk
        self._refused = False
        self._window = Window()
        self._followed: dict[int, Followed] = {}
        self._watched: dict[int, tuple[int, asyncio.Task[None]]] = {}  # by answer: its conversation and the task
        self._refs: dict[int, str] = {}  # of questions and answers this socket asked for
        self._look_again = asyncio.create_task(self._guarded(self._keep_looking()))
        if not await self._may():
            await self._refuse()

    async def disconnect(self, code: int) -> None:
        for followed in self._followed.values():
            rooms.leave(followed.conversation_id, followed.wake.set)
        watching = [task for _, task in self._watched.values()]
        tasks = [self._look_again, *watching, *(f.task for f in self._followed.values() if f.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self._refused:
            return
        ref = ""
        try:
            frame = frame_of(text_data)
            ref = ref_of(frame)
            handlers: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
                "send": self._send_question,
                "cancel": self._cancel,
                "resume": self._resume,
                "join": self._join,
                "leave": self._leave,
                "history": self._history,
                "ack": self._acknowledge,
            }
            kind = frame.get("type")
            if not isinstance(kind, str) or kind not in handlers:
                raise Invalid(f"type must be one of {', '.join(handlers)}.")
            await handlers[kind](frame)
        except (InfiniError, Refusal) as error:
            await self._say({"type": "error", "code": error.code, "message": said(error.message)}, ref)

    # What a page asks for.

    async def _send_question(self, frame: dict[str, Any]) -> None:
        conversation_id = id_in(frame, "conversation")
        target = await self._target_of(frame, conversation_id)
        door = await door_to(user_id=self._user_id, **target)
        generation.check_room_for(self._user_id)
        if conversation_id is None:
            asked, fields = await off_loop(_begun, self._user_id, target, frame)
            conversation_id = asked.conversation.pk
            self._follow(conversation_id, last_id=0)
            await self._say({"type": "created", "conversation": as_summary(asked.conversation)}, ref_of(frame))
            self._generate(door, asked, fields, ref_of(frame))
        else:
            followed = await self._joined(conversation_id)
            async with followed.lock:  # nobody is told of the question before we know it as ours
                asked, fields = await off_loop(_asked, self._user_id, conversation_id, frame)
                self._generate(door, asked, fields, ref_of(frame))
        rooms.changed(conversation_id)

    def _generate(self, door: Door, asked: Asked, fields: dict[str, Any], ref: str) -> None:
        self._refs |= {asked.question_id: ref, asked.answer_id: ref}
        who = {"conversation_id": asked.conversation.pk, "user_id": self._user_id}
        generation.generate(door, answer_id=asked.answer_id, fields=fields, **who)

    async def _target_of(self, frame: dict[str, Any], conversation_id: int | None) -> dict[str, int | None]:
        """``service_id`` or ``endpoint_id`` of who is asked."""
        if conversation_id is not None:
            conversation = await self._own(conversation_id)
            return {"service_id": conversation.service_id, "endpoint_id": conversation.endpoint_id}
        target = {"service_id": id_in(frame, "service"), "endpoint_id": id_in(frame, "endpoint")}
        if not any(target.values()):
            raise Invalid(_("Give conversation, or service or endpoint to begin one."))
        return target

    async def _cancel(self, frame: dict[str, Any]) -> None:
        answer_id = needed_id(frame, "answer")
        here = generation.running(answer_id)
        reason = gettext_noop("Stopped by the person who asked.")
        if here and here.user_id == self._user_id:
            here.stop(reason)
            return
        await off_loop(conversations.stop_answer, user_id=self._user_id, answer_id=answer_id, reason=reason)

    async def _resume(self, frame: dict[str, Any]) -> None:
        answer_id = needed_id(frame, "answer")
        conversation_id = await off_loop(_conversation_of, self._user_id, answer_id)
        offsets = {"content": id_in(frame, "offset") or 0, "reasoning": id_in(frame, "reasoning_offset") or 0}
        self._watch(conversation_id, answer_id, offsets)

    async def _join(self, frame: dict[str, Any]) -> None:
        conversation_id = needed_id(frame, "conversation")
        followed = await self._joined(conversation_id)
        await self._say_status(followed, await self._own(conversation_id), ref_of(frame))

    async def _leave(self, frame: dict[str, Any]) -> None:
        followed = self._followed.get(needed_id(frame, "conversation"))
        if followed:
            self._unfollow(followed)
            if followed.task:
                followed.task.cancel()

    async def _history(self, frame: dict[str, Any]) -> None:
        conversation = await self._own(needed_id(frame, "conversation"))
        turns, more = await off_loop(shown_turns, conversation, before=id_in(frame, "before"))
        told = {"conversation": as_summary(conversation), "turns": turns, "more": more}
        await self._say({"type": "history", **told}, ref_of(frame))

    async def _acknowledge(self, frame: dict[str, Any]) -> None:
        self._window.acknowledge(needed_id(frame, "n"))

    # What a page is told.

    async def _joined(self, conversation_id: int) -> Followed:
        if conversation_id in self._followed:
            return self._followed[conversation_id]
        if len(self._followed) >= FOLLOWED_MOST:
            raise Invalid(_("A socket follows at most {n} conversations; leave one first.").format(n=FOLLOWED_MOST))
        last_id = await off_loop(_last_id, self._user_id, conversation_id)
        return self._follow(conversation_id, last_id=last_id)

    def _follow(self, conversation_id: int, *, last_id: int) -> Followed:
        followed = self._followed[conversation_id] = Followed(conversation_id, last_id)
        followed.task = asyncio.create_task(self._guarded(self._keep_telling(followed)))
        rooms.enter(conversation_id, followed.wake.set)
        return followed

    def _unfollow(self, followed: Followed) -> None:
        self._followed.pop(followed.conversation_id, None)
        rooms.leave(followed.conversation_id, followed.wake.set)
        for conversation_id, task in list(self._watched.values()):
            if conversation_id == followed.conversation_id:
                task.cancel()

    async def _keep_telling(self, followed: Followed) -> None:
        """Whenever the conversation may have changed: its new messages, and its status if that is another."""
        while True:
            await followed.wake.wait()
            followed.wake.clear()
            try:
                await self._tell_news(followed)
            except NotFound:
                self._unfollow(followed)
                await self._say({"type": "status", "conversation": {"id": followed.conversation_id, "gone": True}})
                return

    async def _tell_news(self, followed: Followed) -> None:
        async with followed.lock:
            told = (followed.conversation_id, followed.version, followed.last_id)
            found = await off_loop(_news, self._user_id, *told)
            if found is None:
                return
            conversation, turns = found
            for turn in turns:
                followed.last_id = turn["id"]
                await self._tell_turn(followed, turn)
        await self._say_status(followed, conversation)

    async def _tell_turn(self, followed: Followed, turn: dict[str, Any]) -> None:
        """An answer that is being written, or that was asked for here, however soon it ended, is shown as it comes."""
        is_ours = turn["id"] in self._refs
        ref = self._refs.pop(turn["id"], "")
        streaming = MessageState.STREAMING.value
        if turn["role"] != Role.ASSISTANT or not (is_ours or turn["state"] == streaming):
            await self._say({"type": "message", "conversation": followed.conversation_id, "turn": turn}, ref)
            return
        turn |= {"content": "", "reasoning": "", "state": streaming, "reason": "", "length": 0, "reasoning_length": 0}
        told = {"conversation": followed.conversation_id, "answer": turn["id"], "turn": turn}
        await self._say({"type": "start", **told}, ref)
        self._watch(followed.conversation_id, turn["id"], dict.fromkeys(TRACKS, 0))

    async def _say_status(self, followed: Followed, conversation: Conversation, ref: str = "") -> None:
        followed.version = conversation.version
        await self._say({"type": "status", "conversation": as_summary(conversation)}, ref)

    def _watch(self, conversation_id: int, answer_id: int, offsets: dict[str, int]) -> None:
        """From these offsets on; whoever watched the same answer before on this socket is told no more."""
        if answer_id not in self._watched and len(self._watched) >= WATCHED_MOST:
            raise Invalid(_("A socket watches at most {n} answers.").format(n=WATCHED_MOST))
        if answer_id in self._watched:
            self._watched[answer_id][1].cancel()
        task = asyncio.create_task(self._guarded(self._keep_showing(conversation_id, answer_id, offsets)))
        self._watched[answer_id] = (conversation_id, task)
        task.add_done_callback(lambda done: self._forget(answer_id, done))

    def _forget(self, answer_id: int, task: asyncio.Task[None]) -> None:
        if self._watched.get(answer_id, (0, None))[1] is task:
            del self._watched[answer_id]

    async def _keep_showing(self, conversation_id: int, answer_id: int, offsets: dict[str, int]) -> None:
        about = {"conversation": conversation_id, "answer": answer_id}
        async with aclosing(watch(answer_id, offsets)) as found:
            async for one in found:
                if isinstance(one, Ended):
                    await self._tell_end(about, one.end)
                    return
                await self._window.room()
                told = {"track": one.track, "offset": one.offset, "next": one.next, "text": one.text}
                await self._say({"type": "chunk", **about, **told, "n": self._window.sent(len(one.text))})

    async def _tell_end(self, about: dict[str, Any], end: dict[str, Any]) -> None:
        kind = END_TYPES[MessageState(end["state"])]
        end = end | {"reason": said(end["reason"])}
        told = {"code": "answer_failed", "message": end["reason"]} if kind == "error" else {}
        await self._say({"type": kind, **about, **told, "end": end})

    # The socket itself.

    async def _own(self, conversation_id: int) -> Conversation:
        return await off_loop(conversations.own, user_id=self._user_id, conversation_id=conversation_id)

    async def _say(self, frame: dict[str, Any], ref: str = "") -> None:
        await self.send(text_data=json.dumps(frame | ({"ref": ref} if ref else {}), ensure_ascii=False))

    async def _may(self) -> bool:
        return await off_loop(_is_permitted, self.scope, self._user_id)

    async def _keep_looking(self) -> None:
        """Who has lost his role, key or session meanwhile is shown nothing more."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            if not await self._may():
                await self._refuse()
                return

    async def _refuse(self) -> None:
        self._refused = True
        error = Forbidden(_("Your role does not allow talking to services (chat.use_chat)."))
        await self._say({"type": "error", "code": error.code, "message": said(error.message)})
        await self.close(code=4403)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A fault of ours closes the socket: the page comes again by offset instead of watching a dead one."""
        try:
            await work
        except InfiniError as error:
            await self._say({"type": "error", "code": error.code, "message": said(error.message)})
        except Exception:  # noqa: BLE001  (the edge of our code)
            logger.exception("chat.socket_broken")
            await self.close(code=1011)


def _is_permitted(scope: dict[str, Any], user_id: int) -> bool:
    user = identify(scope)
    return user is not None and user.pk == user_id and user.has_perm(PERMISSION)


def _begun(user_id: int, target: dict[str, Any], frame: dict[str, Any]) -> tuple[Asked, dict[str, Any]]:
    """Begins a conversation with its first question, or nothing at all."""
    prompt = frame.get("system_prompt", "")
    if not isinstance(prompt, str):
        raise Invalid(_("system_prompt must be text."))
    with transaction.atomic():
        made = conversations.begin(user_id=user_id, **target, system_prompt=prompt, parameters=frame.get("parameters"))
        return _asked(user_id, made.pk, frame)


def _asked(user_id: int, conversation_id: int, frame: dict[str, Any]) -> tuple[Asked, dict[str, Any]]:
    """Stores what is asked; with it the request for the model server."""
    who = {"user_id": user_id, "conversation_id": conversation_id}
    question_id = id_in(frame, "question")
    if question_id is not None:
        asked = conversations.ask_again(**who, question_id=question_id)
    else:
        content = frame.get("content")
        if not isinstance(content, str):
            raise Invalid(_("content must be text."))
        asked = conversations.ask(
            **who, content=content, parent_id=id_in(frame, "parent"), at_head="parent" not in frame
        )
    messages = context_of(asked.conversation, asked.question_id)
    return asked, {**asked.conversation.parameters, "messages": messages}


def _last_id(user_id: int, conversation_id: int) -> int:
    conversation = conversations.own(user_id=user_id, conversation_id=conversation_id)
    return conversation.messages.aggregate(last=Max("pk"))["last"] or 0


def _conversation_of(user_id: int, answer_id: int) -> int:
    found = Message.objects.filter(pk=answer_id, conversation__user=user_id).values_list("conversation_id", flat=True)
    conversation_id = found.first()
    if conversation_id is None:
        raise NotFound(_("There is no such message."))
    conversations.own(user_id=user_id, conversation_id=conversation_id)
    return conversation_id


def _news(
    user_id: int, conversation_id: int, version: int, last_id: int
) -> tuple[Conversation, list[dict[str, Any]]] | None:
    """The conversation and its messages after ``last_id``; None when it is as it was. Raises NotFound when deleted."""
    conversation = conversations.own(user_id=user_id, conversation_id=conversation_id)
    if conversation.version == version:
        return None
    rows = list(conversation.messages.filter(pk__gt=last_id).order_by("pk"))
    tree = tree_of(conversation_id) if rows else None
    return conversation, [as_turn(row, tree.siblings_of(row.pk) if tree else ()) for row in rows]


socket_routes = [re_path(r"^ws/chat/?$", ChatSocket.as_asgi())]
