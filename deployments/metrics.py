"""Services, instances and the devices given to them, for Prometheus."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Count, Sum

from deployments.models import Instance, Operation, Service
from deployments.overview_devices import fleet_devices
from deployments.phases import OPEN_STATES, Phase
from deployments.shown import Standing, count_standings, with_standing
from infini.metrics import Metric, by_word
from infini.visibility import visible

_SERVICE = ["service", "environment"]


def figures(user: Any) -> Iterator[Metric]:
    """A constant number of queries."""
    if user.has_perm("inventory.view_device"):
        brands = fleet_devices(user).brands
        there, free = ([([b.vendor], b.present) for b in brands], [([b.vendor], b.free) for b in brands])
        yield Metric("infini_devices", "Devices that agents tell of.", ["vendor"], there)
        yield Metric("infini_free_devices", "Devices given to no instance.", ["vendor"], free)
    if user.has_perm("deployments.view_service"):
        yield from _services(user)


def _services(user: Any) -> Iterator[Metric]:
    services: Any = visible(Service.objects.all(), user)
    standings = {standing.value: n for standing, n in count_standings(with_standing(services)).items()}
    yield by_word("infini_services", "Services by how they stand.", "status", standings, Standing.values)
    rows = list(services.with_status().values_list("name", "environment__name", "ready_count", "wanted_count"))
    ready, wanted = ([([row[0], row[1] or ""], row[place]) for row in rows] for place in (2, 3))
    yield Metric("infini_service_ready_instances", "Instances that take requests.", _SERVICE, ready)
    yield Metric("infini_service_wanted_instances", "Instances that ought to run.", _SERVICE, wanted)
    instances = visible(Instance.objects.order_by(), user)
    phases = dict(instances.values_list("phase").annotate(n=Count("pk")))
    yield by_word("infini_instances", "Instances by what is observed of them.", "phase", phases, Phase.values)
    restarts = instances.values_list("placement__service__name").annotate(n=Sum("restarts"))
    about = "How often the instances it has now were started again."
    yield Metric("infini_service_restarts", about, ["service"], [([name], n) for name, n in restarts])
    opened = visible(Operation.objects.filter(state__in=OPEN_STATES), user).count()
    yield Metric("infini_open_operations", "Operations under way.", [], [([], opened)])
