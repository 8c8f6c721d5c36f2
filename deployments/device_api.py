"""Devices over HTTP: the fleet's accelerators and who holds them; freeing those of a lost instance."""

from typing import Any

from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deployments.device_documents import device_documents, device_rows, free_devices_of
from deployments.freeing import free_devices
from deployments.models import Instance
from infini.api import PlainPagination
from infini.errors import Invalid, NotFound
from infini.visibility import visible
from inventory.models import Device


class HolderSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    key = serializers.CharField()
    service_id = serializers.IntegerField()
    service = serializers.CharField()
    slot = serializers.IntegerField()


class DeviceProcessSerializer(serializers.Serializer):
    pid = serializers.IntegerField()
    command = serializers.CharField(help_text="The kernel's short name of it; empty when not known.")
    memory_used_bytes = serializers.IntegerField(allow_null=True)
    instance = serializers.CharField(allow_null=True, help_text="A key; null when it was not started from here.")


class DeviceSerializer(serializers.Serializer):
    """One accelerator; what its tool does not tell is null. For the schema; ``device_documents`` writes them."""

    id = serializers.IntegerField()
    server_id = serializers.IntegerField()
    server = serializers.CharField()
    index = serializers.IntegerField()
    uuid = serializers.CharField()
    vendor = serializers.CharField()
    name = serializers.CharField()
    slots = serializers.IntegerField()
    present = serializers.BooleanField(help_text="Whether the last report lists it.")
    memory_total_bytes = serializers.IntegerField(allow_null=True)
    memory_used_bytes = serializers.IntegerField(allow_null=True)
    utilization_percent = serializers.FloatField(allow_null=True)
    temperature_celsius = serializers.FloatField(allow_null=True)
    power_watts = serializers.FloatField(allow_null=True)
    health = serializers.CharField(allow_null=True)
    health_reason = serializers.CharField()
    verified = serializers.BooleanField(help_text="Whether its reader ever ran on such hardware.")
    free = serializers.BooleanField(help_text="Whether an instance could be given it now.")
    free_slots = serializers.IntegerField()
    instances = HolderSerializer(many=True, help_text="Who it was given to.")
    processes = DeviceProcessSerializer(many=True, help_text="Who is on it, as far as its tool tells.")
    observed_at = serializers.DateTimeField(allow_null=True)


class DeviceQuery(serializers.Serializer):
    server = serializers.IntegerField(required=False, min_value=1)
    vendor = serializers.CharField(required=False, max_length=40)
    free = serializers.BooleanField(required=False, allow_null=True, default=None)
    present = serializers.BooleanField(required=False, allow_null=True, default=None)


class DeviceList(APIView):
    needs = {"GET": "inventory.view_device"}

    @extend_schema(
        parameters=[
            DeviceQuery,
            OpenApiParameter("limit", int, description="Cuts the array."),
            OpenApiParameter("offset", int, description="Where it begins."),
        ],
        responses={200: DeviceSerializer(many=True)},
    )
    def get(self, request: Request) -> Response:
        """Every accelerator of the fleet, by server, vendor and index."""
        query = DeviceQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        pages = PlainPagination()
        rows = pages.paginate_queryset(device_rows(_asked_for(query.validated_data, request.user)), request)
        return pages.get_paginated_response(device_documents(rows, user=request.user))


def _asked_for(asked: dict[str, Any], user: Any) -> Any:
    devices = visible(Device.objects.all(), user)
    for name in ("server", "vendor", "present"):
        if asked.get(name) is not None:
            devices = devices.filter(**{name: asked[name]})
    return devices if asked["free"] is None else free_devices_of(devices, free=asked["free"])


class FreeRequest(serializers.Serializer):
    confirm = serializers.CharField(help_text="The instance's key, against a slip of the hand.")


class Freed(serializers.Serializer):
    devices = serializers.ListField(child=serializers.CharField())


class FreeDevices(APIView):
    needs = {"POST": "deployments.deploy_service"}

    @extend_schema(request=FreeRequest, responses={200: Freed})
    def post(self, request: Request, pk: str) -> Response:
        """Give the devices of a lost instance to others, although it may still run."""
        asked = FreeRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        key = visible(Instance.objects.filter(pk=pk), request.user).values_list("key", flat=True).first()
        if key is None:
            raise NotFound(_("There is no such instance."))
        if asked.validated_data["confirm"] != key:
            raise Invalid(
                _("Confirm with the instance's key."), fields={"confirm": [_("This is not %(key)s.") % {"key": key}]}
            )
        return Response({"devices": free_devices(int(pk), by=request.user)})
