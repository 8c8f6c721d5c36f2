"""Servers as JSON: secrets go in and never come out."""

from typing import Any

from django.utils.translation import gettext as _
from rest_framework import serializers

from infini.api import SaidField, SecretField
from infini.errors import InfiniError
from inventory import servers
from inventory.fields import EnvironmentField, IdField, LabelsField, NameField
from inventory.models import Brand, Card, Environment, Server
from inventory.serializers import BrandInside, CardInside, NamedSerializer

_OBSERVED = [
    "reachable",
    "last_check",
    "check_method",
    "check_error",
    "agent_seen_at",
    "agent_error",
    "agent_version",
]


class EnvironmentIdField(IdField):
    """Stands beside the field that takes the name; which of the two was given is told apart by its own key."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "allow_null": True, **options})

    def use_pk_only_optimization(self) -> bool:
        return False

    def to_representation(self, value: Any) -> int:
        return getattr(value, "pk", value)


class ServerSerializer(NamedSerializer):
    """A server with its card as ``model``; ``environment`` is written as a name or an id."""

    name = NameField(max_length=100)
    host_ip = serializers.CharField(max_length=253, help_text="IP address or host name.")
    port = serializers.IntegerField(required=False, min_value=1, max_value=65535)
    agent_port = serializers.IntegerField(required=False, min_value=1, max_value=65535)
    labels = LabelsField(required=False)

    environment = EnvironmentField(help_text="Name; when written, an id does too.")
    environment_id = EnvironmentIdField(queryset=Environment.objects.all())
    brand_id = IdField(queryset=Brand.objects.all(), source="brand", required=False, allow_null=True)
    model_id = IdField(queryset=Card.objects.select_related("brand"), source="card", required=False, allow_null=True)
    jump_id = IdField(
        queryset=Server.objects.only("name", "jump"),
        source="jump",
        required=False,
        allow_null=True,
        help_text="The server over which this one is reached by SSH.",
    )
    brand = BrandInside(read_only=True)
    model = CardInside(source="card", read_only=True)

    password = SecretField(max_length=1000)
    private_key = SecretField(max_length=64 * 1024)
    passphrase = SecretField(max_length=1000)
    agent_token = SecretField(max_length=1000, trim_whitespace=True)
    password_set = serializers.BooleanField(read_only=True)
    private_key_set = serializers.BooleanField(read_only=True)
    passphrase_set = serializers.BooleanField(read_only=True)
    agent_token_set = serializers.BooleanField(read_only=True)
    check_error, agent_error = SaidField(), SaidField()
    status = serializers.CharField(read_only=True, help_text="online, offline or unknown; derived.")

    class Meta:
        model = Server
        fields = [
            *("id", "name", "host_ip", "environment", "environment_id", "brand_id", "brand", "model_id", "model"),
            *("labels", "maintenance", "record_terminals", "port", "username", "jump_id", "agent_port"),
            "agent_certificate",
            *(name for secret in servers.SECRETS for name in (secret, f"{secret}_set")),
            *("status", *_OBSERVED, "version", "created_at"),
        ]
        read_only_fields = [*_OBSERVED, "created_at"]

    def validate_host_ip(self, host: str) -> str:
        return _judged(servers.check_host, host)

    def validate_agent_token(self, token: str) -> str:
        return _judged(servers.check_agent_token, token)

    def validate_agent_certificate(self, pem: str) -> str:
        return _judged(servers.check_certificate, pem)

    def validate_labels(self, labels: Any) -> dict[str, str]:
        return _judged(servers.check_labels, labels)

    def validate(self, values: dict) -> dict:
        self._settle_environment(values)
        self._settle_brand(values)
        self._settle_private_key(values)
        if values.get("jump"):
            servers.check_jump(self.instance, values["jump"])
        return values

    def _settle_environment(self, values: dict) -> None:
        if "environment_id" in values:
            by_id = values.pop("environment_id")
            if values.setdefault("environment", by_id) != by_id:
                raise serializers.ValidationError(
                    {"environment_id": [_("This is another environment than the named.")]}
                )

    def _settle_brand(self, values: dict) -> None:
        if "brand" not in values and "card" not in values:
            return
        card = values.get("card", getattr(self.instance, "card", None))
        brand = values.get("brand", getattr(self.instance, "brand", None))
        values["brand"] = servers.brand_for(brand=brand, card=card, brand_given="brand" in values)

    def _settle_private_key(self, values: dict) -> None:
        """A key and its passphrase fit each other, whichever of the two is written."""
        written = {"private_key", "passphrase"} & set(values)
        key = values.get("private_key", getattr(self.instance, "private_key", "")) if written else ""
        if key:
            passphrase = values.get("passphrase", getattr(self.instance, "passphrase", ""))
            field = "private_key" if "private_key" in values else "passphrase"
            stored = servers.check_private_key(key, passphrase, field=field)
            if "private_key" in values:
                values["private_key"] = stored


def _judged(check: Any, value: Any) -> Any:
    """What ``check`` makes of ``value``, its objection beside those of other fields."""
    try:
        return check(value)
    except InfiniError as error:
        raise serializers.ValidationError([text for texts in error.fields.values() for text in texts]) from None
