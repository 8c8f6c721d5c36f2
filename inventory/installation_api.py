"""Agent installations over HTTP: asked for, followed, taken back; docs/agent-installation.md tells how."""

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from infini.errors import Conflict, Invalid
from infini.visibility import visible, visible_or_404
from inventory.installation.asking import ask_for, ask_for_one, cancel, retry
from inventory.installation.plans import label_of
from inventory.installation.states import Kind
from inventory.models import Installation, Server

NEEDS = "inventory.install_agent"


class StepSerializer(serializers.Serializer):
    name = serializers.CharField()
    label = serializers.CharField()
    state = serializers.CharField(help_text="waiting, running, done, unchanged, planned, failed, cancelled or skipped.")
    text = serializers.CharField(help_text="What was done, is right already, would be done, or why it failed.")
    output = serializers.CharField(help_text="What a tool on the server said.")
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class InstallationSerializer(serializers.ModelSerializer):
    server = serializers.CharField(source="server_name")
    by = serializers.CharField(source="by.username", default="")
    steps = serializers.SerializerMethodField()

    class Meta:
        model = Installation
        fields = [
            *("id", "batch", "server_id", "server", "kind", "dry_run", "stop_instances", "state", "reason"),
            *("attempts", "by", "created_at", "started_at", "finished_at", "steps"),
        ]
        read_only_fields = fields

    @extend_schema(responses=StepSerializer(many=True))
    def get_steps(self, row: Installation) -> list[dict[str, Any]]:
        times = ("started_at", "finished_at")
        return [
            step | {"label": label_of(row.kind, step["name"])} | {name: step[name] or None for name in times}
            for step in row.steps
        ]


class DryRunSerializer(serializers.Serializer):
    dry_run = serializers.BooleanField(default=False, help_text="Say what would be done, and change nothing.")


class RemoveSerializer(DryRunSerializer):
    stop_instances = serializers.BooleanField(default=False, help_text="Also stop the instances; else they go on.")


class BulkSerializer(DryRunSerializer):
    server_ids = serializers.ListField(child=serializers.IntegerField(min_value=1), allow_empty=False, max_length=1000)


class RefusedSerializer(serializers.Serializer):
    server_id = serializers.IntegerField()
    reason = serializers.CharField()


class AskedSerializer(serializers.Serializer):
    batch = serializers.CharField()
    installations = InstallationSerializer(many=True)
    refused = RefusedSerializer(many=True)


class _One(APIView):
    """Something done to the agent of one server, in the background; answers its installation to follow."""

    needs = {"POST": NEEDS}
    kind: Kind
    body: type[serializers.Serializer] = DryRunSerializer

    def post(self, request: Request, pk: str) -> Response:
        server = visible_or_404(Server, request.user, pk=pk)
        options = self.body(data=request.data)
        options.is_valid(raise_exception=True)
        begun = ask_for_one(server, self.kind, by=request.user, **options.validated_data)
        return Response(InstallationSerializer(begun).data, status=202)


class AgentInstall(_One):
    kind = Kind.INSTALL

    @extend_schema(request=DryRunSerializer, responses={202: InstallationSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Install the agent over SSH, or bring what is there into order."""
        return super().post(request, pk)


class AgentUpgrade(_One):
    kind = Kind.UPGRADE

    @extend_schema(request=DryRunSerializer, responses={202: InstallationSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Bring the agent to this site's version; instances run on."""
        return super().post(request, pk)


class AgentRemove(_One):
    kind, body = Kind.REMOVE, RemoveSerializer

    @extend_schema(request=RemoveSerializer, responses={202: InstallationSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Remove the agent; its instances go on unless ``stop_instances``."""
        return super().post(request, pk)


class _Many(APIView):
    needs = {"POST": NEEDS}
    kind: Kind

    def post(self, request: Request) -> Response:
        asked = BulkSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        ids = set(asked.validated_data["server_ids"])
        servers = list(visible(Server.objects.filter(pk__in=ids), request.user))
        missing = sorted(ids - {server.pk for server in servers})
        if missing:
            text = _("There are no servers with these ids: %(names)s.") % {"names": ", ".join(map(str, missing[:20]))}
            raise Invalid(text, fields={"server_ids": [text]})
        begun = ask_for(servers, self.kind, by=request.user, dry_run=asked.validated_data["dry_run"])
        refused = [{"server_id": pk, "reason": reason} for pk, reason in begun.refused.items()]
        answer = {"batch": begun.batch, "installations": begun.installations, "refused": refused}
        return Response(AskedSerializer(answer).data, status=202)


class AgentsInstall(_Many):
    kind = Kind.INSTALL

    @extend_schema(request=BulkSerializer, responses={202: AskedSerializer})
    def post(self, request: Request) -> Response:
        """Install the agent on many servers; those that cannot take it now stand in ``refused``."""
        return super().post(request)


class AgentsUpgrade(_Many):
    kind = Kind.UPGRADE

    @extend_schema(request=BulkSerializer, responses={202: AskedSerializer})
    def post(self, request: Request) -> Response:
        """Upgrade the agents of many servers; those that cannot take it now stand in ``refused``."""
        return super().post(request)


class InstallationList(generics.ListAPIView):
    """Installations, newest first; ``?server_id=`` and ``?batch=`` cut them."""

    needs = {"GET": "inventory.view_installation"}
    serializer_class = InstallationSerializer
    queryset = Installation.objects.select_related("by")

    @extend_schema(parameters=[OpenApiParameter("server_id", int), OpenApiParameter("batch", str)])
    def get(self, request: Request, *args: Any, **options: Any) -> Response:
        return super().get(request, *args, **options)

    def get_queryset(self) -> QuerySet[Installation]:
        rows = super().get_queryset()
        server_id, batch = (self.request.query_params.get(name) for name in ("server_id", "batch"))
        if server_id is not None:
            if not server_id.isascii() or not server_id.isdigit() or len(server_id) > 18:
                raise Invalid(_("server_id is a number."), fields={"server_id": [_("Not a number.")]})
            rows = rows.filter(server=int(server_id))
        return rows.filter(batch=batch) if batch is not None else rows


class InstallationDetail(generics.RetrieveAPIView):
    """One installation with its steps; ask again until ``state`` is done, failed or cancelled."""

    needs = {"GET": "inventory.view_installation"}
    serializer_class = InstallationSerializer
    queryset = Installation.objects.select_related("by")


class InstallationRetry(APIView):
    needs = {"POST": NEEDS}

    @extend_schema(request=None, responses={202: InstallationSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Once more from the first step; what is right already stays as it is."""
        row = visible_or_404(Installation, request.user, pk=pk)
        if not retry([row], by=request.user):
            raise Conflict(_("It has not failed, its server is gone, or another one is open there."))
        return _now(row)


class InstallationCancel(APIView):
    needs = {"POST": NEEDS}

    @extend_schema(request=None, responses={202: InstallationSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """End it as soon as its step can be left; what was done stays."""
        row = visible_or_404(Installation, request.user, pk=pk)
        if not cancel([row], by=request.user):
            raise Conflict(_("It is over already."))
        return _now(row)


def _now(row: Installation) -> Response:
    fresh = Installation.objects.select_related("by").get(pk=row.pk)
    return Response(InstallationSerializer(fresh).data, status=202)
