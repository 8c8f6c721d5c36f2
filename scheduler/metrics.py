"""Tasks and runs, for Prometheus."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Count

from infini.metrics import Metric, by_word
from infini.visibility import visible
from scheduler.models import Run, Task
from scheduler.states import RunState


def figures(user: Any) -> Iterator[Metric]:
    """Two queries."""
    if not user.has_perm("scheduler.view_run"):
        return
    yield Metric("infini_tasks", "Tasks there are.", [], [([], visible(Task.objects.all(), user).count())])
    states = dict(visible(Run.objects.order_by(), user).values_list("state").annotate(n=Count("pk")))
    yield by_word("infini_runs", "Runs that are kept, by state.", "state", states, RunState.values)
