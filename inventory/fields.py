"""Serializer fields with rules of their own: figures, addresses of pictures, references."""

import math
import unicodedata
from typing import Any
from urllib.parse import urlsplit

from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from infini.api import VisibleIdField, VisibleRows
from inventory.models import Environment


class NameField(serializers.CharField):
    """Trimmed, not empty, on one line."""

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text):
            raise serializers.ValidationError(_("A name is one line of text."))
        return text


class FigureField(serializers.FloatField):
    """A finite number above zero, or null where nobody publishes it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "allow_null": True, **options})

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool):
            self.fail("invalid")
        try:
            figure = super().to_internal_value(data)
        except OverflowError:
            figure = math.inf
        if not math.isfinite(figure) or figure <= 0:
            raise serializers.ValidationError(
                _("A figure is a finite number above zero; null when it is not published.")
            )
        return figure


class LogoField(serializers.CharField):
    """The address of a picture: a path on this site or an http(s) URL."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "allow_blank": True, "max_length": 200, **options})

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        try:
            address = urlsplit(text)
        except ValueError:
            address = urlsplit("broken:")
        known = address.scheme in ("http", "https") or (not address.scheme and not address.netloc)
        if not known or "\\" in text or not text.isprintable():
            raise serializers.ValidationError(_("A logo is a path on this site or an http(s) address."))
        return text


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}})
class LabelsField(serializers.JSONField):
    """An object of names and strings."""


class IdField(VisibleIdField):
    """A row by its id: whole numbers alone, within what a database holds."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str) and data.isascii() and data.isdigit() and len(data) < 19:
            data = int(data)
        if not isinstance(data, int) or isinstance(data, bool):
            self.fail("incorrect_type", data_type=type(data).__name__)
        if not 0 < data < 2**63:
            self.fail("does_not_exist", pk_value=data)
        return super().to_internal_value(data)


@extend_schema_field(OpenApiTypes.STR)
class EnvironmentField(VisibleRows, serializers.RelatedField):
    """An environment by its name, whatever its case, or by its id; read as its name."""

    def __init__(self, **options: Any) -> None:
        rows = {} if options.get("read_only") else {"queryset": Environment.objects.all()}
        super().__init__(**{"required": False, "allow_null": True, **rows, **options})

    def to_internal_value(self, data: Any) -> Environment:
        if isinstance(data, str):
            found = self.get_queryset().filter(name__iexact=data.strip()).first()
        else:
            found = IdField(queryset=self.get_queryset()).to_internal_value(data)
        if found is None:
            raise serializers.ValidationError(_("There is no environment of this name."))
        return found

    def to_representation(self, value: Environment) -> str:
        return value.name
