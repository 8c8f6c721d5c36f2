"""Tasks, runs and saved commands as JSON. Verbs decide what is allowed; here stand names, shapes and defaults."""

from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from infini.api import SaidField
from inventory.fields import IdField, NameField
from inventory.models import Server
from scheduler import library, planning
from scheduler.models import Run, SavedCommand, Task
from scheduler.schedules import resolve, zone_named
from scheduler.selectors import server_ids
from scheduler.states import ResultState, RunState, TaskStatus


def _free_name(name: str, rows: QuerySet[Any], own: Any) -> str:
    others = rows.filter(name__iexact=name)
    if own:
        others = others.exclude(pk=own.pk)
    if others.exists():
        raise serializers.ValidationError("This name is already taken.")
    return name


class CommandField(serializers.CharField):
    """Kept to the letter, blanks at its ends included; how long it may be the verb says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"trim_whitespace": False, "allow_blank": True, **options})


class EnvironmentField(serializers.DictField):
    """Names of variables and their texts."""

    def __init__(self, **options: Any) -> None:
        child = serializers.CharField(allow_blank=True, trim_whitespace=False)
        super().__init__(**{"child": child, "required": False, **options})


class _UsesSaved(serializers.Serializer):
    """A command is written out, or it is a saved one with values for its parameters in ``environment``."""

    command = CommandField(required=False)
    command_id = IdField(
        queryset=SavedCommand.objects.all(),
        required=False,
        write_only=True,
        help_text="A saved command in place of ``command``; ``environment`` gives values to its parameters.",
    )

    def validate(self, values: dict) -> dict:
        saved = values.pop("command_id", None)
        if saved is not None and "command" in values:
            raise serializers.ValidationError({"command_id": [_("Either a command or a saved one.")]})
        if saved is not None:
            values |= library.used(saved, values.get("environment") or {})
        elif "command" not in values and not self.partial:
            raise serializers.ValidationError({"command": [_("Write the command to run.")]})
        return values


class ClockField(serializers.TimeField):
    """A time of day, ``HH:MM`` or ``HH:MM:SS``."""

    def __init__(self, **options: Any) -> None:
        formats = ["%H:%M", "%H:%M:%S"]
        super().__init__(**{"required": False, "allow_null": True, "input_formats": formats, **options})

    def to_representation(self, value: Any) -> str:
        return f"{value:%H:%M:%S}" if value.second else f"{value:%H:%M}"


class LocalField(serializers.DateTimeField):
    """Day and time of day as a clock shows them, wherever it stands."""

    def enforce_timezone(self, value: Any) -> Any:
        return value.replace(tzinfo=None)


class ServerIdsField(serializers.ManyRelatedField):
    """The servers a task names: written as any others, read as ids alone."""

    def get_attribute(self, task: Task) -> list[int]:
        known = getattr(task, "server_ids", None)
        return server_ids([task.pk]).get(task.pk, []) if known is None else known

    def to_representation(self, ids: list[int]) -> list[int]:
        return ids


class TasksSerializer(serializers.ListSerializer):
    """Many tasks, their servers found in one query: as model objects these took half of a long list's time."""

    def to_representation(self, tasks: Any) -> list[Any]:
        listed = list(tasks)
        ids = server_ids([task.pk for task in listed])
        for task in listed:
            task.server_ids = ids.get(task.pk, [])
        return super().to_representation(listed)


class TaskSerializer(_UsesSaved, serializers.ModelSerializer):
    """Reads carry ``status`` and ``next_run_at``, both derived; writes go through ``scheduler.planning``."""

    name = NameField(max_length=100)
    environment = EnvironmentField()
    server_ids = ServerIdsField(
        child_relation=IdField(queryset=Server.objects.only("name")), source="servers", required=False
    )
    interval_seconds = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=366 * 86400)
    time_of_day = ClockField()
    weekday = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=6, help_text="0 is Monday."
    )
    window_opens = ClockField()
    window_closes = ClockField()
    status = serializers.ChoiceField(choices=TaskStatus.choices, read_only=True)
    last_run_id = serializers.IntegerField(read_only=True, allow_null=True)
    version = serializers.IntegerField(required=False, min_value=1)

    class Meta:
        model = Task
        list_serializer_class = TasksSerializer
        fields = [
            *("id", "name", "command", "command_id", "environment", "server_ids", "selector", "account"),
            *Task.SCHEDULE,
            *("misfire", "catch_up_most", "late_most_seconds", "overlap"),
            *Task.POLICY,
            *("notify", "long_after_seconds", "status", "last_run_id", "next_run_at", "version", "created_at"),
        ]
        read_only_fields = ["next_run_at", "created_at"]

    def validate_name(self, name: str) -> str:
        return _free_name(name, Task.objects.all(), self.instance)

    def create(self, values: dict) -> Task:
        values.pop("version", None)
        servers = values.pop("servers", [])
        return planning.create_task(Task(**values), servers=servers, by=self.context["request"].user)

    def update(self, task: Task, values: dict) -> Task:
        version, servers = values.pop("version", None), values.pop("servers", None)
        for name, value in values.items():
            setattr(task, name, value)
        by = self.context["request"].user
        return planning.change_task(task, set(values), servers=servers, by=by, version=version)

    def draft(self) -> tuple[Task, list[int]]:
        """The task as it would be, unsaved, and the ids of the servers it names."""
        values = dict(self.validated_data)
        values.pop("version", None)
        servers = [server.pk for server in values.pop("servers", [])]
        return Task(**values), servers


