"""Alerts over HTTP: who is told, by administrators; what is wrong, for everybody who reads."""

from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from infini import records
from infini.access import crud_needs
from infini.alert_delivery import send_test
from infini.alert_targets import checked
from infini.api import SaidField, SecretField, VersionedSerializer
from infini.errors import Invalid
from infini.models import Alert, AlertKind, AlertState, AlertTarget


class TargetSerializer(VersionedSerializer):
    secret = SecretField(max_length=1000)
    secret_set = serializers.SerializerMethodField()
    last_error = SaidField()
    kinds = serializers.ListField(child=serializers.ChoiceField(AlertKind.choices), required=False)

    class Meta:
        model = AlertTarget
        fields = [
            "id", "name", "kind", "address", "secret", "secret_set", "kinds", "language", "enabled", "last_sent_at",
            "last_error", "version", "created_at",
        ]  # fmt: skip
        read_only_fields = ["last_sent_at", "last_error", "created_at"]

    def get_secret_set(self, target: AlertTarget) -> bool:
        return bool(target.secret)

    def validate(self, values: dict) -> dict:
        return checked(values, before=self.instance)


class TargetList(generics.ListCreateAPIView):
    needs = crud_needs("infini", "alerttarget")
    serializer_class = TargetSerializer
    queryset = AlertTarget.objects.all()


class TargetDetail(generics.RetrieveUpdateDestroyAPIView):
    needs = crud_needs("infini", "alerttarget")
    serializer_class = TargetSerializer
    queryset = AlertTarget.objects.all()

    def perform_destroy(self, target: AlertTarget) -> None:
        records.remove(target, by=self.request.user)


class TargetTest(APIView):
    needs = {"POST": "infini.change_alerttarget"}

    @extend_schema(request=None, responses={200: TargetSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Send a test message now: 200 when it was taken, 503 with why it was not."""
        target = get_object_or_404(AlertTarget, pk=pk)
        send_test(target, by=request.user)
        target.refresh_from_db()
        return Response(TargetSerializer(target).data)


class AlertSubjectSerializer(serializers.Serializer):
    kind = serializers.CharField(source="subject_kind")
    id = serializers.CharField(source="subject_id")
    name = serializers.CharField(source="subject_name")


class AlertSerializer(serializers.ModelSerializer):
    subject = AlertSubjectSerializer(source="*", read_only=True)
    message, ending = SaidField(), SaidField()

    class Meta:
        model = Alert
        fields = ["id", "kind", "state", "subject", "message", "opened_at", "recovered_at", "ending"]
        read_only_fields = fields


class AlertList(generics.ListAPIView):
    """Newest first; ``?state=open`` for what is wrong now."""

    needs = {"GET": "infini.view_alert"}
    serializer_class = AlertSerializer
    queryset = Alert.objects.all()

    @extend_schema(parameters=[OpenApiParameter("state", str, enum=AlertState.values)])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[Alert]:
        state = self.request.query_params.get("state")
        if state is None:
            return super().get_queryset()
        if state not in AlertState.values:
            raise Invalid(_("state is open or recovered."), fields={"state": [_("One of: open, recovered.")]})
        return super().get_queryset().filter(state=state)
