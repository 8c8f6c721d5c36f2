"""Commands over HTTP: what may be asked, by whom, answered with what. Rules stand in serializers and verbs."""

from typing import Any

from django.db.models import QuerySet
from django.http.response import HttpResponseBase
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from infini import records
from infini.access import crud_needs
from infini.errors import Invalid, NotFound
from infini.visibility import visible_or_404
from scheduler import downloads, planning, runs
from scheduler.models import Run, SavedCommand, Task
from scheduler.serializers import (
    CommandOnServersSerializer,
    DraftSerializer,
    ExecuteSerializer,
    PreviewSerializer,
    RunBegunSerializer,
    RunPreviewSerializer,
    RunResultSerializer,
    RunSerializer,
    SavedCommandSerializer,
    TaskSerializer,
)
from scheduler.states import RunState

RUN = "scheduler.run_task"


class _AnswersAsStored:
    """After a write the row is read again, with what its queryset adds."""

    def perform_create(self, serializer: BaseSerializer) -> None:
        serializer.save()
        serializer.instance = visible_or_404(self.get_queryset(), self.request.user, pk=serializer.instance.pk)

    perform_update = perform_create


class TaskList(_AnswersAsStored, generics.ListCreateAPIView):
    needs = crud_needs("scheduler", "task")
    serializer_class = TaskSerializer
    queryset = Task.objects.all()

    def get_queryset(self) -> QuerySet[Task]:
        return Task.objects.with_status()


class TaskDetail(_AnswersAsStored, generics.RetrieveUpdateDestroyAPIView):
    needs = crud_needs("scheduler", "task")
    serializer_class = TaskSerializer
    queryset = Task.objects.all()

    def get_queryset(self) -> QuerySet[Task]:
        return Task.objects.with_status()

    def perform_destroy(self, task: Task) -> None:
        planning.delete_task(task, by=self.request.user)


class TaskPreview(APIView):
    needs = {"POST": "scheduler.view_task"}

    @extend_schema(request=DraftSerializer, responses={200: PreviewSerializer})
    def post(self, request: Request) -> Response:
        """What a task as given would do: its next five times, the servers it reaches. Nothing is stored."""
        draft = DraftSerializer(data=request.data, context={"request": request})
        draft.is_valid(raise_exception=True)
        task, named = draft.draft()
        return Response(PreviewSerializer(planning.preview(task, named, by=request.user)).data)


class TaskExecute(APIView):
    needs = {"POST": RUN}

    @extend_schema(request=ExecuteSerializer, responses={202: RunBegunSerializer, 200: RunPreviewSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Run the task now, or with ``dry_run`` tell what that would do."""
        task = visible_or_404(Task, request.user, pk=pk)
        asked = ExecuteSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if asked.validated_data["dry_run"]:
            return Response(RunPreviewSerializer(runs.dry_run(task)).data)
        return Response({"run_id": runs.execute(task, by=request.user).pk}, status=202)


class TaskResult(APIView):
    needs = {"GET": "scheduler.view_run"}

    @extend_schema(responses={200: RunResultSerializer})
    def get(self, request: Request, pk: str) -> Response:
        """What came of the task's newest run, on each server; while it runs, what was printed so far."""
        task = visible_or_404(Task, request.user, pk=pk)
        began = task.runs.exclude(state__in=[RunState.SKIPPED, RunState.MISSED]).order_by("-pk").first()
        return Response(RunResultSerializer(runs.result_document(began or task.runs.first())).data)


class RunList(generics.ListAPIView):
    needs = {"GET": "scheduler.view_run", "POST": RUN}
    serializer_class = RunSerializer
    queryset = Run.objects.all()

    @extend_schema(
        parameters=[
            OpenApiParameter("task_id", OpenApiTypes.INT),
            OpenApiParameter("state", OpenApiTypes.STR, enum=RunState.values),
        ]
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Newest first."""
        return super().get(request, *args, **kwargs)

    def get_queryset(self) -> QuerySet[Run]:
        rows = Run.objects.with_counts().defer("command", "environment", "policy")
        task, state = (self.request.query_params.get(name) for name in ("task_id", "state"))
        if task is not None:
            if not task.isascii() or not task.isdigit() or len(task) > 18:
                raise Invalid(_("task_id must be a whole number."), fields={"task_id": [_("Not a whole number.")]})
            rows = rows.filter(task=int(task))
        if state and state not in RunState.values:
            said = _("One of: %(kinds)s.") % {"kinds": ", ".join(RunState.values)}
            raise Invalid(said, fields={"state": [said]})
        return rows.filter(state=state) if state else rows

    @extend_schema(request=CommandOnServersSerializer, responses={202: RunBegunSerializer})
    def post(self, request: Request) -> Response:
        """Run a command on servers now, without a task."""
        asked = CommandOnServersSerializer(data=request.data, context={"request": request})
        asked.is_valid(raise_exception=True)
        task, named = asked.draft()
        return Response({"run_id": runs.run_once(task, named=named, by=request.user).pk}, status=202)


class RunDetail(APIView):
    needs = {"GET": "scheduler.view_run"}

    @extend_schema(responses={200: RunResultSerializer})
    def get(self, request: Request, pk: str) -> Response:
        run = visible_or_404(Run, request.user, pk=pk)
        return Response(RunResultSerializer(runs.result_document(run)).data)


class RunCancel(APIView):
    needs = {"POST": RUN}

    @extend_schema(request=None, responses={202: RunBegunSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """End the run: nothing more begins, what runs is ended on its server."""
        run = visible_or_404(Run, request.user, pk=pk)
        runs.cancel(run, by=request.user)
        return Response({"run_id": run.pk}, status=202)


class RunRetryFailed(APIView):
    needs = {"POST": RUN}

    @extend_schema(request=None, responses={202: RunBegunSerializer})
    def post(self, request: Request, pk: str) -> Response:
        """Run the same command again on those servers alone where it failed, timed out or lost contact."""
        again = runs.retry_failed(visible_or_404(Run, request.user, pk=pk), by=request.user)
        return Response({"run_id": again.pk}, status=202)


class RunOutput(APIView):
    needs = {"GET": "scheduler.view_run"}

    @extend_schema(
        parameters=[OpenApiParameter("server_id", OpenApiTypes.INT, description="Left out: of all servers.")],
        responses={(200, "text/plain"): OpenApiTypes.BINARY},
    )
    def get(self, request: Request, pk: str) -> HttpResponseBase:
        """What was printed, as a file: of all servers as text, of one server as it came."""
        run = visible_or_404(Run, request.user, pk=pk)
        asked = request.query_params.get("server_id")
        if asked is None:
            return downloads.whole_run(run)
        results = (
            run.results.filter(server=int(asked)) if asked.isascii() and asked.isdigit() and len(asked) < 19 else None
        )
        result = results.first() if results is not None else None
        if result is None:
            raise NotFound(_("This run did not reach such a server."))
        return downloads.one_result(run, result)


class CommandList(generics.ListCreateAPIView):
    needs = crud_needs("scheduler", "savedcommand")
    serializer_class = SavedCommandSerializer
    queryset = SavedCommand.objects.all()


class CommandDetail(generics.RetrieveUpdateDestroyAPIView):
    needs = crud_needs("scheduler", "savedcommand")
    serializer_class = SavedCommandSerializer
    queryset = SavedCommand.objects.all()

    def perform_destroy(self, saved: SavedCommand) -> None:
        records.remove(saved, by=self.request.user)
