"""The services' API: thin edges over specs, lifecycle and reports."""

from collections.abc import Callable
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deployments import lifecycle
from deployments.asking import refresh_now
from deployments.documents import service_documents, service_rows
from deployments.models import Operation, Revision, Service
from deployments.presets import Preset, presets
from deployments.querysets import ServiceQuerySet
from deployments.revisions import changes, revision_of
from deployments.serializers import (
    DeployLog,
    DeployRequest,
    DiffQuery,
    DiffSerializer,
    OperationAnswer,
    PresetSerializer,
    RevisionSerializer,
    RollBackRequest,
    ServiceSerializer,
)
from infini.access import crud_needs
from infini.errors import NotFound
from infini.visibility import visible, visible_or_404

DEPLOY = "deployments.deploy_service"


class ServiceList(generics.ListCreateAPIView):
    serializer_class = ServiceSerializer
    needs = crud_needs("deployments", "service")

    def get_queryset(self) -> ServiceQuerySet:
        return Service.objects.all()

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        rows = self.paginate_queryset(service_rows(self.filter_queryset(self.get_queryset())))
        return self.get_paginated_response(service_documents(rows))

    def perform_create(self, serializer: Any) -> None:
        """A command given at creation starts the deployment; when it cannot start, nothing is created."""
        with transaction.atomic():
            service = serializer.save()
            if service.current_revision and service.placements.exists() and self.request.user.has_perm(DEPLOY):
                lifecycle.deploy(service, by=self.request.user)


class PresetList(generics.ListAPIView):
    """Engines that a new service may start from; see ``preset`` there."""

    serializer_class = PresetSerializer
    needs = {"GET": "deployments.view_service"}

    def get_queryset(self) -> tuple[Preset, ...]:
        return presets()


class ServiceDetail(generics.RetrieveUpdateDestroyAPIView):
    serializer_class = ServiceSerializer
    needs = crud_needs("deployments", "service")

    def get_queryset(self) -> ServiceQuerySet:
        return Service.objects.all()

    @extend_schema(
        parameters=[OpenApiParameter("force", bool, description="Also when servers cannot be reached.")],
        responses={202: OperationAnswer},
    )
    def delete(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Stop every instance, then delete: 202 while that goes on."""
        force = request.query_params.get("force", "").lower() in ("1", "true", "yes")
        operation = lifecycle.delete(_service(request, kwargs["pk"]), by=request.user, force=force)
        return _accepted(operation, kwargs["pk"])


class Verb(APIView):
    """POST asks for an operation: 202 with its id."""

    needs = {"POST": DEPLOY}
    verb: Callable[..., Operation]

    @extend_schema(request=None, responses={202: OperationAnswer})
    def post(self, request: Request, pk: str) -> Response:
        return _accepted(type(self).verb(_service(request, pk), by=request.user), pk)


class Deploy(APIView):
    needs = {"POST": DEPLOY}

    @extend_schema(request=DeployRequest, responses={202: OperationAnswer})
    def post(self, request: Request, pk: str) -> Response:
        """Run the current revision on every server of the service: 202 with the operation's id."""
        asked = DeployRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        return _accepted(
            lifecycle.deploy(_service(request, pk), by=request.user, note=asked.validated_data["note"]), pk
        )


class Restart(Verb):
    verb = staticmethod(lifecycle.restart)


class Stop(Verb):
    verb = staticmethod(lifecycle.stop)


class RollBack(APIView):
    needs = {"POST": DEPLOY}

    @extend_schema(request=RollBackRequest, responses={202: OperationAnswer})
    def post(self, request: Request, pk: str) -> Response:
        """Deploy an earlier revision: the one named, else the last that was good."""
        asked = RollBackRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        number = asked.validated_data.get("revision")
        return _accepted(lifecycle.roll_back(_service(request, pk), by=request.user, number=number), pk)


class RevisionList(generics.ListAPIView):
    """Newest first, each with what it changed."""

    serializer_class = RevisionSerializer
    needs = {"GET": "deployments.view_service"}

    def get_queryset(self) -> QuerySet[Revision]:
        return Revision.objects.filter(service=_service(self.request, self.kwargs["pk"])).select_related(
            "service__trial", "author"
        )

    def get_serializer_context(self) -> dict[str, Any]:
        context = super().get_serializer_context()
        if "pk" in self.kwargs:
            before = {revision.number + 1: revision for revision in self.get_queryset()}
            context["before"] = before
        return context


class RevisionDiff(APIView):
    needs = {"GET": "deployments.view_service"}

    @extend_schema(parameters=[DiffQuery], responses={200: DiffSerializer})
    def get(self, request: Request, pk: str) -> Response:
        """What differs between any two revisions; of secret variables only their names are told."""
        query = DiffQuery(data=request.query_params)
        query.is_valid(raise_exception=True)
        service, numbers = _service(request, pk), query.validated_data
        before, after = (revision_of(service, numbers[name]) for name in ("from", "to"))
        return Response({"from": before.number, "to": after.number, "changes": changes(before, after)})


class DeployLogView(APIView):
    needs = {"GET": "deployments.view_service"}

    @extend_schema(responses={200: DeployLog})
    def get(self, request: Request, pk: str) -> Response:
        """The last operation and what it did on each server."""
        operation = visible(_service(request, pk).operations.order_by("-pk"), request.user).first()
        if operation is None:
            raise NotFound(_("Nothing was ever asked of this service."), code="never_deployed")
        results = operation.results.select_related("instance")
        document = {
            "operation_id": operation.pk,
            "kind": operation.kind,
            "state": operation.state,
            "reason": operation.reason,
            "results": results,
        }
        return Response(DeployLog(document).data)


class RefreshStatus(APIView):
    needs = {"POST": "deployments.view_service"}

    @extend_schema(request=None, responses={200: ServiceSerializer(many=True)})
    def post(self, request: Request) -> Response:
        """Ask the agents now, then answer as the list does."""
        refresh_now()
        return Response(service_documents(service_rows(visible(Service.objects.all(), request.user))))


def _service(request: Request, pk: Any) -> Service:
    found: Service = visible_or_404(Service, request.user, pk=pk)
    return found


def _accepted(operation: Operation | None, pk: Any) -> Response:
    now = Service.objects.with_status().filter(pk=pk).first()
    answer = {
        "operation_id": operation.pk if operation else None,
        "deploy_status": now.deploy_status if now else None,  # type: ignore[attr-defined]
    }
    return Response(OperationAnswer(answer).data, status=202)
