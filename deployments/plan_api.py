"""What a deployment would do, over HTTP: asked with what a form holds, answered per server. Nothing is changed."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deployments.models import Service
from deployments.plans import Way, Wish, plan
from infini.api import VisibleIdField
from infini.visibility import visible
from inventory.models import Server


class PlanRequest(serializers.Serializer):
    """As of a service; what is left out is as in the service named, else as in a new one."""

    service_id = VisibleIdField(
        source="service", queryset=Service.objects.select_related("current_revision"), required=False, allow_null=True
    )
    server_ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1), required=False, max_length=1000, help_text="Left out: all."
    )
    devices = serializers.IntegerField(required=False, min_value=0, max_value=64)
    port = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=65535)
    max_unavailable = serializers.IntegerField(required=False, allow_null=True, min_value=1)
    surge = serializers.BooleanField(required=False, allow_null=True, default=None)

    def wish(self) -> Wish:
        asked = self.validated_data
        service = asked.get("service")
        revision = service.current_revision if service else None
        surge = asked["surge"] if asked["surge"] is not None else (service.surge if service else True)
        rolling = asked.get("max_unavailable", service.max_unavailable if service else None)
        return Wish(
            devices=asked.get("devices", revision.devices if revision else 0),
            port=asked.get("port", revision.port if revision else None),
            rolling=rolling is not None,
            surge=surge,
            service=service,
        )


class ServerPlanSerializer(serializers.Serializer):
    server_id = serializers.IntegerField(source="server.pk")
    server = serializers.CharField(source="server.name")
    fits = serializers.BooleanField()
    way = serializers.ChoiceField(choices=Way.choices)
    reason = serializers.CharField(help_text="Why it does not fit.")
    note = serializers.CharField()
    devices_free = serializers.IntegerField()
    devices_present = serializers.IntegerField()


class Plan(APIView):
    needs = {"POST": "deployments.view_service"}

    @extend_schema(request=PlanRequest, responses={200: ServerPlanSerializer(many=True)})
    def post(self, request: Request) -> Response:
        """Per server: whether it fits or why not, and what would happen there."""
        asked = PlanRequest(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        servers = visible(Server.objects.with_status(), request.user)
        if "server_ids" in asked.validated_data:
            servers = servers.filter(pk__in=asked.validated_data["server_ids"])
        return Response(ServerPlanSerializer(plan(servers, asked.wish()), many=True).data)
