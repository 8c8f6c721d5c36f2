"""The caller's own conversations: lists, settings, branches, exports. Talking itself goes over ``/ws/chat``."""

from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils.text import slugify
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from chat import conversations, exports
from chat.admission import PERMISSION
from chat.models import Conversation
from chat.target_choices import target_choices
from chat.threads import as_list_row, as_summary, shown_turns
from infini.errors import Invalid

SEARCH_MOST_CHARS = 200


class ConversationSerializer(serializers.ModelSerializer):
    title = serializers.CharField(max_length=200, allow_blank=True, required=False)
    service_id = serializers.IntegerField(min_value=1, required=False, allow_null=True)
    endpoint_id = serializers.IntegerField(
        min_value=1, required=False, allow_null=True, help_text="In place of service_id: a model that runs elsewhere."
    )
    service_name = serializers.CharField(source="target.name", read_only=True, help_text="Of the one or the other.")
    target = serializers.CharField(
        source="target_key", read_only=True, help_text="service-7 or endpoint-3, as in /api/chat/services."
    )
    system_prompt = serializers.CharField(
        max_length=conversations.SYSTEM_PROMPT_MAX_CHARS, allow_blank=True, required=False, trim_whitespace=False
    )
    parameters = serializers.JSONField(
        required=False, help_text="temperature, top_p, max_tokens, presence_penalty, frequency_penalty, seed, stop."
    )

    class Meta:
        model = Conversation
        fields = [
            *("id", "title", "target", "service_id", "endpoint_id", "service_name", "system_prompt", "parameters"),
            *("head", "version", "created_at", "changed_at"),
        ]
        read_only_fields = ["head", "version", "created_at", "changed_at"]


class BranchSerializer(serializers.Serializer):
    message_id = serializers.IntegerField(min_value=1)


class OwnView(GenericAPIView):
    """Whoever asks sees his own; somebody else's is not found."""

    needs = PERMISSION
    serializer_class = ConversationSerializer
    queryset = Conversation.objects.none()

    def own(self, request: Request, pk: int) -> Conversation:
        return conversations.own(user_id=request.user.pk, conversation_id=int(pk))

    def valid(self, request: Request, *, partial: bool = False) -> dict[str, Any]:
        given = self.get_serializer(data=request.data, partial=partial)
        given.is_valid(raise_exception=True)
        return given.validated_data


class ConversationListView(OwnView):
    def filter_queryset(self, queryset: QuerySet) -> QuerySet:
        return queryset

    @extend_schema(operation_id="conversations_list", parameters=[OpenApiParameter("search", str)])
    def get(self, request: Request) -> Response:
        """The caller's conversations, the one changed last first; ``search`` looks in titles and messages."""
        search = request.query_params.get("search", "")
        if len(search) > SEARCH_MOST_CHARS or "\x00" in search:
            raise Invalid(_("search must be at most %(n)s characters of text.") % {"n": SEARCH_MOST_CHARS})
        rows = self.paginate_queryset(conversations.listed(user_id=request.user.pk, search=search))
        return self.get_paginated_response([as_list_row(row) for row in rows or []])

    @extend_schema(operation_id="conversations_begin", responses={201: ConversationSerializer})
    def post(self, request: Request) -> Response:
        """Begin a conversation with a service or an endpoint."""
        made = conversations.begin(user_id=request.user.pk, **self.valid(request))
        return Response(self.get_serializer(self.own(request, made.pk)).data, status=status.HTTP_201_CREATED)


class ConversationView(OwnView):
    @extend_schema(operation_id="conversations_read")
    def get(self, request: Request, pk: int) -> Response:
        """One conversation with its settings."""
        return Response(self.get_serializer(self.own(request, pk)).data)

    @extend_schema(operation_id="conversations_change")
    def patch(self, request: Request, pk: int) -> Response:
        """Rename it, move it to another service or endpoint, set its system prompt and parameters (all of them)."""
        self.own(request, pk)
        given = self.valid(request, partial=True)
        changed = conversations.change(user_id=request.user.pk, conversation_id=int(pk), **given)
        return Response(self.get_serializer(changed).data)

    @extend_schema(operation_id="conversations_delete", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Delete it with all its branches."""
        conversations.remove(user_id=request.user.pk, conversation_id=int(pk))
        return Response(status=status.HTTP_204_NO_CONTENT)


class BranchView(OwnView):
    serializer_class = BranchSerializer

    @extend_schema(operation_id="conversations_choose_branch", responses=ConversationSerializer)
    def put(self, request: Request, pk: int) -> Response:
        """Show the branch through a message, to where it was written last."""
        self.own(request, pk)
        message_id = self.valid(request)["message_id"]
        who = {"user_id": request.user.pk, "conversation_id": int(pk)}
        changed = conversations.choose_branch(**who, message_id=message_id)
        return Response(ConversationSerializer(changed).data)


class TurnsView(OwnView):
    @extend_schema(
        operation_id="conversations_turns",
        parameters=[OpenApiParameter("before", int)],
        responses=OpenApiTypes.OBJECT,
    )
    def get(self, request: Request, pk: int) -> Response:
        """The last turns of the shown branch, oldest first; ``before`` a message, those that come before it."""
        conversation = self.own(request, pk)
        raw = request.query_params.get("before", "")
        if raw and not (raw.isascii() and raw.isdigit() and len(raw) <= 18):
            raise Invalid(_("before must be the id of a message."))
        turns, more = shown_turns(conversation, before=int(raw) if raw else None)
        return Response({"conversation": as_summary(conversation), "turns": turns, "more": more})


class ExportView(OwnView):
    @extend_schema(
        operation_id="conversations_export",
        parameters=[OpenApiParameter("as", str, enum=["json", "markdown"])],
        responses={(200, "application/json"): OpenApiTypes.OBJECT, (200, "text/markdown"): OpenApiTypes.STR},
    )
    def get(self, request: Request, pk: int) -> HttpResponse:
        """As a file: ``json`` has every branch, ``markdown`` the one that is shown."""
        conversation = self.own(request, pk)
        kind = request.query_params.get("as", "json")
        if kind not in ("json", "markdown"):
            raise Invalid(_("as must be json or markdown."))
        whole, ending = (exports.as_json, "json") if kind == "json" else (exports.as_markdown, "md")
        name = f"{slugify(conversation.title)[:60] or f'conversation-{conversation.pk}'}.{ending}"
        sent = HttpResponse(whole(conversation), content_type=f"{'application' if ending == 'json' else 'text'}/{kind}")
        sent["Content-Disposition"] = f'attachment; filename="{name}"'
        return sent


class ServiceChoicesView(OwnView):
    @extend_schema(operation_id="chat_services", responses=OpenApiTypes.OBJECT)
    def get(self, request: Request) -> Response:
        """The services and endpoints to talk to, those that can answer first, with what they are or why they cannot."""
        return Response(target_choices(request.user))
