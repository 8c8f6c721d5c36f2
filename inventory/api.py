"""The inventory over HTTP: what may be asked, by whom, answered with what. Rules stand in serializers and verbs."""

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.http import HttpResponse
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import generics
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import MultiPartParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from infini import records
from infini.access import LOGGED_IN, crud_needs
from infini.errors import Invalid, NotFound
from infini.models import Versioned
from infini.visibility import visible, visible_or_404
from inventory import catalogue, uploads
from inventory.checks import check_servers
from inventory.fleet_history import fleet_history
from inventory.history import history_of
from inventory.models import AIModel, Brand, Card, Environment, Server
from inventory.resources import resources_of
from inventory.serializers import (
    AIModelSerializer,
    BrandOrderSerializer,
    BrandSerializer,
    CardSerializer,
    CheckResultSerializer,
    EnvironmentSerializer,
    FleetHistorySerializer,
    HistorySerializer,
    HistorySpanSerializer,
    HostKeyPinSerializer,
    HostKeySerializer,
    PictureSerializer,
    PictureUploadSerializer,
    ResourcesSerializer,
    ServerIdsSerializer,
)
from inventory.server_serializers import ServerSerializer
from inventory.servers import readable_servers
from inventory.ssh import host_keys


class _AnswersAsStored:
    """After a write the row is read again, with what its queryset adds."""

    def perform_create(self, serializer: BaseSerializer) -> None:
        serializer.save()
        self._read_again(serializer)

    perform_update = perform_create

    def _read_again(self, serializer: BaseSerializer) -> None:
        serializer.instance = visible_or_404(self.get_queryset(), self.request.user, pk=serializer.instance.pk)  # type: ignore[attr-defined]


class _List(_AnswersAsStored, generics.ListCreateAPIView):
    pass


class _Detail(_AnswersAsStored, generics.RetrieveUpdateDestroyAPIView):
    def perform_destroy(self, row: Versioned) -> None:
        records.remove(row, by=self.request.user)


class EnvironmentList(_List):
    needs = crud_needs("inventory", "environment")
    serializer_class = EnvironmentSerializer
    queryset = Environment.objects.all()


class EnvironmentDetail(_Detail):
    needs = crud_needs("inventory", "environment")
    serializer_class = EnvironmentSerializer
    queryset = Environment.objects.all()

    def perform_destroy(self, row: Any) -> None:
        catalogue.remove_environment(row, by=self.request.user)


class BrandList(_List):
    needs = crud_needs("inventory", "brand")
    serializer_class = BrandSerializer
    queryset = Brand.objects.all()


class BrandDetail(_Detail):
    needs = crud_needs("inventory", "brand")
    serializer_class = BrandSerializer
    queryset = Brand.objects.all()


class BrandOrder(APIView):
    needs = {"POST": "inventory.change_brand"}

    @extend_schema(request=BrandOrderSerializer, responses={200: BrandSerializer(many=True)})
    def post(self, request: Request) -> Response:
        """Place the named brands, all or none; answers all brands in their new order."""
        wanted = BrandOrderSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        places = {order["id"]: order["sort_order"] for order in wanted.validated_data["orders"]}
        catalogue.reorder_brands(places, by=request.user)
        return Response(BrandSerializer(Brand.objects.all(), many=True).data)


class CardList(generics.ListAPIView):
    """The cards of all brands."""

    needs = crud_needs("inventory", "card")
    serializer_class = CardSerializer
    queryset = Card.objects.select_related("brand")


class BrandCardList(_List):
    """The cards of one brand; a new one is of that brand."""

    needs = crud_needs("inventory", "card")
    serializer_class = CardSerializer
    queryset = Card.objects.select_related("brand")

    def get_queryset(self) -> QuerySet[Card]:
        return super().get_queryset().filter(brand=self.kwargs.get("pk"))

    def get_serializer_context(self) -> dict[str, Any]:
        brand = visible_or_404(Brand, self.request.user, pk=self.kwargs["pk"]) if "pk" in self.kwargs else None
        return {**super().get_serializer_context(), "brand": brand}


class CardDetail(_Detail):
    needs = crud_needs("inventory", "card")
    serializer_class = CardSerializer
    queryset = Card.objects.select_related("brand")


class _AIModels:
    """With those of their environments that the caller sees."""

    def get_queryset(self) -> QuerySet[AIModel]:
        seen = visible(Environment.objects.all(), self.request.user)  # type: ignore[attr-defined]
        return AIModel.objects.prefetch_related(Prefetch("environments", queryset=seen))


class AIModelList(_AIModels, _List):
    needs = crud_needs("inventory", "aimodel")
    serializer_class = AIModelSerializer
    queryset = AIModel.objects.all()


class AIModelDetail(_AIModels, _Detail):
    needs = crud_needs("inventory", "aimodel")
    serializer_class = AIModelSerializer
    queryset = AIModel.objects.all()


class ServerList(_List):
    needs = crud_needs("inventory", "server")
    serializer_class = ServerSerializer
    queryset = Server.objects.all()

    def get_queryset(self) -> QuerySet[Server]:
        return readable_servers()


class ServerDetail(_Detail):
    needs = crud_needs("inventory", "server")
    serializer_class = ServerSerializer
    queryset = Server.objects.all()

    def get_queryset(self) -> QuerySet[Server]:
        return readable_servers()


