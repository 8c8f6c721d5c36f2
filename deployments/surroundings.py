"""What a terminal that is opened for a service begins with: registered with the inventory, which knows no services."""

from deployments.models import Placement
from inventory.terminals.surroundings import Surroundings


def surroundings(service_id: int, server_id: int) -> Surroundings | None:
    """Of the revision that is wanted there; its secret variables stay where they are."""
    placement = (
        Placement.objects.filter(service=service_id, server=server_id)
        .select_related("service__current_revision")
        .defer("service__current_revision__secret_env")
        .first()
    )
    if placement is None:
        return None
    revision = placement.service.current_revision
    if revision is None:
        return Surroundings(placement.service.name)
    return Surroundings(placement.service.name, revision.cwd, revision.env)
