"""What the timeline can be narrowed to: what it is about, who did it, since when."""

from datetime import timedelta
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _

from infini.admin_base import DropdownFilter
from infini.timeline import hidden_kinds

_SPANS = {
    "1h": (_("Last hour"), timedelta(hours=1)),
    "24h": (_("Last 24 hours"), timedelta(hours=24)),
    "7d": (_("Last 7 days"), timedelta(days=7)),
    "30d": (_("Last 30 days"), timedelta(days=30)),
}
_ABOUT = (
    *("inventory.server", "deployments.service", "deployments.instance", "inventory.environment", "inventory.brand"),
    *("inventory.card", "inventory.aimodel", "scheduler.task", "scheduler.run", "scheduler.savedcommand"),
    *("chat.endpoint", "chat.trafficrule", "infini.user", "infini.apikey", "infini.alert", "infini.alerttarget"),
)
_SYSTEM = "system"


class AboutFilter(DropdownFilter):
    title = _("subject")
    parameter_name = "about"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        hidden = hidden_kinds(request.user)
        kinds = [(label.rpartition(".")[2], apps.get_model(label)._meta.verbose_name) for label in _ABOUT]
        return [(kind, capfirst(str(words))) for kind, words in kinds if kind not in hidden]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(subject_kind=self.value()) if self.value() else queryset


class ActorFilter(DropdownFilter):
    """Everybody for who may see the people, else oneself; and the site's own doing."""

    title = _("actor")
    parameter_name = "by"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        people = get_user_model().objects.order_by("username")
        if not request.user.has_perm("infini.view_user"):
            people = people.filter(username=request.user.get_username())
        return [(_SYSTEM, _("the system")), *((str(pk), name) for pk, name in people.values_list("pk", "username"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        who = self.value() or ""
        if who == _SYSTEM:
            return queryset.filter(actor=None, actor_name="")  # somebody who is gone by now has left his name
        known = [str(pk) for pk, _name in self.lookup_choices]
        return queryset.filter(actor=who) if who in known else queryset


class SinceFilter(DropdownFilter):
    title = _("time")
    parameter_name = "since"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(span, words) for span, (words, _length) in _SPANS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        if self.value() not in _SPANS:
            return queryset
        return queryset.filter(at__gte=timezone.now() - _SPANS[self.value()][1])
