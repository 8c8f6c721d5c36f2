"""What may be called: services with their ready instances, and endpoints, under the names clients call them by."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.fernet import InvalidToken
from django.conf import settings
from django.db.models import Count, F, Max, Sum

from chat.models import Endpoint, TrafficRule, target_key
from chat.wire import Deadlines
from deployments.models import Placement, Service
from deployments.upstreams import Upstream, all_upstreams, ready_instances
from infini.visibility import Environments
from inventory.models import AIModel, Server

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A service or an endpoint. ``upstreams`` are what may be asked now; ``concurrency`` 0 is no limit."""

    service_id: int  # 0 for an endpoint
    endpoint_id: int  # 0 for a service
    name: str
    served_model: str
    upstreams: tuple[Upstream, ...]
    deadlines: Deadlines
    sticky: bool = False
    concurrency: int = 0
    queue: int = 100
    queue_seconds: float = 30.0
    environments: Environments = frozenset()  # a service's servers' and its own; those an endpoint's model is bound to

    def open_to(self, limits: Environments | None) -> bool:
        """Whether somebody limited to these may see it, as ``infini.visibility`` says of the rows behind it."""
        if limits is None:
            return True
        if self.endpoint_id:
            return not self.environments or bool(self.environments & limits)
        return bool(self.environments) and self.environments <= limits

    @property
    def key(self) -> str:
        return target_key(service_id=self.service_id, endpoint_id=self.endpoint_id)

    @property
    def public_name(self) -> str:
        """What ``/v1/models`` lists it as."""
        return self.served_model or self.name if self.service_id else self.name


Names = dict[str, tuple[Target, ...]]


class TargetBook:
    """Reads targets; reads them again only when something about them changed. One thread at a time."""

    def __init__(self) -> None:
        self._mark: Any = None
        self._by_key: dict[str, Target] = {}
        self._by_name: Names = {}

    def read(self, *, places: bool = True) -> tuple[dict[str, Target], Names]:
        """Everything by its key, and by casefolded name; without ``places`` nobody asks in which environments."""
        mark = _mark(), _places_mark() if places else None
        if mark != self._mark:
            targets = [*_services(), *_endpoints()]
            self._by_key = {target.key: target for target in targets}
            self._by_name = _by_name(targets)
            self._mark = mark
        return self._by_key, self._by_name


def _by_name(targets: Iterable[Target]) -> Names:
    """A service's own name is its alone; what several serve under one name shares the requests for it."""
    served: dict[str, list[Target]] = defaultdict(list)
    own: dict[str, tuple[Target, ...]] = {}
    for target in targets:
        if target.service_id:
            own[target.name.casefold()] = (target,)
            if target.served_model:
                served[target.served_model.casefold()].append(target)
        else:
            served[target.name.casefold()].append(target)
    return {name: tuple(found) for name, found in served.items()} | own


def _mark() -> Any:
    """Differs whenever a service, endpoint, rule, server or ready instance came, went or changed: six short queries."""
    instances = ready_instances().aggregate(Count("pk"), Sum("pk"), Sum("generation"), places=Sum(F("pk") * F("port")))
    rows = [
        tuple(model.objects.aggregate(Count("pk"), Max("pk"), Sum("pk"), Sum("version")).values())
        for model in (Service, TrafficRule, Endpoint, Server)
    ]
    return tuple(instances.values()), *rows


def _places_mark() -> Any:
    """Differs whenever a service was placed elsewhere or a model bound to another environment: two short queries."""
    placed = (Placement, AIModel.environments.through)
    return [tuple(model.objects.aggregate(Count("pk"), Max("pk"), Sum("pk")).values()) for model in placed]


def _places() -> dict[int, set[int]]:
    """The environments of each service, its own and its servers'; 0 is none."""
    found: dict[int, set[int]] = defaultdict(set)
    for service_id, environment_id in Placement.objects.values_list("service_id", "server__environment_id"):
        found[service_id].add(environment_id or 0)
    for service_id, environment_id in Service.objects.exclude(environment=None).values_list("pk", "environment_id"):
        found[service_id].add(environment_id or 0)
    return found


def _services() -> list[Target]:
    upstreams, places = all_upstreams(), _places()
    rules = {rule.service_id: rule for rule in TrafficRule.objects.all()}
    rows = Service.objects.order_by("pk").values_list("pk", "name", "served_model")
    return [
        Target(
            *(pk, 0, name, served, tuple(upstreams.get(pk, ()))),
            environments=frozenset(places.get(pk, ())),
            **_traffic(rules.get(pk)),
        )
        for pk, name, served in rows
    ]


def _endpoints() -> list[Target]:
    rows = Endpoint.objects.filter(enabled=True).defer("key").order_by("pk")
    bound: dict[int, set[int]] = defaultdict(set)
    for model_id, environment_id in AIModel.environments.through.objects.values_list("aimodel_id", "environment_id"):
        bound[model_id].add(environment_id)
    return [
        Target(
            *(0, row.pk, row.name, row.served_model or row.name, _upstreams(row)),
            environments=frozenset(bound.get(row.model_id or 0, ())),
            **_traffic(row),
        )
        for row in rows
    ]


def _upstreams(endpoint: Endpoint) -> tuple[Upstream, ...]:
    """None when its key cannot be read any more: the others are not to suffer for it."""
    try:
        bearer = endpoint.key
    except InvalidToken:
        logger.error("gateway.endpoint_key_unreadable", extra={"endpoint_id": endpoint.pk})
        return ()
    return (Upstream(f"endpoint-{endpoint.pk}", endpoint.base_url, endpoint.name, bearer=bearer, guarded=True),)


def _traffic(rule: TrafficRule | Endpoint | None) -> dict[str, Any]:
    defaults = (
        settings.UPSTREAM_CONNECT_TIMEOUT_SECONDS,
        settings.UPSTREAM_FIRST_BYTE_TIMEOUT_SECONDS,
        settings.UPSTREAM_IDLE_TIMEOUT_SECONDS,
        settings.UPSTREAM_TOTAL_TIMEOUT_SECONDS,
    )
    if rule is None:
        return {"deadlines": Deadlines(*defaults)}
    own = (rule.connect_seconds, rule.first_byte_seconds, rule.idle_seconds, rule.total_seconds)
    return {
        "deadlines": Deadlines(*(mine or default for mine, default in zip(own, defaults, strict=True))),
        "sticky": rule.sticky,
        "concurrency": rule.concurrency or 0,
        "queue": rule.queue,
        "queue_seconds": rule.queue_seconds,
    }
