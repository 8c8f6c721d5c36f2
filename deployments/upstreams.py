"""Where services' ready instances answer."""

from collections import defaultdict
from dataclasses import dataclass

from django.db.models import QuerySet

from deployments.models import Instance
from deployments.phases import Phase, Wanted


@dataclass(frozen=True, slots=True)
class Upstream:
    """One model server; ``base_url`` ends with the path prefix and without a slash.

    ``bearer`` is sent as its key. ``guarded``: its address was typed in by a person, so what the name resolves to is
    checked before each connection.
    """

    key: str
    base_url: str
    server_name: str
    bearer: str = ""
    guarded: bool = False


def upstreams_of(service_id: int) -> list[Upstream]:
    """Ready instances of a service that have a port; addresses come from the database alone."""
    return [upstream for _, upstream in _read(ready_instances().filter(placement__service=service_id))]


def all_upstreams() -> dict[int, list[Upstream]]:
    """The same of every service that has any, by service id, in one query."""
    found: dict[int, list[Upstream]] = defaultdict(list)
    for service_id, upstream in _read(ready_instances()):
        found[service_id].append(upstream)
    return found


def ready_instances() -> QuerySet[Instance]:
    return Instance.objects.filter(wanted=Wanted.RUNNING, phase=Phase.RUNNING, ready=True, port__isnull=False)


def _read(instances: QuerySet[Instance]) -> list[tuple[int, Upstream]]:
    rows = instances.order_by("pk").values_list(
        "key",
        "port",
        "placement__server__host_ip",
        "placement__server__name",
        "placement__service",
        "placement__service__path_prefix",
    )
    return [
        (service_id, Upstream(key, f"http://{_host(host)}:{port}{_prefix(prefix)}", server))
        for key, port, host, server, service_id, prefix in rows
    ]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _prefix(prefix: str) -> str:
    stripped = prefix.strip("/")
    return f"/{stripped}" if stripped else ""
