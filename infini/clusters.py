"""The second queue, `runs`: work of minutes and hours, beside the `steps` that never take long.

django-q2 only starts such work; a row with a lease says who does it, so that a message lost or delivered twice does no
harm. What runs there holds a lease named ``runs.…`` and renews it: that is how the supervisor tells busy from stuck.

In a process of this cluster a message without a name goes to this cluster: name the other one to reach it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from django_q.tasks import async_task

from infini.models import Lease

STEPS, RUNS = "steps", "runs"
LEASE_PREFIX = "runs."
WAITED = timedelta(seconds=60)
QUIET = timedelta(seconds=30)

# Whether work that this cluster should have begun before a moment still waits.
WaitsSince = Callable[[datetime], bool]
_waiting: list[WaitsSince] = []


def queue_run(path: str, *args: int | str) -> None:
    """Have the `runs` cluster call the function at ``path`` once the surrounding transaction commits; pass ids."""
    transaction.on_commit(lambda: async_task(path, *args, cluster=RUNS))


def register_waiting(check: WaitsSince) -> None:
    """Add a question to ``runs_stalled``; called once per app at start."""
    if check not in _waiting:
        _waiting.append(check)


def runs_stalled() -> bool:
    """Due work has waited for a minute and nothing in the cluster has renewed its lease lately."""
    now = timezone.now()
    if not any(waits_since(now - WAITED) for waits_since in _waiting):
        return False
    return not Lease.objects.filter(name__startswith=LEASE_PREFIX, expires_at__gt=now - QUIET).exists()
