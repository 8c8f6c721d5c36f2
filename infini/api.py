"""What every API view shares: paths with and without a slash, plain arrays, stale writes refused."""

from typing import Any

import orjson
from django.urls import URLPattern, re_path
from django.utils.translation import gettext as _
from rest_framework import exceptions, parsers, renderers, serializers
from rest_framework.fields import empty
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils import html

from infini import records
from infini.errors import Invalid
from infini.models import Versioned
from infini.said import said
from infini.visibility import visible


def either_slash(route: str, view: Any, name: str) -> URLPattern:
    """A path that answers with and without its last slash; ``<id>`` stands for a number."""
    pattern = route.replace("<id>", r"(?P<pk>[0-9]{1,18})")
    return re_path(rf"^{pattern}/?$", view, name=name)


class JSONParser(parsers.JSONParser):
    """DRF's, which lets brackets nested a thousand deep end as a fault of ours."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: dict | None = None) -> Any:
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise exceptions.ParseError(_("The JSON is nested too deep.")) from None


class JSONRenderer(renderers.JSONRenderer):
    """DRF's answers, written by orjson: an array of a thousand services in a tenth of the time."""

    _OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS

    def render(self, data: Any, accepted_media_type: str | None = None, renderer_context: Any = None) -> bytes:
        if data is None:
            return b""
        if self.get_indent(accepted_media_type or "", renderer_context or {}):
            return bytes(super().render(data, accepted_media_type, renderer_context))  # for people to read
        return orjson.dumps(data, default=self.encoder_class().default, option=self._OPTIONS)


class VisibleRows:
    """For a field that refers to rows: those alone that whoever asks may see. Needs ``request`` in the context."""

    def get_queryset(self) -> Any:
        rows, request = super().get_queryset(), self.context.get("request")  # type: ignore[misc, attr-defined]
        return rows if rows is None or request is None else visible(rows, request.user)


class VisibleIdField(VisibleRows, serializers.PrimaryKeyRelatedField):
    """A row by its id."""


class SaidField(serializers.CharField):
    """A sentence as it is stored, in the language of whoever asks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(read_only=True, **options)

    def to_representation(self, value: Any) -> str:
        return said(super().to_representation(value))


class PlainPagination(BasePagination):
    """A plain array: all rows, or those cut by ``?limit=&offset=``; the total stands in ``X-Total-Count``."""

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list:
        limit, offset = (self._number(request, name) for name in ("limit", "offset"))
        self.total: int | None = None
        if limit is None and not offset:
            rows = list(queryset)
            self.total = len(rows)
            return rows
        self.total = queryset.count() if hasattr(queryset, "query") else len(queryset)
        start = offset or 0
        return list(queryset[start : None if limit is None else start + limit])

    def _number(self, request: Request, name: str) -> int | None:
        raw = request.query_params.get(name)
        if raw is None:
            return None
        if not raw.isascii() or not raw.isdigit() or len(raw) > 9:
            raise Invalid(
                _("%(name)s must be a whole number from 0 on.") % {"name": name},
                fields={name: [_("Not a whole number.")]},
            )
        return int(raw)

    def get_paginated_response(self, data: Any) -> Response:
        return Response(data, headers={"X-Total-Count": str(self.total)})

    def get_paginated_response_schema(self, schema: dict) -> dict:
        return schema

    def get_schema_operation_parameters(self, view: Any) -> list[dict]:
        return [
            {"name": name, "in": "query", "required": False, "schema": {"type": "integer", "minimum": 0}}
            for name in ("limit", "offset")
        ]


class SecretField(serializers.CharField):
    """Write-only text: left out it stays, empty it is cleared.

    A form sends its box whether filled in or not, so an empty box there means that it stays.
    """

    def __init__(self, **options: Any) -> None:
        style = {"input_type": "password"}
        ours = {"write_only": True, "required": False, "allow_blank": True, "trim_whitespace": False, "style": style}
        super().__init__(**{**ours, **options})

    def get_value(self, dictionary: Any) -> Any:
        value = super().get_value(dictionary)
        return empty if value == "" and html.is_html_input(dictionary) else value


class VersionedSerializer(serializers.ModelSerializer):
    """Writes through ``infini.records``: an event per change, stale versions refused, only named columns written."""

    version = serializers.IntegerField(required=False, min_value=1)

    def create(self, validated_data: dict) -> Versioned:
        validated_data.pop("version", None)
        many = self._take_many_to_many(validated_data)
        return records.create(self.Meta.model(**validated_data), by=self.context["request"].user, many=many)

    def update(self, instance: Versioned, validated_data: dict) -> Versioned:
        version = validated_data.pop("version", None)
        many = self._take_many_to_many(validated_data)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        by = self.context["request"].user
        return records.change(instance, validated_data, by=by, version=version, many=many)

    def _take_many_to_many(self, data: dict) -> dict[str, Any]:
        names = {field.name for field in self.Meta.model._meta.many_to_many}
        return {name: data.pop(name) for name in names & set(data)}