class ServerCheck(APIView):
    needs = {"POST": "inventory.check_server"}

    @extend_schema(request=None, responses={200: CheckResultSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Ask this server now whether it can be reached."""
        results = check_servers([visible_or_404(Server, request.user, pk=pk)], by=request.user)
        if not results:
            raise NotFound(_("This server was deleted meanwhile."))
        return Response(CheckResultSerializer(results[0]).data)


class ServerCheckAll(APIView):
    needs = {"POST": "inventory.check_server"}

    @extend_schema(request=None, responses={200: CheckResultSerializer(many=True)})
    def post(self, request: Request) -> Response:
        """Ask every server now, all at once."""
        results = check_servers(visible(Server.objects.all(), request.user), by=request.user)
        return Response(CheckResultSerializer(results, many=True).data)


class ServerHostKey(APIView):
    needs = {"GET": "inventory.view_server", "POST": "inventory.change_server"}

    @extend_schema(responses={200: HostKeySerializer})
    def get(self, request: Request, pk: str) -> Response:
        """The SSH host key that is pinned, and what was offered in its place."""
        server = visible_or_404(Server, request.user, pk=pk)
        return Response(HostKeySerializer(host_keys.host_key_of(server)).data)

    @extend_schema(request=HostKeyPinSerializer, responses={200: HostKeySerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Confirm the first host key; or pin another one, which takes an administrator and the server's name."""
        server = visible_or_404(Server, request.user, pk=pk)
        wanted = HostKeyPinSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        host_keys.pin(
            server,
            by=request.user,
            key=values.get("host_key", ""),
            offered_fingerprint=values.get("fingerprint", ""),
            name=values.get("name", ""),
        )
        return Response(HostKeySerializer(host_keys.host_key_of(server)).data)


class ServerHostKeyScan(APIView):
    needs = {"POST": "inventory.check_server"}

    @extend_schema(request=None, responses={200: HostKeySerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Ask the server for its host key now, without logging in."""
        server = visible_or_404(Server, request.user, pk=pk)
        return Response(HostKeySerializer(host_keys.look(server)).data)


class ServerResources(APIView):
    needs = {"GET": "inventory.view_server"}

    @extend_schema(responses={200: ResourcesSerializer})
    def get(self, request: Request, pk: str) -> Response:
        """How busy this server is now; a figure that cannot be had is null, and ``errors`` says why."""
        [resources] = resources_of([visible_or_404(Server, request.user, pk=pk)])
        return Response(ResourcesSerializer(resources).data)


class ServersResources(APIView):
    needs = {"POST": "inventory.view_server"}

    @extend_schema(request=ServerIdsSerializer, responses={200: ResourcesSerializer(many=True)})
    def post(self, request: Request) -> Response:
        """The same for all servers, or those named in ``server_ids``, within 10 s."""
        asked = ServerIdsSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        servers = visible(Server.objects.all(), request.user)
        ids = asked.validated_data.get("server_ids")
        if ids is not None:
            servers = servers.filter(pk__in=ids)
        return Response(ResourcesSerializer(resources_of(servers), many=True).data)


class ServerHistory(APIView):
    needs = {"GET": "inventory.view_server"}

    @extend_schema(parameters=[HistorySpanSerializer], responses={200: HistorySerializer})
    def get(self, request: Request, pk: str) -> Response:
        """How the server and its devices did ``from`` one time ``to`` another, by default in the last hour.

        Value n of a series is the mean of the step that begins n times ``step_seconds`` after ``from``, null where
        nothing was reported. The step grows with the span: there are at most 400.
        """
        server = visible_or_404(Server.objects.only("pk"), request.user, pk=pk)
        span = HistorySpanSerializer(data=request.query_params)
        span.is_valid(raise_exception=True)
        asked = span.validated_data
        return Response(HistorySerializer(history_of(server, asked.get("from"), asked.get("to"))).data)


class FleetHistoryView(APIView):
    needs = {"GET": "inventory.view_server"}

    @extend_schema(parameters=[HistorySpanSerializer], responses={200: FleetHistorySerializer})
    def get(self, request: Request) -> Response:
        """How the whole fleet did: means of all servers and devices that reported, and how many servers those were.

        Value n of a series is that of the step which begins n times ``step_seconds`` after ``from``; null is a gap.
        """
        span = HistorySpanSerializer(data=request.query_params)
        span.is_valid(raise_exception=True)
        asked = span.validated_data
        found = fleet_history(asked.get("from"), asked.get("to"), user=request.user)
        return Response(FleetHistorySerializer(found).data)


class PictureUpload(APIView):
    needs = {"POST": "inventory.change_brand"}
    parser_classes = [MultiPartParser]

    @extend_schema(request={"multipart/form-data": PictureUploadSerializer}, responses={201: PictureSerializer})
    def post(self, request: Request) -> Response:
        """Keep a PNG, JPEG, GIF or WebP picture, sent as ``file``."""
        file = request.FILES.get("file") or next(iter(request.FILES.values()), None)
        if file is None:
            raise Invalid(_("No file was sent."), fields={"file": [_("Send the picture as multipart form data.")]})
        filename = uploads.store_picture(file)
        return Response({"url": uploads.PREFIX + filename, "filename": filename}, status=201)


class WhateverIsAccepted(BaseContentNegotiation):
    """A picture is answered as what it is; errors are JSON."""

    def select_parser(self, request: Request, parsers: list) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: list, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class Picture(APIView):
    needs = {"GET": LOGGED_IN}
    renderer_classes = [JSONRenderer]
    content_negotiation_class = WhateverIsAccepted

    @extend_schema(responses={(200, "image/*"): OpenApiTypes.BINARY})
    def get(self, request: Request, filename: str) -> HttpResponse:
        """An uploaded picture; it never changes under its name."""
        content, content_type = uploads.read_picture(filename)
        headers = {"Cache-Control": "private, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
        return HttpResponse(content, content_type=content_type, headers=headers)
