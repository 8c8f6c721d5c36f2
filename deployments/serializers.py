"""Services as the API speaks of them."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from deployments.documents import service_documents, service_rows
from deployments.models import Revision, Service
from deployments.phases import DeployStatus, Phase, RestartPolicy, Wanted
from deployments.presets import preset
from deployments.revisions import changes
from deployments.specs import change_service, create_service
from infini.api import SaidField, VisibleIdField, VisibleRows
from infini.errors import NotFound
from infini.said import said
from infini.visibility import visible
from inventory.models import AIModel, Environment, Server

# Names in the API -> columns of a revision.
SPEC_FIELDS = {
    "deploy_command": "command",
    "stop_command": "stop_command",
    "env": "env",
    "secret_env": "secret_env",
    "run_as": "run_as",
    "cwd": "cwd",
    "probes": "probes",
    "restart": "restart",
    "port": "port",
    "devices": "devices",
    "note": "note",
}


class VisibleSlugField(VisibleRows, serializers.SlugRelatedField):
    """A row by its name."""


class InstanceDocument(serializers.Serializer):
    """One instance inside a service, for the schema; ``deployments.documents`` writes them."""

    id = serializers.IntegerField()
    key = serializers.CharField()
    server_id = serializers.IntegerField()
    server = serializers.CharField()
    revision = serializers.IntegerField()
    wanted = serializers.ChoiceField(choices=Wanted.choices)
    replaces = serializers.IntegerField(
        allow_null=True, help_text="The instance beside which it was started, until it takes its place."
    )
    phase = serializers.ChoiceField(choices=Phase.choices)
    ready = serializers.BooleanField()
    pid = serializers.IntegerField(allow_null=True)
    port = serializers.IntegerField(allow_null=True)
    restarts = serializers.IntegerField()
    exit_code = serializers.IntegerField(allow_null=True, help_text='Or "unknown", when nobody saw it.')
    reason = SaidField()
    started_at = serializers.DateTimeField(allow_null=True)
    observed_at = serializers.DateTimeField(allow_null=True)


class NamedSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()


class ServiceSerializer(serializers.ModelSerializer):
    """Reads carry derived status; writes go through ``deployments.specs``."""

    name = serializers.CharField(max_length=100)
    model_id = VisibleIdField(source="model", queryset=AIModel.objects.all(), required=False, allow_null=True)
    model = NamedSerializer(read_only=True)
    environment = VisibleSlugField(
        slug_field="name", queryset=Environment.objects.all(), required=False, allow_null=True
    )
    server_ids = serializers.ListField(child=serializers.IntegerField(min_value=1), required=False, max_length=1000)
    deploy_command = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    stop_command = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    env = serializers.DictField(child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False)
    secret_env = serializers.DictField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False), required=False, write_only=True
    )
    run_as = serializers.CharField(required=False, allow_blank=True, max_length=100)
    cwd = serializers.CharField(required=False, allow_blank=True, max_length=500)
    probes = serializers.DictField(required=False)
    devices = serializers.IntegerField(
        required=False, min_value=0, max_value=64, help_text="Accelerators each instance gets for itself."
    )
    restart = serializers.ChoiceField(choices=RestartPolicy.choices, required=False)
    port = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=65535)
    note = serializers.CharField(required=False, allow_blank=True, max_length=500, write_only=True)
    path_prefix = serializers.RegexField(r"^(/[A-Za-z0-9._~/-]*)?$", required=False, allow_blank=True, max_length=100)
    max_unavailable = serializers.IntegerField(required=False, allow_null=True, min_value=1, max_value=1000)
    surge = serializers.BooleanField(
        required=False,
        help_text="With max_unavailable: the new instance first, where devices and a port are free for both.",
    )
    version = serializers.IntegerField(required=False, min_value=1)
    preset = serializers.CharField(
        required=False,
        allow_blank=True,
        write_only=True,
        help_text="For a new service: the key of a preset, which fills what the request does not give itself.",
    )

    class Meta:
        model = Service
        fields = [
            "id",
            "name",
            "model_id",
            "model",
            "environment",
            "served_model",
            "path_prefix",
            "max_unavailable",
            "surge",
            "server_ids",
            *SPEC_FIELDS,
            "preset",
            "wanted",
            "version",
            "created_at",
        ]
        read_only_fields = ["wanted", "created_at"]

    def validate_name(self, name: str) -> str:
        clash = Service.objects.filter(name__iexact=name)
        if self.instance:
            clash = clash.exclude(pk=self.instance.pk)
        if clash.exists():
            raise serializers.ValidationError(_("A service with this name exists already."))
        return name

    def validate_server_ids(self, ids: list[int]) -> list[Server]:
        found = visible(Server.objects.all(), self.context["request"].user).in_bulk(ids)
        missing = sorted(set(ids) - set(found))
        if missing:
            raise serializers.ValidationError(
                _("There is no server with id %(missing)s.") % {"missing": ", ".join(map(str, missing))}
            )
        return list(found.values())

    def validate_preset(self, key: str) -> str:
        if key and self.instance:
            raise serializers.ValidationError(_("Only a new service starts from a preset."))
        try:
            return preset(key).key if key else ""
        except NotFound as error:
            raise serializers.ValidationError(error.message) from None

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        key = attrs.pop("preset", "")
        return (preset(key).fills() if key else {}) | attrs

    def create(self, validated_data: dict[str, Any]) -> Service:
        servers, spec = self._taken_apart(validated_data)
        validated_data.pop("version", None)
        service = Service(**validated_data)
        return create_service(service, servers=servers or [], spec=spec, by=self.context["request"].user)

    def update(self, service: Service, validated_data: dict[str, Any]) -> Service:
        servers, spec = self._taken_apart(validated_data)
        version = validated_data.pop("version", None)
        for name, value in validated_data.items():
            setattr(service, name, value)
        by = self.context["request"].user
        return change_service(service, validated_data, servers=servers, spec=spec, by=by, version=version)

    def _taken_apart(self, data: dict[str, Any]) -> tuple[list[Server] | None, dict[str, Any]]:
        spec = {column: data.pop(name) for name, column in SPEC_FIELDS.items() if name in data}
        return data.pop("server_ids", None), spec

    def to_representation(self, service: Service) -> dict[str, Any]:
        """One service; lists are written by ``deployments.documents`` at once."""
        [document] = service_documents(service_rows(Service.objects.filter(pk=service.pk)))
        return document


class PresetSerializer(serializers.Serializer):
    """One engine that a new service may start from."""

    key = serializers.CharField()
    name = serializers.CharField(source="shown_name")
    deploy_command = serializers.CharField(source="command")
    stop_command = serializers.CharField()
    probes = serializers.DictField()
    path_prefix = serializers.CharField()
    port = serializers.IntegerField(allow_null=True, help_text="One that the engine's own configuration fixes.")
    note = serializers.CharField(source="shown_note", help_text="What must be installed.")
    source = serializers.CharField(help_text="Where commands and health path are taken from.")
    verified = serializers.BooleanField(help_text="Whether they were found there as they stand here.")
    evidence = SaidField(help_text="Whether anybody has run it.")


class ResultSerializer(serializers.Serializer):
    """One server's part of an operation; while it is open, as its instance stands now."""

    server_id = serializers.IntegerField()
    server = serializers.CharField(source="server_name")
    state = serializers.CharField()
    pid = serializers.IntegerField()
    exit_code = serializers.SerializerMethodField()
    reason = serializers.SerializerMethodField()
    note = serializers.CharField(help_text="Which way its turn in a rolling update went, and why.")
    log_tail = serializers.CharField()

    def get_exit_code(self, result: Any) -> int | str | None:
        return "unknown" if result.exit_unseen else result.exit_code

    def get_reason(self, result: Any) -> str:
        return said(result.reason or (result.instance.reason if result.instance and result.state == "sent" else ""))


