"""How services, instances and operations are shown: one vocabulary for lists, pages and the overview."""

from collections import Counter
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Case, Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from deployments.models import Instance, Operation, OperationResult, Revision, Service
from deployments.phases import OPEN_STATES, OperationState, Outcome, Phase, ResultState, Wanted
from infini.display import BAD, BUSY, GOOD, QUIET, WARN, Chip, ago_text


class Standing(models.TextChoices):
    """A service in one word for people: finer than the four words of the API, derived from the same columns."""

    DEPLOYING = "deploying", gettext_lazy("Deploying")
    RUNNING = "running", gettext_lazy("Running")
    PARTLY = "partly", gettext_lazy("Partly running")
    UNREACHABLE = "unreachable", gettext_lazy("Unreachable")
    LEFTOVER = "leftover", gettext_lazy("Still running")
    STOPPED = "stopped", gettext_lazy("Stopped")
    NOT_RUNNING = "not_running", gettext_lazy("Not running")


WRONG = (Standing.UNREACHABLE, Standing.NOT_RUNNING, Standing.PARTLY, Standing.LEFTOVER)
_WORST_FIRST = (*WRONG, Standing.DEPLOYING, Standing.RUNNING, Standing.STOPPED)


def rank_of(standing: Standing) -> int:
    return _WORST_FIRST.index(standing)


def standing_of(service: Any) -> Standing:
    """Expects ``with_standing()``."""
    return _WORST_FIRST[service.rank]


def count_standings(ranked: QuerySet) -> Counter[Standing]:
    """How many stand how, without a row being made of each. Expects ``with_standing()``."""
    return Counter(_WORST_FIRST[rank] for rank in ranked.order_by().values_list("rank", flat=True))


def with_standing(services: QuerySet) -> QuerySet:
    """Adds ``rank``, the place of its standing from the worst on.

    Two subqueries a row, whatever asks for them: a list of thousands is sorted by it, which the several columns of
    ``with_status()``, each inlined wherever it is named, are too slow for. Both say the same; a test holds them to it.
    """
    open_operations = Operation.objects.filter(service=OuterRef("pk"), state__in=OPEN_STATES)
    wanted = Q(wanted=Wanted.RUNNING, replaces=None)
    instances = (
        Instance.objects.filter(placement__service=OuterRef("pk"))
        .order_by()
        .values("placement__service")
        .annotate(
            want=Count("pk", filter=wanted),
            have=Count("pk", filter=wanted & Q(phase=Phase.RUNNING, ready=True)),
            lost=Count("pk", filter=wanted & Q(phase=Phase.LOST)),
            alive=Count("pk", filter=Q(phase__in=[Phase.STARTING, Phase.RUNNING])),
        )
    )
    found = instances.annotate(
        place=Case(
            _when(Standing.RUNNING, want__gt=0, have=F("want")),
            _when(Standing.PARTLY, have__gt=0),
            _when(Standing.UNREACHABLE, lost__gt=0),
            _when(Standing.NOT_RUNNING, want__gt=0),
            _when(Standing.LEFTOVER, alive__gt=0),
            default=Value(rank_of(Standing.STOPPED)),
            output_field=IntegerField(),
        )
    ).values("place")
    never = Value(rank_of(Standing.STOPPED))
    deploying = When(Exists(open_operations), then=Value(rank_of(Standing.DEPLOYING)))
    return services.annotate(
        rank=Case(deploying, default=Coalesce(Subquery(found), never), output_field=IntegerField())
    )


def _when(standing: Standing, **conditions: Any) -> When:
    return When(Q(**conditions), then=Value(rank_of(standing)))


def service_chip(service: Any) -> Chip:
    """Expects ``with_status()`` and ``with_standing()``."""
    standing = standing_of(service)
    ready = _("%(ready)d of %(wanted)d ready") % {"ready": service.ready_count, "wanted": service.wanted_count}
    looks = {
        Standing.DEPLOYING: (BUSY, "rocket_launch", ready),
        Standing.RUNNING: (GOOD, "check_circle", _("All %(n)d ready") % {"n": service.wanted_count}),
        Standing.PARTLY: (WARN, "incomplete_circle", ready),
        Standing.UNREACHABLE: (BAD, "cloud_off", _("A server it runs on does not answer")),
        Standing.LEFTOVER: (WARN, "running_with_errors", _("Stop was asked, and something still runs")),
        Standing.STOPPED: (QUIET, "stop_circle", _stopped_because(service)),
        Standing.NOT_RUNNING: (BAD, "error", _("Servers answer, the process is absent")),
    }
    role, icon, title = looks[standing]
    return Chip(str(standing.label), role, icon, title)


