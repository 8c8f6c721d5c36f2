"""Files of a server over HTTP: a directory, a file in ranges, an upload in pieces."""

import re
from typing import Any

from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from infini.errors import TooLarge
from infini.visibility import visible_or_404
from inventory import transfers
from inventory.api import WhateverIsAccepted
from inventory.models import Server
from inventory.transfers import PIECE_BYTES

SIZE_MAX = 2**53
_RANGE = re.compile(r"bytes=(\d{1,16})-(\d{0,16})")


class PathQuery(serializers.Serializer):
    path = serializers.CharField(max_length=4096, trim_whitespace=False)

    def validate_path(self, path: str) -> str:
        if "\0" in path:
            raise serializers.ValidationError(_("A path has no zero byte."))
        return path


class TransferQuery(PathQuery):
    transfer = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=8000, help_text="As the piece before answered it."
    )


class UploadQuery(TransferQuery):
    offset = serializers.IntegerField(min_value=0, max_value=SIZE_MAX)
    size = serializers.IntegerField(min_value=0, max_value=SIZE_MAX)


class EntrySerializer(serializers.Serializer):
    name = serializers.CharField()
    kind = serializers.CharField(help_text="file, directory, link (that leads nowhere) or other.")
    size = serializers.IntegerField()
    mode = serializers.IntegerField()
    modified_at = serializers.DateTimeField(allow_null=True)


class DirectorySerializer(serializers.Serializer):
    path = serializers.CharField()
    entries = EntrySerializer(many=True)
    truncated = serializers.BooleanField()


class UploadedSerializer(serializers.Serializer):
    received = serializers.IntegerField()
    transfer = serializers.CharField()


class _Bytes(BaseParser):
    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: dict | None = None) -> bytes:
        data: bytes = stream.read(PIECE_BYTES + 1)
        if len(data) > PIECE_BYTES:
            raise TooLarge(_("A piece has at most %(piece_bytes)s bytes.") % {"piece_bytes": PIECE_BYTES})
        return data


def _asked(kind: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    query = kind(data=request.query_params)
    query.is_valid(raise_exception=True)
    found: dict[str, Any] = query.validated_data
    return found


class ServerFiles(APIView):
    needs = {"GET": "inventory.open_terminal"}

    @extend_schema(parameters=[PathQuery], responses={200: DirectorySerializer})
    def get(self, request: Request, pk: str) -> Response:
        """What is in a directory of the server, as its SSH account sees it."""
        asked = _asked(PathQuery, request)
        found = transfers.list_directory(visible_or_404(Server, request.user, pk=pk), asked["path"])
        return Response(DirectorySerializer(found).data)


class ServerFileDownload(APIView):
    needs = {"GET": "inventory.download_files"}
    renderer_classes = [JSONRenderer]
    content_negotiation_class = WhateverIsAccepted

    @extend_schema(
        parameters=[TransferQuery, OpenApiParameter("Range", str, OpenApiParameter.HEADER)],
        responses={(206, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    def get(self, request: Request, pk: str) -> HttpResponse:
        """A range of a file, at most 4 MiB of it: ask again for the next, with `transfer` from `X-Transfer`."""
        asked = _asked(TransferQuery, request)
        offset, most = _range(request)
        server = visible_or_404(Server, request.user, pk=pk)
        piece = transfers.download_piece(
            request.user, server, asked["path"], offset=offset, most=most, token=asked["transfer"]
        )
        return _partly(piece)


def _range(request: Request) -> tuple[int, int]:
    """From where, and how much at most."""
    given = _RANGE.fullmatch(request.headers.get("Range", ""))
    if not given:
        return 0, PIECE_BYTES
    first = int(given[1])
    last = int(given[2]) if given[2] else first + PIECE_BYTES - 1
    return first, max(0, min(PIECE_BYTES, last - first + 1))


def _partly(piece: transfers.Piece) -> HttpResponse:
    size = piece.transfer.size
    whole = piece.offset == 0 and len(piece.data) == size
    past = piece.offset >= size and size > 0
    response = HttpResponse(
        piece.data, content_type="application/octet-stream", status=200 if whole else 416 if past else 206
    )
    last = piece.offset + len(piece.data) - 1
    response["Content-Range"] = f"bytes {piece.offset}-{last}/{size}" if piece.data else f"bytes */{size}"
    response["X-Transfer"] = piece.transfer.token()
    response["Cache-Control"] = "no-store"
    response["Content-Disposition"] = "attachment"
    return response


class ServerFileUpload(APIView):
    needs = {"POST": "inventory.upload_files", "DELETE": "inventory.upload_files"}
    parser_classes = [_Bytes]

    @extend_schema(
        parameters=[UploadQuery],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={200: UploadedSerializer},
    )
    def post(self, request: Request, pk: str) -> Response:
        """One piece of a file, at most 4 MiB. The file appears with its last byte."""
        asked = _asked(UploadQuery, request)
        server = visible_or_404(Server, request.user, pk=pk)
        transfer, received = transfers.upload_piece(
            request.user, server, asked["path"], offset=asked["offset"], size=asked["size"], data=request.data or b"",
            token=asked["transfer"],
        )  # fmt: skip
        return Response(UploadedSerializer({"received": received, "transfer": transfer.token()}).data)

    @extend_schema(parameters=[TransferQuery], request=None, responses={204: None})
    def delete(self, request: Request, pk: str) -> Response:
        """Give up an upload: what has arrived of it is removed."""
        asked = _asked(TransferQuery, request)
        server = visible_or_404(Server, request.user, pk=pk)
        transfers.cancel_upload(request.user, server, asked["path"], token=asked["transfer"])
        return Response(status=204)
