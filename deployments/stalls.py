"""Whether a background process stands still although it lives; asked by the supervisor."""

from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from deployments.models import Operation
from deployments.monitor import LEASE
from deployments.phases import OPEN_STATES
from infini.models import Lease

WAITED = timedelta(seconds=60)
QUIET = timedelta(seconds=30)


def worker_stalled() -> bool:
    """A due step has waited for a minute and no step was begun or held lately."""
    now = timezone.now()
    waiting = Operation.objects.filter(state__in=OPEN_STATES, step_due_at__lt=now - WAITED)
    working = Operation.objects.filter(Q(stepped_at__gt=now - QUIET) | Q(leased_until__gt=now - QUIET))
    return waiting.exists() and not working.exists()


def monitor_stalled() -> bool:
    """No monitor holds the lease that the leading one renews with every round."""
    held = Lease.objects.filter(name=LEASE).first()
    return held is not None and held.expires_at < timezone.now() - QUIET
