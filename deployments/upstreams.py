"""Where a service's ready instances answer."""

from dataclasses import dataclass

from deployments.models import Instance
from deployments.phases import Phase, Wanted


@dataclass(frozen=True)
class Upstream:
    """One ready instance; ``base_url`` ends with the service's path prefix and without a slash."""

    instance_id: int
    key: str
    base_url: str
    server_name: str


def upstreams_of(service_id: int) -> list[Upstream]:
    """Ready instances of a service that have a port; addresses come from the database alone."""
    rows = (
        Instance.objects.filter(
            placement__service=service_id, wanted=Wanted.RUNNING, phase=Phase.RUNNING, ready=True, port__isnull=False
        )
        .order_by("pk")
        .values_list(
            "pk",
            "key",
            "port",
            "placement__server__host_ip",
            "placement__server__name",
            "placement__service__path_prefix",
        )
    )
    return [
        Upstream(pk, key, f"http://{_host(host)}:{port}{_prefix(prefix)}", server)
        for pk, key, port, host, server, prefix in rows
    ]


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _prefix(prefix: str) -> str:
    stripped = prefix.strip("/")
    return f"/{stripped}" if stripped else ""