class DraftSerializer(TaskSerializer):
    """A task being written: its name may be missing or taken still."""

    name = NameField(max_length=100, required=False)
    run_local = LocalField(required=False, help_text="``run_at`` as a clock in the task's time zone shows it.")

    class Meta(TaskSerializer.Meta):
        fields = [*TaskSerializer.Meta.fields, "run_local"]

    def validate_name(self, name: str) -> str:
        return name

    def draft(self) -> tuple[Task, list[int]]:
        """Raises Invalid when ``run_local`` is told in a time zone there is none of."""
        local = self.validated_data.pop("run_local", None)
        task, named = super().draft()
        if local is not None:
            task.run_at = resolve(local, zone_named(task.timezone))
        return task, named


class CommandOnServersSerializer(_UsesSaved):
    """A command to be run once, without a task."""

    name = NameField(max_length=100, required=False)
    environment = EnvironmentField()
    server_ids = IdField(queryset=Server.objects.only("name"), many=True, required=False)
    selector = serializers.CharField(required=False, allow_blank=True, max_length=500)
    account = serializers.CharField(required=False, allow_blank=True, max_length=100)
    timeout_seconds = serializers.IntegerField(required=False, min_value=1, max_value=86400)
    run_timeout_seconds = serializers.IntegerField(required=False, min_value=1, max_value=86400)
    retries = serializers.IntegerField(required=False, min_value=0, max_value=20)
    retry_delay_seconds = serializers.IntegerField(required=False, min_value=0, max_value=86400)
    width = serializers.IntegerField(required=False, min_value=1, max_value=200)
    stagger_seconds = serializers.FloatField(required=False, min_value=0, max_value=3600)
    canary = serializers.IntegerField(required=False, min_value=0, max_value=1000)
    stop_after_failures = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=100_000)
    stop_after_percent = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=100)

    def draft(self) -> tuple[Task, list[int]]:
        values = dict(self.validated_data)
        servers = [server.pk for server in values.pop("server_ids", [])]
        return Task(**values), servers


class ExecuteSerializer(serializers.Serializer):
    dry_run = serializers.BooleanField(required=False, default=False)


class AimSerializer(serializers.Serializer):
    server_id = serializers.IntegerField(allow_null=True)
    server = serializers.CharField(source="server_name")
    host = serializers.CharField()
    account = serializers.CharField()
    maintenance = serializers.BooleanField()
    obstacle = SaidField(help_text="Why nothing can begin there; empty when nothing is in the way.")


class RunPreviewSerializer(serializers.Serializer):
    command = serializers.CharField()
    environment = serializers.DictField(child=serializers.CharField())
    targets = AimSerializer(many=True, source="aims")


class PreviewSerializer(serializers.Serializer):
    next = serializers.ListField(child=serializers.DateTimeField())
    targets = AimSerializer(many=True, source="aims")
    idle_terms = serializers.ListField(
        child=serializers.CharField(), help_text="Terms of the selector that fit no server, each for itself."
    )


class RunBegunSerializer(serializers.Serializer):
    run_id = serializers.IntegerField(source="pk")


class RunSerializer(serializers.ModelSerializer):
    """A run in a list: counts instead of results."""

    task_id = serializers.IntegerField(allow_null=True)
    retry_of_id = serializers.IntegerField(allow_null=True)
    server_count = serializers.IntegerField()
    ok_count = serializers.IntegerField()
    bad_count = serializers.IntegerField()
    by = serializers.CharField(source="by_name")

    class Meta:
        model = Run
        fields = [
            *("id", "task_id", "name", "trigger", "by", "fire_at", "retry_of_id", "state", "reason"),
            *("server_count", "ok_count", "bad_count", "created_at", "started_at", "finished_at"),
        ]
        read_only_fields = fields


class ServerResultSerializer(serializers.Serializer):
    server_id = serializers.IntegerField(allow_null=True)
    server = serializers.CharField()
    state = serializers.ChoiceField(choices=ResultState.choices)
    exit_status = serializers.IntegerField(allow_null=True)
    output = serializers.CharField()
    error = serializers.CharField(help_text="What the command wrote there, else the reason.")
    reason = SaidField()
    truncated = serializers.BooleanField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


@extend_schema_field({"type": "string", "enum": ["idle", *RunState.values]})
class _RunStateField(serializers.CharField):
    """A run's state; idle where there is no run."""


class RunResultSerializer(serializers.Serializer):
    """The contract's result of a task."""

    run_id = serializers.IntegerField(allow_null=True)
    state = _RunStateField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    reason = SaidField()
    results = ServerResultSerializer(many=True)


class ParameterSerializer(serializers.Serializer):
    name = serializers.CharField(max_length=64)
    label = serializers.CharField(required=False, allow_blank=True, max_length=200)
    default = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    allowed = serializers.ListField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False
    )
    required = serializers.BooleanField(required=False)


class SavedCommandSerializer(serializers.ModelSerializer):
    name = NameField(max_length=100)
    command = CommandField()
    parameters = ParameterSerializer(many=True, required=False)
    version = serializers.IntegerField(required=False, min_value=1)

    class Meta:
        model = SavedCommand
        fields = ["id", "name", "description", "command", "parameters", "version", "created_at"]
        read_only_fields = ["created_at"]

    def validate_name(self, name: str) -> str:
        return _free_name(name, SavedCommand.objects.all(), self.instance)

    def create(self, values: dict) -> SavedCommand:
        values.pop("version", None)
        return library.create_command(_saved(SavedCommand(), values), by=self.context["request"].user)

    def update(self, saved: SavedCommand, values: dict) -> SavedCommand:
        version = values.pop("version", None)
        by = self.context["request"].user
        return library.change_command(_saved(saved, values), set(values), by=by, version=version)


def _saved(saved: SavedCommand, values: dict) -> SavedCommand:
    for name, value in values.items():
        setattr(saved, name, [dict(one) for one in value] if name == "parameters" else value)
    return saved
