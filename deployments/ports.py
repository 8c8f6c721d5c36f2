"""Ports given to instances, claimed in the database before any agent is asked."""

from collections.abc import Iterable

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from deployments.models import Instance, PortClaim, Revision
from deployments.phases import Phase
from infini.errors import Conflict
from inventory.models import Server


def claim_port(instance: Instance, *, server: Server, revision: Revision) -> int | None:
    """Give ``instance`` the port its revision needs; None when it needs none.

    Call inside the transaction that deploys. Raises Conflict when the port, or every port of the range, is taken.
    """
    if not revision.needs_port:
        release_ports([instance.pk])
        return None
    held = PortClaim.objects.filter(instance=instance).first()
    port = revision.port or _free_port(instance, server, held)
    if held and held.port == port:
        return port
    release_ports([instance.pk])
    try:
        with transaction.atomic():
            PortClaim.objects.create(server=server, port=port, instance=instance)
    except IntegrityError:
        taken = PortClaim.objects.select_related("instance__placement__service").get(server=server, port=port)
        raise Conflict(
            _("Port %(port)s on %(server)s belongs to the service %(service)s; stop that one or choose another port.")
            % {"port": port, "server": server, "service": taken.instance.placement.service},
            code="port_taken",
        ) from None
    return port


def release_ports(instance_ids: Iterable[int]) -> None:
    """Give the ports back; only once the processes are known to be gone."""
    PortClaim.objects.filter(instance__in=list(instance_ids)).delete()


def _free_port(instance: Instance, server: Server, held: PortClaim | None) -> int:
    """The port it has, unless it failed there; then the next free one, since a stranger may sit on it."""
    first, last = settings.PORT_RANGE_FIRST, settings.PORT_RANGE_LAST
    failed = instance.phase == Phase.FAILED
    if held and first <= held.port <= last and not failed:
        return held.port
    # Two servers of one address are two agents on one machine: they share its ports.
    claims = PortClaim.objects.filter(server__host_ip=server.host_ip, port__range=(first, last))
    taken = set(claims.values_list("port", flat=True))
    start = instance.port + 1 if failed and instance.port and first <= instance.port < last else first
    for port in (*range(start, last + 1), *range(first, start)):
        if port not in taken:
            return port
    raise Conflict(
        _("All ports from %(first)s to %(last)s on %(server)s are taken.")
        % {"first": first, "last": last, "server": server},
        code="no_free_port",
    )
