"""Who holds a run. A claim names the process of its host, so that whoever looks on the same machine sees at once when
it is gone; from another machine only its lease tells, when it has passed.
"""

import hashlib
import os
import secrets
from pathlib import Path

from django.db import transaction
from django.utils import timezone

from infini import clusters
from infini.models import Lease
from scheduler.models import Run
from scheduler.states import RunState

HOST_LEASE = f"{clusters.LEASE_PREFIX}host."
_PROC = Path("/proc")


def own() -> str:
    """A new claim of this process, at most 32 characters: machine, process, when it was started, and something new."""
    pid = os.getpid()
    return f"{_machine() or secrets.token_hex(4)}.{pid:x}.{_started(pid) or '0'}.{secrets.token_hex(3)}"


def give_back_of_the_dead() -> int:
    """Free what processes of this machine held that are gone; returns how many runs may be taken on now."""
    running = Run.objects.filter(state=RunState.RUNNING).order_by()
    hosts = Lease.objects.filter(name__startswith=HOST_LEASE, expires_at__gt=timezone.now())
    held = {*running.values_list("claim", flat=True), *hosts.values_list("holder", flat=True)}
    gone = [claim for claim in held if is_gone(claim)]
    if not gone:
        return 0
    now = timezone.now()
    with transaction.atomic():
        hosts.filter(holder__in=gone).update(expires_at=now)
        return running.filter(claim__in=gone, leased_until__gt=now).update(leased_until=now)


def is_gone(claim: str) -> bool:
    """Whether the claim's process was one of this machine and is no more; False where that cannot be told."""
    machine, *rest = claim.split(".")
    if len(rest) != 3 or not machine or machine != _machine():
        return False
    try:
        return _started(int(rest[0], 16)) != rest[1]
    except ValueError:
        return False


def _machine() -> str:
    """The same for the processes that see each other: of one boot, one namespace of processes, one account. Empty:
    unknown.
    """
    try:
        told = (_PROC / "sys/kernel/random/boot_id").read_text() + os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""
    told += str(os.getuid())  # of another account's processes a system may show nothing
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def _started(pid: int) -> str:
    """When the process was started, in the system's ticks since its boot; empty when it is no more."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{int(fields[19]):x}"
