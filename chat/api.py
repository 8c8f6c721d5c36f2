"""The caller's own history with a service."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from chat import history
from chat.admission import PERMISSION
from chat.models import Message, Role
from deployments.models import Service
from infini.api import SaidField
from infini.visibility import visible_or_404


class TextField(serializers.CharField):
    """Text kept as it is; a number is not text."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if isinstance(data, str) and not data.strip():
            self.fail("blank")
        return super().run_validation(data)


class MessageSerializer(serializers.ModelSerializer):
    role = serializers.ChoiceField(choices=Role.choices)
    reason = SaidField()
    content = TextField(max_length=history.MESSAGE_MAX_CHARS, trim_whitespace=False)

    class Meta:
        model = Message
        fields = ["id", "role", "content", "state", "reason", "model", "created_at"]
        read_only_fields = ["state", "reason", "model", "created_at"]


class ChatHistoryView(GenericAPIView):
    """What the caller and the service said to each other, oldest first. Nobody else's is ever shown."""

    needs = PERMISSION
    serializer_class = MessageSerializer
    queryset = Message.objects.none()

    @extend_schema(operation_id="chat_history_list", responses=MessageSerializer(many=True))
    def get(self, request: Request, pk: int) -> Response:
        """The caller's history with the service."""
        rows = history.messages_of(user_id=request.user.pk, service_id=self._service_id(pk))
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    @extend_schema(operation_id="chat_history_add", responses={201: MessageSerializer})
    def post(self, request: Request, pk: int) -> Response:
        """Add one message to the history; the service is not asked anything."""
        service_id = self._service_id(pk)
        given = self.get_serializer(data=request.data)
        given.is_valid(raise_exception=True)
        message = history.add_message(user_id=request.user.pk, service_id=service_id, **given.validated_data)
        return Response(self.get_serializer(message).data, status=status.HTTP_201_CREATED)

    @extend_schema(operation_id="chat_history_clear", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Clear the caller's history with the service."""
        history.clear(user_id=request.user.pk, service_id=self._service_id(pk))
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _service_id(self, pk: int) -> int:
        return visible_or_404(Service.objects.only("pk"), self.request.user, pk=pk).pk
