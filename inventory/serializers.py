"""The inventory as JSON. Verbs decide what is allowed; here stand names, shapes and defaults."""

from typing import Any

from django.core.validators import URLValidator
from django.utils.translation import gettext as _
from rest_framework import serializers

from infini.api import VersionedSerializer
from inventory import catalogue, uploads
from inventory.fields import FigureField, IdField, LogoField, NameField
from inventory.models import AIModel, Brand, Card, Environment


class NamedSerializer(VersionedSerializer):
    """A row whose name nothing else of its kind has, whatever the case."""

    def validate_name(self, name: str) -> str:
        others = self.Meta.model._default_manager.filter(name__iexact=name)
        if self.instance:
            others = others.exclude(pk=self.instance.pk)
        if others.exists():
            raise serializers.ValidationError(_("This name is already taken."))
        return name


class EnvironmentSerializer(NamedSerializer):
    name = NameField(max_length=100)

    class Meta:
        model = Environment
        fields = ["id", "name", "version", "created_at"]
        read_only_fields = ["created_at"]


class LogoSerializer(NamedSerializer):
    """A row with a logo, given as an address or as a file that is stored with the row or not at all."""

    logo = LogoField()
    logo_file = serializers.FileField(write_only=True, required=False)

    def save(self, **values: Any) -> Any:
        file = self.validated_data.pop("logo_file", None)
        if file is None:
            return super().save(**values)
        with uploads.stored_picture(file, field="logo_file") as address:
            return super().save(**values, logo=address)


class BrandSerializer(LogoSerializer):
    name = NameField(max_length=100)
    sort_order = serializers.IntegerField(required=False, min_value=-(2**31), max_value=2**31 - 1)

    class Meta:
        model = Brand
        fields = ["id", "name", "name_zh", "vendor", "logo", "logo_file", "sort_order", "version", "created_at"]
        read_only_fields = ["created_at"]


class BrandInside(serializers.ModelSerializer):
    """A brand as part of what is of that brand."""

    class Meta:
        model = Brand
        fields = ["id", "name", "name_zh", "vendor", "logo", "sort_order"]
        read_only_fields = fields


class BrandPlaceSerializer(serializers.Serializer):
    id = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    sort_order = serializers.IntegerField(min_value=-(2**31), max_value=2**31 - 1)


class BrandOrderSerializer(serializers.Serializer):
    orders = BrandPlaceSerializer(many=True, allow_empty=False)

    def validate_orders(self, orders: list[dict]) -> list[dict]:
        if len({order["id"] for order in orders}) < len(orders):
            raise serializers.ValidationError(_("Each brand stands in the list once."))
        return orders


CARD_FIELDS = [
    "id",
    "brand_id",
    "name",
    "model",
    *Card.FIGURES,
    "memory_type",
    "released",
    "source_url",
    "note",
]


class CardInside(serializers.ModelSerializer):
    """A card as part of the server that has it."""

    brand_id = serializers.IntegerField(read_only=True)

    class Meta:
        model = Card
        fields = CARD_FIELDS
        read_only_fields = CARD_FIELDS


class CardSerializer(VersionedSerializer):
    """A card. In a brand's list the brand is the path's: ``context["brand"]``."""

    brand_id = IdField(queryset=Brand.objects.all(), source="brand", required=False)
    brand = BrandInside(read_only=True)
    name = NameField(max_length=100)
    memory = FigureField(help_text="GB")
    fp8_perf = FigureField(help_text="TFLOPS")
    int8_perf = FigureField(help_text="TOPS")
    bf16_perf = FigureField(help_text="TFLOPS")
    fp16_perf = FigureField(help_text="TFLOPS")
    fp32_perf = FigureField(help_text="TFLOPS")
    interconnect_bandwidth = FigureField(help_text="GB/s")
    power = FigureField(help_text="W")
    released = serializers.IntegerField(required=False, allow_null=True, min_value=1970, max_value=2100)
    source_url = serializers.URLField(
        required=False, allow_blank=True, max_length=500, validators=[URLValidator(schemes=["http", "https"])]
    )

    class Meta:
        model = Card
        fields = [*CARD_FIELDS, "brand", "version", "created_at"]
        read_only_fields = ["created_at"]

    def validate(self, values: dict) -> dict:
        place: Brand | None = self.context.get("brand")
        if place and values.setdefault("brand", place) != place:
            raise serializers.ValidationError({"brand_id": [_("This path belongs to another brand.")]})
        if self.instance:
            catalogue.refuse_foreign_brand(self.instance, values.get("brand", self.instance.brand))
        self._refuse_double(values)
        return values

    def _refuse_double(self, values: dict) -> None:
        def now(name: str) -> Any:
            return values.get(name, getattr(self.instance, name, ""))

        others = Card.objects.filter(brand=now("brand"), name__iexact=now("name"), model__iexact=now("model"))
        if self.instance:
            others = others.exclude(pk=self.instance.pk)
        if others.exists():
            text = _("This brand has a card of this name and variant already.")
            raise serializers.ValidationError({"name": [text]})


