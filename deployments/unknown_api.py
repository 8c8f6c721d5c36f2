"""What runs on a server and is not ours, over HTTP: listed, adopted, stopped, forgotten."""

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deployments.adoption import NAME_MAX_CHARS, adopt
from deployments.models import Service, UnknownInstance
from deployments.unknown import described, forget_unknown, stop_unknown, unknown_instance
from infini.api import VisibleIdField
from infini.visibility import visible_or_404
from inventory.models import Server

DEPLOY = "deployments.deploy_service"


class UnknownSerializer(serializers.ModelSerializer):
    """One instance that an agent reports and nobody here has asked for."""

    class Meta:
        model = UnknownInstance
        fields = [
            *("key", "server_id", "generation", "phase", "ready", "pid", "port", "reason", "started_at", "found_at"),
            *("command", "cwd", "run_as", "env_names"),
        ]
        read_only_fields = fields


class AdoptRequest(serializers.Serializer):
    service_id = VisibleIdField(source="service", queryset=Service.objects.all(), required=False, allow_null=True)
    name = serializers.CharField(
        required=False, max_length=NAME_MAX_CHARS, default="", help_text="Of a new service, in place of service_id."
    )


class Adopted(serializers.Serializer):
    service_id = serializers.IntegerField()
    instance_id = serializers.IntegerField()
    revision = serializers.IntegerField()


class UnknownList(generics.ListAPIView):
    """What the server's agent reports and nobody here has asked for. Nothing of it is ever stopped by itself."""

    serializer_class = UnknownSerializer
    needs = {"GET": "deployments.view_service"}

    def get_queryset(self) -> QuerySet[UnknownInstance]:
        return described().filter(server=visible_or_404(Server, self.request.user, pk=self.kwargs["pk"]))


class UnknownDetail(APIView):
    needs = {"GET": "deployments.view_service", "DELETE": DEPLOY}

    @extend_schema(responses={200: UnknownSerializer})
    def get(self, request: Request, pk: str, key: str) -> Response:
        return Response(UnknownSerializer(_unknown(request, pk, key)).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request, pk: str, key: str) -> Response:
        """Have the agent forget one that has ended, and its log."""
        forget_unknown(_unknown(request, pk, key), by=request.user)
        return Response(status=204)


class StopUnknown(APIView):
    needs = {"POST": DEPLOY}

    @extend_schema(request=None, responses={200: UnknownSerializer})
    def post(self, request: Request, pk: str, key: str) -> Response:
        """End its process now."""
        return Response(UnknownSerializer(stop_unknown(_unknown(request, pk, key), by=request.user)).data)


class Adopt(APIView):
    needs = {"POST": DEPLOY}

    @extend_schema(request=AdoptRequest, responses={201: Adopted})
    def post(self, request: Request, pk: str, key: str) -> Response:
        """Make it an instance of a service, or of a new one, as it runs: nothing is restarted."""
        asked = AdoptRequest(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        instance = adopt(_unknown(request, pk, key), by=request.user, **asked.validated_data)
        made = {
            "service_id": instance.placement.service_id,
            "instance_id": instance.pk,
            "revision": instance.revision.number,
        }
        return Response(Adopted(made).data, status=201)


def _unknown(request: Request, pk: str, key: str) -> UnknownInstance:
    visible_or_404(Server.objects.only("pk"), request.user, pk=pk)
    return unknown_instance(int(pk), key)