class DeployRequest(serializers.Serializer):
    note = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=500, help_text="Why; it stays with the revision."
    )


class RollBackRequest(serializers.Serializer):
    revision = serializers.IntegerField(
        required=False, min_value=1, help_text="Its number; left out: the last that was good."
    )


class RevisionSerializer(serializers.ModelSerializer):
    """One revision, and in ``changes`` what differs from the one before; secret values are never told."""

    author = serializers.SlugRelatedField(slug_field="username", read_only=True)
    current = serializers.SerializerMethodField()
    good = serializers.SerializerMethodField()
    on_trial = serializers.SerializerMethodField()
    changes = serializers.SerializerMethodField()
    deploy_command = serializers.CharField(source="command")

    outcome_reason = SaidField()

    class Meta:
        model = Revision
        fields = [
            *(
                "number",
                "deploy_command",
                "stop_command",
                "env",
                "run_as",
                "cwd",
                "probes",
                "port",
                "devices",
                "restart",
            ),
            *("author", "note", "created_at", "current", "good", "on_trial", "changes"),
            *("outcome", "outcome_at", "outcome_reason"),
        ]

    def get_current(self, revision: Revision) -> bool:
        return revision.pk == revision.service.current_revision_id

    def get_good(self, revision: Revision) -> bool:
        return revision.pk == revision.service.good_revision_id

    def get_on_trial(self, revision: Revision) -> bool:
        """Deployed, and not ready for long enough yet to be good."""
        trial = getattr(revision.service, "trial", None)
        return trial is not None and trial.revision_id == revision.pk

    def get_changes(self, revision: Revision) -> dict[str, list[Any]]:
        before: Revision | None = self.context["before"].get(revision.number)
        return changes(before, revision) if before else {}


class DiffSerializer(serializers.Serializer):
    to = serializers.IntegerField()
    changes = serializers.DictField(help_text="Each field that differs: before, after.")

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.IntegerField(), **super().get_fields()}  # a word that cannot be a name here


class DiffQuery(serializers.Serializer):
    to = serializers.IntegerField(min_value=1)

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.IntegerField(min_value=1), **super().get_fields()}


class OperationAnswer(serializers.Serializer):
    """What a verb answers: the operation to follow, and the service's status now."""

    operation_id = serializers.IntegerField(allow_null=True)
    deploy_status = serializers.ChoiceField(choices=DeployStatus.choices, allow_null=True)


class DeployLog(serializers.Serializer):
    operation_id = serializers.IntegerField()
    kind = serializers.CharField()
    state = serializers.CharField()
    reason = SaidField()
    results = ResultSerializer(many=True)
