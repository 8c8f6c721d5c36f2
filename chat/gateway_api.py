"""Endpoints, traffic rules and usage over HTTP."""

from datetime import date, timedelta
from operator import itemgetter
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper, Q
from django.http import Http404, HttpRequest, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chat import usage
from chat.endpoints import checked_endpoint
from chat.models import Endpoint, TrafficRule
from chat.usage import SEE_ALL
from chat.usage_history import usage_history
from deployments.models import Service
from infini import records
from infini.access import LOGGED_IN, crud_needs
from infini.api import SecretField, VersionedSerializer, VisibleIdField
from infini.csv_export import CsvColumn, csv_response
from infini.errors import Invalid
from infini.visibility import visible_or_404
from inventory.models import AIModel

DAYS_MOST = 3660
_TRAFFIC = [
    *("sticky", "concurrency", "queue", "queue_seconds"),
    *("connect_seconds", "first_byte_seconds", "idle_seconds", "total_seconds"),
]


class EndpointSerializer(VersionedSerializer):
    key = SecretField(max_length=2000)
    key_set = serializers.SerializerMethodField()
    model_id = VisibleIdField(source="model", queryset=AIModel.objects.all(), required=False, allow_null=True)

    class Meta:
        model = Endpoint
        fields = [
            *("id", "name", "model_id", "base_url", "key", "key_set", "served_model", "enabled", *_TRAFFIC),
            *("version", "created_at"),
        ]
        read_only_fields = ["created_at"]

    def get_key_set(self, endpoint: Any) -> bool:
        return endpoint.has_key if hasattr(endpoint, "has_key") else bool(endpoint.key)

    def validate_name(self, name: str) -> str:
        clash = Endpoint.objects.filter(name__iexact=name)
        if self.instance:
            clash = clash.exclude(pk=self.instance.pk)
        if clash.exists():
            raise serializers.ValidationError(_("An endpoint with this name exists already."))
        return name

    def validate(self, values: dict) -> dict:
        return checked_endpoint(values, before=self.instance)


class EndpointList(generics.ListCreateAPIView):
    needs = crud_needs("chat", "endpoint")
    serializer_class = EndpointSerializer
    # A list decrypts no key: one that cannot be read any more would take all others with it.
    queryset = (
        Endpoint.objects.select_related("model")
        .defer("key")
        .annotate(has_key=ExpressionWrapper(~Q(key=""), BooleanField()))
    )


class EndpointDetail(generics.RetrieveUpdateDestroyAPIView):
    needs = crud_needs("chat", "endpoint")
    serializer_class = EndpointSerializer
    queryset = Endpoint.objects.select_related("model")

    def perform_destroy(self, endpoint: Endpoint) -> None:
        records.remove(endpoint, by=self.request.user)


class TrafficSerializer(VersionedSerializer):
    class Meta:
        model = TrafficRule
        fields = [*_TRAFFIC, "version"]


