"""What the gateway adds to pages of other apps: a service's usage and its rate, and what keys took this month."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db.models import (
    Exists,
    F,
    FloatField,
    Func,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
)
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from chat import usage
from chat.gateway_api import SEE_ALL
from chat.models import Endpoint, TrafficRule, UsageDay
from chat.overview import short_number, usage_card
from chat.usage_history import service_rates
from deployments.models import Service
from infini.admin_base import display
from infini.csv_export import attributes
from infini.display import ABSENT, Bar, link, number, url_of
from infini.extras import Column
from infini.visibility import visible

DAYS = 7
ROWS = 8


def service_usage(request: HttpRequest, service: Any) -> dict[str, Any]:
    """Who used a service in the last days, and by which rule requests are let through."""
    rule = TrafficRule.objects.filter(service=service.pk).first()
    url = ""
    if request.user.has_perm("chat.change_trafficrule"):
        url = (
            reverse("admin:chat_trafficrule_change", args=[rule.pk])
            if rule
            else f"{reverse('admin:chat_trafficrule_add')}?service={service.pk}"
        )
    today = timezone.now().date()
    user_id = None if request.user.has_perm(SEE_ALL) else request.user.pk
    rows = usage.summed_by(
        "key", first=today - timedelta(days=DAYS - 1), last=today, user_id=user_id, service_id=service.pk
    )
    known = {"rule": rule, "rule_url": url, "used": rows[:ROWS], "days": DAYS, "model": service.served_model or service}
    return {"rows": known, "usage_chart": usage_card(user_id is not None, service_id=service.pk)}


def with_rate(services: QuerySet, user: Any) -> QuerySet:
    """Adds ``requests_a_minute``, counted once for all: a look at the last minutes' requests for each row is slow."""
    return services.annotate(requests_a_minute=Looked("pk", service_rates()))


class Looked(Func):
    """What ``numbers`` has for a row's key, else 0: one parameter, where a condition for each of a thousand numbers
    took longer to write than the rest of the list."""

    output_field = FloatField()

    def __init__(self, key: str, numbers: Mapping[int, float]) -> None:
        super().__init__(Value(json.dumps(numbers)), F(key))

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:
        return self._as(compiler, "COALESCE(json_extract({}, '$.\"' || {} || '\"'), 0.0)")

    def as_postgresql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:
        return self._as(compiler, "COALESCE((({})::jsonb ->> ({})::text)::double precision, 0.0)")

    def _as(self, compiler: Any, template: str) -> tuple[str, Any]:
        (numbers, given), (key, more) = (compiler.compile(one) for one in self.get_source_expressions())
        return template.format(numbers, key), (*given, *more)


@display(description=_("Requests/min"), ordering="requests_a_minute")
def rate_shown(service: Any) -> SafeString:
    url = f"{url_of('admin:deployments_service_page', service.pk)}?tab=usage"
    title = gettext("gateway, mean of 5 min")
    return format_html(
        '<span class="num"><a class="link" href="{}" title="{}">{}</a></span>',
        url,
        title,
        short_number(service.requests_a_minute),
    )


RATE = Column(with_rate, rate_shown, attributes("requests_a_minute"), before="changed")


def with_month(rows: QuerySet, user: Any) -> QuerySet:
    first = timezone.now().date().replace(day=1)
    mine = UsageDay.objects.filter(key_id=OuterRef("pk"), day__gte=first).order_by().values("key_id")
    tokens = mine.annotate(n=Sum("prompt_tokens") + Sum("completion_tokens")).values("n")
    return rows.annotate(month_tokens=Coalesce(Subquery(tokens, output_field=IntegerField()), 0))


@display(description=_("Tokens this month"), ordering="month_tokens")
def month_shown(key: Any) -> Bar | SafeString:
    """With its budget a bar, else the number."""
    budget = key.limits.get("tokens_per_month") if isinstance(key.limits, dict) else None
    if not budget:
        return number(key.month_tokens)
    return Bar(str(_("Tokens this month")), min(100.0, 100 * key.month_tokens / budget), limits=(80, 100))


MONTH = Column(with_month, month_shown, attributes("month_tokens"))


def with_answering(rows: QuerySet, user: Any) -> QuerySet:
    """``answers``: something that ``user`` may see serves the model."""
    served = visible(Service.objects.filter(model=OuterRef("pk")), user)
    elsewhere = visible(Endpoint.objects.filter(model=OuterRef("pk"), enabled=True), user)
    return rows.annotate(answers=Q(Exists(served)) | Q(Exists(elsewhere)))


@display(description=_("Chat"))
def chat_shown(model: Any) -> SafeString | str:
    return link(reverse("chat_model", args=[model.pk]), gettext("Chat")) if model.answers else ABSENT


CHAT_WITH = Column(with_answering, chat_shown)
