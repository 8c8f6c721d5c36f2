"""What django-q2 runs. Each task may run twice or die half-way: steps claim their operation first."""

from deployments import graves, steps


def advance(operation_id: int) -> None:
    """The next step of an operation."""
    steps.advance(operation_id)


def end_buried(server_ids: list[int]) -> None:
    """End what was deleted by force while these servers were silent."""
    graves.end_buried(server_ids)