class ServiceTraffic(APIView):
    """How the gateway treats a service. GET tells the defaults where there is no rule."""

    needs = {"GET": "chat.view_trafficrule", "PUT": "chat.change_trafficrule", "DELETE": "chat.delete_trafficrule"}

    @extend_schema(operation_id="service_traffic", responses=TrafficSerializer)
    def get(self, request: Request, pk: int) -> Response:
        """The rule, or the defaults."""
        return Response(TrafficSerializer(self._rule(pk) or TrafficRule()).data)

    @extend_schema(operation_id="service_traffic_set", request=TrafficSerializer, responses=TrafficSerializer)
    def put(self, request: Request, pk: int) -> Response:
        """Set what is given; what is left out stays."""
        rule = self._rule(pk)
        given = TrafficSerializer(rule, data=request.data, partial=True, context={"request": request})
        given.is_valid(raise_exception=True)
        if rule is None:
            values = {name: value for name, value in given.validated_data.items() if name != "version"}
            rule = records.create(TrafficRule(service_id=pk, **values), by=request.user)
        else:
            rule = given.save()
        return Response(TrafficSerializer(rule).data)

    @extend_schema(operation_id="service_traffic_clear", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Back to the defaults."""
        rule = self._rule(pk)
        if rule is None:
            raise Http404
        records.remove(rule, by=request.user)
        return Response(status=204)

    def _rule(self, pk: int) -> TrafficRule | None:
        visible_or_404(Service.objects.only("pk"), self.request.user, pk=pk)
        return TrafficRule.objects.filter(service=pk).first()


class UsageView(APIView):
    """Sums of what was used: the caller's own, or everybody's with ``chat.see_all_usage``."""

    needs = {"GET": LOGGED_IN}

    @extend_schema(
        parameters=[
            OpenApiParameter("by", enum=sorted(usage.GROUPS), description="What to sum up by; model when left out."),
            OpenApiParameter("from", type=date, description="First day in UTC; 30 days ago when left out."),
            OpenApiParameter("to", type=date, description="Last day in UTC; today when left out."),
            OpenApiParameter("format", enum=["json", "csv"]),
        ],
        responses={200: {"type": "array", "items": {"type": "object", "additionalProperties": True}}},
    )
    def get(self, request: Request) -> Any:
        """Most tokens first; days in order."""
        group, first, last = period_of(request.query_params)
        user_id = None if request.user.has_perm(SEE_ALL) else request.user.pk
        rows = usage.summed_by(group, first=first, last=last, user_id=user_id, viewer=request.user)
        if request.query_params.get("format") == "csv":
            return as_csv(request._request, group, rows, f"usage-by-{group}-{first}-{last}.csv", mark=False)
        return Response(rows, headers={"X-Total-Count": str(len(rows))})

    def perform_content_negotiation(self, request: Request, force: bool = False) -> Any:
        """``format`` is ours: DRF would take it for the name of a renderer."""
        return super().perform_content_negotiation(request, force=True)


class UsageLineSerializer(serializers.Serializer):
    name = serializers.CharField()
    unit = serializers.CharField()
    device = serializers.CharField(allow_null=True, help_text="Always null; lines of devices have one.")
    values = serializers.ListField(child=serializers.FloatField())


class UsageHistorySerializer(serializers.Serializer):
    step_seconds = serializers.IntegerField()
    series = UsageLineSerializer(many=True)

    def get_fields(self) -> dict[str, Any]:
        """``from`` is a word of the language, so it cannot be written above."""
        begin, end = serializers.DateTimeField(source="begin"), serializers.DateTimeField(source="end")
        return {"from": begin, "to": end, **super().get_fields()}


class UsageSpanSerializer(serializers.Serializer):
    to = serializers.DateTimeField(required=False)
    service = serializers.IntegerField(min_value=1, max_value=2**53, required=False)

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.DateTimeField(required=False), **super().get_fields()}


class UsageHistoryView(APIView):
    """Requests and tokens a minute: the caller's own, or everybody's with ``chat.see_all_usage``."""

    needs = {"GET": LOGGED_IN}

    @extend_schema(parameters=[UsageSpanSerializer], responses={200: UsageHistorySerializer})
    def get(self, request: Request) -> Response:
        """Value n of a series is the mean a minute in the step that begins n times ``step_seconds`` after ``from``."""
        span = UsageSpanSerializer(data=request.query_params)
        span.is_valid(raise_exception=True)
        asked = span.validated_data
        user_id = None if request.user.has_perm(SEE_ALL) else request.user.pk
        found = usage_history(
            asked.get("from"), asked.get("to"), user_id=user_id, service_id=asked.get("service"), viewer=request.user
        )
        return Response(UsageHistorySerializer(found).data)


def period_of(given: Any) -> tuple[str, date, date]:
    """Group, first and last day out of a query; raises Invalid naming what is wrong."""
    group = given.get("by") or "model"
    if group not in usage.GROUPS:
        raise Invalid(
            _("by is one of %(names)s.") % {"names": ", ".join(usage.GROUPS)}, fields={"by": [_("Not one of them.")]}
        )
    last = _day(given, "to") or timezone.now().date()
    first = _day(given, "from") or last - timedelta(days=29)
    if first > last or (last - first).days > DAYS_MOST:
        raise Invalid(_("from lies after to, or too long before it."), fields={"from": [_("Not before to.")]})
    return group, first, last


def _day(given: Any, name: str) -> date | None:
    text = given.get(name)
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Invalid(
            _("%(name)s must be a day such as 2026-11-30.") % {"name": name}, fields={name: [_("Not a day.")]}
        ) from None


def as_csv(
    request: HttpRequest, group: str, rows: list[dict[str, Any]], filename: str, *, mark: bool
) -> StreamingHttpResponse:
    """What ``usage.summed_by`` found as a file; ``mark`` for those who open it in a spreadsheet."""
    columns = [CsvColumn(name, itemgetter(name)) for name in usage.columns_of(group)]
    return csv_response(request, filename, columns, rows, mark=mark)
