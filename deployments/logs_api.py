"""Logs over HTTP: a piece by offset, the last lines, or everything as a file."""

from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import async_to_sync
from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deployments.logs import (
    OFFSET_MAX,
    PIECE_BYTES,
    PIECE_MAX_BYTES,
    LogSource,
    Piece,
    log_source,
    read_piece,
    read_tail,
    whole_log,
)
from infini.errors import Invalid
from inventory.agents import AgentClient


class LogQuery(serializers.Serializer):
    offset = serializers.IntegerField(min_value=0, max_value=OFFSET_MAX, required=False)
    limit = serializers.IntegerField(min_value=4, max_value=PIECE_MAX_BYTES, required=False)
    tail = serializers.IntegerField(
        min_value=0, max_value=1_000_000, required=False, help_text="The last lines instead of an offset."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "tail" in attrs and len(attrs) > 1:
            raise Invalid(
                _("Give tail, or offset and limit."), fields={"tail": [_("Not together with offset or limit.")]}
            )
        return attrs


class LogPiece(serializers.Serializer):
    offset = serializers.IntegerField(help_text="Where data begins; later than asked when that was rotated away.")
    next_offset = serializers.IntegerField()
    size = serializers.IntegerField(help_text="Bytes written since the log's first, rotated ones included.")
    data = serializers.CharField(allow_blank=True, trim_whitespace=False)


class InstanceLogs(APIView):
    needs = {"GET": "deployments.view_service"}

    @extend_schema(parameters=[LogQuery], responses={200: LogPiece})
    def get(self, request: Request, pk: str) -> Response:
        """A piece of what an instance wrote, read from its agent now."""
        query = LogQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        piece = async_to_sync(_read)(log_source(int(pk), reader=request.user), query.validated_data)
        return Response(LogPiece(piece).data)


class InstanceLogsDownload(APIView):
    needs = {"GET": "deployments.view_service"}

    @extend_schema(responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: Request, pk: str) -> StreamingHttpResponse:
        """All the agent still has of an instance's log, as a file."""
        source = log_source(int(pk), reader=request.user)
        async_to_sync(_read)(source, {"limit": 4})  # an agent that does not answer is told by the status
        response = StreamingHttpResponse(_encoded(source), content_type="text/plain; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="{source.key}.log"'
        return response


async def _read(source: LogSource, asked: dict[str, Any]) -> Piece:
    async with AgentClient() as client:
        if "tail" in asked:
            return await read_tail(client, source, lines=asked["tail"])
        offset, limit = asked.get("offset", 0), asked.get("limit", PIECE_BYTES)
        return await read_piece(client, source, offset=offset, limit=limit)


async def _encoded(source: LogSource) -> AsyncIterator[bytes]:
    async for text in whole_log(source):
        yield text.encode()