class AIModelSerializer(LogoSerializer):
    name = NameField(max_length=200)
    environment_ids = IdField(queryset=Environment.objects.all(), source="environments", many=True, required=False)

    class Meta:
        model = AIModel
        fields = ["id", "name", "logo", "logo_file", "parameters", "environment_ids", "version", "created_at"]
        read_only_fields = ["created_at"]


class CheckResultSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    status = serializers.CharField()
    method = serializers.CharField()
    error = serializers.CharField()
    last_check = serializers.DateTimeField(allow_null=True)


class HostKeySerializer(serializers.Serializer):
    """As ``inventory.ssh.host_keys.HostKey``."""

    server_id = serializers.IntegerField()
    state = serializers.ChoiceField(["none", "unconfirmed", "pinned", "changed"])
    host_key = serializers.CharField(help_text="The pin as an OpenSSH line; empty: none.")
    fingerprint = serializers.CharField()
    offered_host_key = serializers.CharField(help_text="What was last offered in its place; empty: nothing else.")
    offered_fingerprint = serializers.CharField()


class HostKeyPinSerializer(serializers.Serializer):
    """Which key to pin: the one offered last, by its fingerprint, or any, as an OpenSSH line."""

    fingerprint = serializers.CharField(required=False, max_length=100)
    host_key = serializers.CharField(required=False, max_length=16 * 1024)
    name = serializers.CharField(
        required=False, max_length=100, help_text="The server's name; needed to pin another key in place of the first."
    )


class PictureSerializer(serializers.Serializer):
    url = serializers.CharField()
    filename = serializers.CharField()


class PictureUploadSerializer(serializers.Serializer):
    file = serializers.FileField()


class ServerIdsSerializer(serializers.Serializer):
    server_ids = serializers.ListField(
        child=serializers.IntegerField(min_value=1), required=False, allow_null=True, help_text="Left out: all."
    )


class HistoryDeviceSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    vendor = serializers.CharField()
    index = serializers.IntegerField()
    name = serializers.CharField()


class HistorySeriesSerializer(serializers.Serializer):
    name = serializers.CharField()
    unit = serializers.CharField()
    device = HistoryDeviceSerializer(allow_null=True)
    values = serializers.ListField(child=serializers.FloatField(allow_null=True))


class LinesSerializer(serializers.Serializer):
    """Lines over a span, whatever they tell of."""

    step_seconds = serializers.IntegerField()
    series = HistorySeriesSerializer(many=True)

    def get_fields(self) -> dict[str, Any]:
        """``from`` is a word of the language, so it cannot be written above."""
        begin, end = serializers.DateTimeField(source="begin"), serializers.DateTimeField(source="end")
        return {"from": begin, "to": end, **super().get_fields()}


class HistorySerializer(LinesSerializer):
    """As ``inventory.history.History``."""

    server_id = serializers.IntegerField()


class FleetHistorySerializer(LinesSerializer):
    """As ``inventory.fleet_history.FleetHistory``."""

    read_every_seconds = serializers.IntegerField(help_text="Of a large fleet only one in so many minutes is read.")


class HistorySpanSerializer(serializers.Serializer):
    """What GET /api/servers/<id>/history takes: ISO 8601 times, both optional."""

    to = serializers.DateTimeField(required=False)

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.DateTimeField(required=False), **super().get_fields()}


class ResourcesSerializer(serializers.Serializer):
    """As ``inventory.resources.Resources``."""

    server_id = serializers.IntegerField()
    cpu_percent = serializers.FloatField(allow_null=True)
    memory_percent = serializers.FloatField(allow_null=True)
    disk_percent = serializers.FloatField(allow_null=True)
    accelerators = serializers.ListField(child=serializers.DictField())
    errors = serializers.DictField(child=serializers.CharField())
    source = serializers.CharField()
    observed_at = serializers.DateTimeField(allow_null=True)
