"""Terminals over HTTP: who has which open, ending one; recordings, for administrators."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from infini.errors import Conflict, Invalid, NotFound
from infini.visibility import visible_or_404
from inventory.models import Recording, TerminalSession
from inventory.terminals import recording, rows
from inventory.terminals.models import RecordingState

MANAGE = "inventory.manage_terminal"


def sessions_for(user: Any) -> QuerySet[TerminalSession]:
    """One's own; an administrator's are all."""
    found = TerminalSession.objects.select_related("recording")
    return found if user.has_perm(MANAGE) else found.filter(user=user)


class TerminalSerializer(serializers.ModelSerializer):
    id = serializers.CharField(source="key", help_text="What `session` is in the socket's frames.")
    user = serializers.CharField(source="user_name")
    server = serializers.CharField(source="server_name")
    service = serializers.CharField(source="service_name")
    ended_by = serializers.CharField(source="ended_by_name")
    recording_id = serializers.SerializerMethodField()

    class Meta:
        model = TerminalSession
        fields = [
            "id", "user", "server_id", "server", "account", "service", "opened_at", "attached", "ended_at", "ending",
            "ended_by", "exit_status", "signal", "input_bytes", "output_bytes", "recording_id",
        ]  # fmt: skip
        read_only_fields = fields

    def get_recording_id(self, row: TerminalSession) -> int | None:
        made = getattr(row, "recording", None)
        return made.pk if made else None


class TerminalList(generics.ListAPIView):
    """Open terminals, newest first: one's own, an administrator's are all. ``?state=ended`` for those that are over."""

    needs = {"GET": "inventory.open_terminal"}
    serializer_class = TerminalSerializer
    queryset = TerminalSession.objects.all()

    @extend_schema(parameters=[OpenApiParameter("state", str, enum=["open", "ended"])])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[TerminalSession]:
        state = self.request.query_params.get("state", "open")
        if state not in ("open", "ended"):
            raise Invalid(_("state is open or ended."), fields={"state": [_("One of: open, ended.")]})
        if state == "open" and not getattr(self, "swagger_fake_view", False):
            rows.end_forgotten()
        return sessions_for(self.request.user).filter(ended_at__isnull=state == "open")


class TerminalDetail(APIView):
    needs = {"GET": "inventory.open_terminal", "DELETE": "inventory.open_terminal"}

    @extend_schema(responses={200: TerminalSerializer})
    def get(self, request: Request, key: str) -> Response:
        """One terminal, open or over."""
        return Response(TerminalSerializer(_session(request, key)).data)

    @extend_schema(responses={202: None})
    def delete(self, request: Request, key: str) -> Response:
        """End it, one's own or, for an administrator, anybody's; the shell is gone within seconds."""
        row = _session(request, key)
        if not rows.ask_to_end(row, by=request.user):
            raise Conflict(_("This terminal is over already."))
        return Response(status=202)


def _session(request: Request, key: str) -> TerminalSession:
    return visible_or_404(sessions_for(request.user), request.user, key=key)


class RecordingSerializer(serializers.ModelSerializer):
    session_id = serializers.CharField(source="session.key")
    user = serializers.CharField(source="session.user_name")
    server_id = serializers.IntegerField(source="session.server_id", allow_null=True)
    server = serializers.CharField(source="session.server_name")
    opened_at = serializers.DateTimeField(source="session.opened_at")
    ended_at = serializers.DateTimeField(source="session.ended_at", allow_null=True)

    class Meta:
        model = Recording
        fields = [
            "id",
            "session_id",
            "user",
            "server_id",
            "server",
            "opened_at",
            "ended_at",
            "state",
            "seconds",
            "bytes",
        ]
        read_only_fields = fields


class RecordingList(generics.ListAPIView):
    """Newest first."""

    needs = {"GET": "inventory.view_recording"}
    serializer_class = RecordingSerializer
    queryset = Recording.objects.select_related("session")


class RecordingDetail(generics.RetrieveDestroyAPIView):
    needs = {"GET": "inventory.view_recording", "DELETE": "inventory.delete_recording"}
    serializer_class = RecordingSerializer
    queryset = Recording.objects.select_related("session__server")

    def perform_destroy(self, row: Recording) -> None:
        if row.state == RecordingState.RUNNING:
            raise Conflict(_("This recording is still running; end its terminal first."))
        rows.remove_recording(row, by=self.request.user)


class RecordingFile(APIView):
    needs = {"GET": "inventory.view_recording"}

    @extend_schema(responses={(200, "application/x-asciicast"): OpenApiTypes.STR})
    def get(self, request: Request, pk: str) -> StreamingHttpResponse:
        """The recording as an asciicast v3 file; of one still running what there is by now."""
        row = visible_or_404(Recording, request.user, pk=pk)
        path = recording.recordings_dir() / row.file
        if not path.exists():
            raise NotFound(_("The file of this recording is not there."))
        response = StreamingHttpResponse(_pieces(path), content_type="application/x-asciicast")
        response["Content-Disposition"] = f'attachment; filename="{row.file}"'
        response["Cache-Control"] = "no-store"
        return response


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    """Read in threads: a plain generator would be taken into memory whole before its first byte goes out."""
    pieces = recording.whole_lines(path)
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece
