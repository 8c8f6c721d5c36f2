"""What django-q2 runs. Each task may run twice or die half-way: steps claim their operation first."""

from deployments import graves, steps, unknown


def advance(operation_id: int) -> None:
    """The next step of an operation."""
    steps.advance(operation_id)


def end_buried(server_ids: list[int]) -> None:
    """End what was deleted by force while these servers were silent."""
    graves.end_buried(server_ids)


def describe_unknown(server_id: int) -> None:
    """Ask what the unknown instances on a server run."""
    unknown.describe(server_id)
