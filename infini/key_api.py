"""API keys over HTTP: everybody's own, all of them for administrators; by the verbs that the admin uses."""

from datetime import datetime
from typing import Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from infini import keys
from infini.access import LOGGED_IN
from infini.errors import Conflict, Forbidden, Invalid
from infini.key_rules import LIMITS, Use, use_of
from infini.models import ApiKey

SEE_ALL = "infini.view_apikey"


class KeySerializer(serializers.ModelSerializer):
    """A key as it is told. Its text is not in it: that is kept nowhere."""

    user = serializers.CharField(source="user.username")
    state = serializers.SerializerMethodField()
    use = serializers.SerializerMethodField()
    models = serializers.SerializerMethodField(help_text="Empty: all.")
    limits = serializers.DictField(child=serializers.IntegerField())

    class Meta:
        model = ApiKey
        fields = [
            *("id", "name", "prefix", "user", "state", "use", "models", "limits"),
            *("created_at", "expires_at", "revoked_at", "last_used_at"),
        ]
        read_only_fields = fields

    @extend_schema_field(serializers.ChoiceField(keys.STATES))
    def get_state(self, key: ApiKey) -> str:
        return keys.state_of(key)

    @extend_schema_field(serializers.ChoiceField(Use.choices))
    def get_use(self, key: ApiKey) -> str:
        return use_of(key.scopes)

    def get_models(self, key: ApiKey) -> list[str]:
        return list(key.scopes.get("models", []))


class MadeKeySerializer(KeySerializer):
    key = serializers.CharField(read_only=True, help_text="The key itself: told this once, kept nowhere.")

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "key"]


class ValuesSerializer(serializers.Serializer):
    """What may be said of a key."""

    name = serializers.CharField(max_length=100)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    use = serializers.ChoiceField(Use.choices, required=False)
    models = serializers.ListField(child=serializers.CharField(max_length=200), required=False)
    limits = serializers.DictField(
        child=serializers.IntegerField(allow_null=True),
        required=False,
        help_text=f"Of {', '.join(LIMITS)}: whole numbers from 1 on; null: no limit.",
    )

    def to_internal_value(self, data: Any) -> Any:
        """What it has no field for is refused: a limit at the wrong place would be none, and nobody would notice."""
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            told = _("There is no such field; there are %(fields)s.") % {"fields": ", ".join(self.fields)}
            raise serializers.ValidationError({name: [told] for name in unknown})
        return super().to_internal_value(data)

    def validate_expires_at(self, moment: datetime | None) -> datetime | None:
        if moment is not None and moment <= timezone.now():
            raise serializers.ValidationError(_("This lies in the past."))
        return moment


class KeysView(GenericAPIView):
    """Whoever asks finds his own; with ``infini.view_apikey`` all."""

    needs: Any = LOGGED_IN
    serializer_class = KeySerializer
    queryset = ApiKey.objects.none()

    def seen(self) -> QuerySet[ApiKey]:
        rows = ApiKey.objects.select_related("user")
        return rows if self.request.user.has_perm(SEE_ALL) else rows.filter(user=self.request.user)

    def one(self, pk: int) -> ApiKey:
        return get_object_or_404(self.seen(), pk=pk)

    def values(self, request: Request, key: ApiKey | None = None) -> dict[str, Any]:
        """What ``infini.keys`` takes out of what was sent; what was left out stays as it is."""
        given = ValuesSerializer(data=request.data, partial=key is not None)
        given.is_valid(raise_exception=True)
        values: dict[str, Any] = dict(given.validated_data)
        scopes = {name: values.pop(name) for name in ("use", "models") if name in values}
        if scopes:
            values["scopes"] = {**(key.scopes if key else {}), **scopes}
        if "limits" in values and key:
            values["limits"] = {**key.limits, **values["limits"]}
        return values


class KeyList(KeysView):
    @extend_schema(
        operation_id="keys_list",
        parameters=[OpenApiParameter("state", str, enum=keys.STATES), OpenApiParameter("user", str)],
    )
    def get(self, request: Request) -> Response:
        """The newest first; of one ``user`` or in one ``state`` if that is asked for."""
        rows = self.seen()
        if name := request.query_params.get("user"):
            rows = rows.filter(user__username=name)
        state = request.query_params.get("state")
        if state is not None and state not in keys.STATES:
            told = _("state is one of %(names)s.") % {"names": ", ".join(keys.STATES)}
            raise Invalid(told, fields={"state": [_("Not one of them.")]})
        if state:
            rows = rows.filter(keys.in_state(state, timezone.now()))
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(KeySerializer(page, many=True).data)

    @extend_schema(operation_id="keys_make", request=ValuesSerializer, responses={201: MadeKeySerializer})
    def post(self, request: Request) -> Response:
        """Make a key of one's own. The answer tells the key, this once."""
        by = request.auth
        if isinstance(by, ApiKey) and (by.scopes or by.limits or by.expires_at):
            raise Forbidden(_("This API key is limited, and so may not make others. Log in to make one."))
        key, text = keys.create_key(user=request.user, by=request.user, **self.values(request))
        told = {**KeySerializer(key).data, "key": text}
        return Response(told, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


class KeyDetail(KeysView):
    needs = {"GET": LOGGED_IN, "PATCH": "infini.change_apikey"}

    @extend_schema(operation_id="keys_read")
    def get(self, request: Request, pk: int) -> Response:
        return Response(KeySerializer(self.one(pk)).data)

    @extend_schema(operation_id="keys_change", request=ValuesSerializer)
    def patch(self, request: Request, pk: int) -> Response:
        """Change what is given, of ``limits`` too. An administrator's: a limit its owner could lift would be none."""
        key = self.one(pk)
        if key.revoked_at:
            raise Conflict(_("This key is revoked and stays so."))
        return Response(KeySerializer(keys.change_key(key, by=request.user, **self.values(request, key))).data)


class KeyRevoke(KeysView):
    needs = {"POST": LOGGED_IN}

    @extend_schema(operation_id="keys_revoke", request=None)
    def post(self, request: Request, pk: int) -> Response:
        """End the key: it is refused everywhere within a second. Doing it twice changes nothing."""
        keys.revoke_key(self.one(pk), by=request.user)
        return Response(KeySerializer(self.one(pk)).data)