def _stopped_because(service: Service) -> str:
    if service.current_revision_id is None:
        return _("It has no deploy command yet")
    return _("Wanted so")


def instance_chip(instance: Instance) -> Chip:
    if instance.phase == Phase.RUNNING:
        if instance.ready:
            return Chip(_("Ready"), GOOD, "check_circle", _("Takes requests"))
        return Chip(_("Not ready"), WARN, "running_with_errors", instance.reason or _("Its probe fails"))
    return phase_chip(instance)


def phase_chip(instance: Any) -> Chip:
    """Of one of ours, or of one unknown to us; of what runs without looking at its readiness."""
    looks = {
        Phase.RUNNING: (GOOD, "check_circle", _("It runs")),
        Phase.PENDING: (QUIET, "hourglass_empty", _("Its turn comes")),
        Phase.STARTING: (BUSY, "progress_activity", _("Its probe has not passed yet")),
        Phase.STOPPING: (BUSY, "stop", _("Signalled; it has some seconds")),
        Phase.STOPPED: (QUIET, "stop_circle", _("As wanted")),
        Phase.SUCCEEDED: (QUIET, "task_alt", _exit_title(instance)),
        Phase.FAILED: (BAD, "error", _exit_title(instance)),
        Phase.LOST: (WARN, "link_off", instance.reason or _("Silent; it may still run")),
    }
    role, icon, title = looks[Phase(instance.phase)]
    return Chip(str(Phase(instance.phase).label), role, icon, title)


def _exit_title(instance: Any) -> str:
    code = getattr(instance, "shown_exit_code", None)
    return instance.reason if code is None else _("Exit %(code)s") % {"code": code}


def operation_chip(operation: Operation) -> Chip:
    looks = {
        OperationState.QUEUED: (QUIET, "schedule", _("Waits for a worker")),
        OperationState.RUNNING: (
            BUSY,
            "progress_activity",
            _("Begun %(ago)s") % {"ago": ago_text(operation.created_at)},
        ),
        OperationState.DONE: (GOOD, "task_alt", _("Everywhere")),
        OperationState.FAILED: (BAD, "error", operation.reason),
        OperationState.RETURNED: (WARN, "undo", operation.reason),
        OperationState.CANCELLED: (QUIET, "block", operation.reason),
    }
    role, icon, title = looks[OperationState(operation.state)]
    return Chip(str(OperationState(operation.state).label), role, icon, title)


def result_chip(result: OperationResult) -> Chip:
    looks = {
        ResultState.WAITING: (QUIET, "schedule"),
        ResultState.SENT: (BUSY, "progress_activity"),
        ResultState.DONE: (GOOD, "task_alt"),
        ResultState.FAILED: (BAD, "error"),
        ResultState.CANCELLED: (QUIET, "block"),
    }
    role, icon = looks[ResultState(result.state)]
    return Chip(str(ResultState(result.state).label), role, icon, result.reason)


def revision_chip(revision: Revision, service: Any) -> Chip | None:
    """What became of it; None when it was never deployed, or not long enough. Expects the service's trial loaded."""
    trial = getattr(service, "trial", None)
    if trial is not None and trial.revision_id == revision.pk:
        title = _("All is ready; good once it was so for %(n)d s without a break") % {"n": settings.STABLE_SECONDS}
        return Chip(_("On trial"), BUSY, "hourglass_top", title)
    if revision.outcome == Outcome.GOOD:
        return Chip(_("Good"), GOOD, "verified", _("All its instances were ready for long enough"))
    if revision.outcome == Outcome.BAD:
        return Chip(_("Failed"), BAD, "error", revision.outcome_reason)
    return None
