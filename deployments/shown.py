"""How services, instances and operations are shown: one vocabulary for lists, pages and the overview."""

from collections import Counter
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Case, Count, Exists, F, IntegerField, OuterRef, Q, QuerySet, Subquery, Value, When
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from deployments.models import Instance, Operation, OperationResult, Placement, Revision, Service
from deployments.phases import OPEN_STATES, OperationState, Outcome, Phase, ResultState, Wanted
from deployments.probes import STARTUP_SECONDS
from infini.counting import count_of
from infini.display import ABSENT, BAD, BUSY, GOOD, QUIET, WARN, Bar, Chip, clock
from infini.said import said


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
FAILING = (Phase.FAILED, Phase.LOST)
WORST_FIRST = (*WRONG, Standing.DEPLOYING, Standing.RUNNING, Standing.STOPPED)


def rank_of(standing: Standing) -> int:
    return WORST_FIRST.index(standing)


def standing_of(service: Any) -> Standing:
    """Expects ``with_standing()``."""
    return WORST_FIRST[service.rank]


def count_standings(ranked: QuerySet) -> Counter[Standing]:
    """How many stand how, without a row being made of each. Expects ``with_standing()``."""
    return Counter(WORST_FIRST[rank] for rank in ranked.order_by().values_list("rank", flat=True))


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


_LOOKS = {
    Standing.DEPLOYING: (BUSY, "rocket_launch"),
    Standing.RUNNING: (GOOD, "check_circle"),
    Standing.PARTLY: (WARN, "incomplete_circle"),
    Standing.UNREACHABLE: (BAD, "cloud_off"),
    Standing.LEFTOVER: (WARN, "running_with_errors"),
    Standing.STOPPED: (QUIET, "stop_circle"),
    Standing.NOT_RUNNING: (BAD, "error"),
}


def standing_chip(standing: Standing, title: str = "") -> Chip:
    role, icon = _LOOKS[standing]
    return Chip(str(standing.label), role, icon, title)


def service_chip(service: Any) -> Chip:
    """Expects ``with_status()`` and ``with_standing()``."""
    standing = standing_of(service)
    ready = _("%(ready)d of %(wanted)d ready") % {"ready": service.ready_count, "wanted": service.wanted_count}
    titles = {
        Standing.DEPLOYING: ready,
        Standing.RUNNING: _("All %(n)d ready") % {"n": service.wanted_count},
        Standing.PARTLY: ready,
        Standing.UNREACHABLE: _unreachable_because(service),
        Standing.LEFTOVER: _("Stop was asked, and something still runs"),
        Standing.STOPPED: _stopped_because(service),
        Standing.NOT_RUNNING: _("Servers answer, the process is absent"),
    }
    return standing_chip(standing, titles[standing])


def with_rollout(services: QuerySet) -> QuerySet:
    """Adds ``rollout_all`` and ``rollout_done`` of the open operation; None without one."""
    operations = with_progress(Operation.objects.filter(service=OuterRef("pk"), state__in=OPEN_STATES).order_by())
    return services.annotate(
        rollout_all=Subquery(operations.values("result_count")[:1]),
        rollout_done=Subquery(operations.values("done_count")[:1]),
    )


def rollout_bar(service: Any) -> Bar | None:
    """Expects ``with_rollout()``."""
    if not service.rollout_all:
        return None
    label = _("%(done)d of %(all)d done") % {"done": service.rollout_done, "all": service.rollout_all}
    return Bar(label, 100 * service.rollout_done / service.rollout_all, limits=(101.0, 101.0))


def with_silent_server(services: QuerySet) -> QuerySet:
    """Adds ``silent_server`` and ``silent_since``: the first server whose instance is lost, and when it last spoke."""
    lost = Instance.objects.filter(placement__service=OuterRef("pk"), wanted=Wanted.RUNNING, phase=Phase.LOST)
    first = lost.order_by("placement__server__name")
    return services.annotate(
        silent_server=Subquery(first.values("placement__server__name")[:1]),
        silent_since=Subquery(first.values("placement__server__agent_seen_at")[:1]),
    )


def _unreachable_because(service: Any) -> str:
    """Names the server after ``with_silent_server()``."""
    server, since = getattr(service, "silent_server", None), getattr(service, "silent_since", None)
    if not server or not since:
        return _("A server it runs on does not answer")
    return _("%(server)s is silent since %(at)s") % {"server": server, "at": clock(since)}


def _stopped_because(service: Service) -> str:
    if service.current_revision_id is None:
        return _("It has no deploy command yet")
    return _("Wanted so")


def failing(instances: QuerySet[Instance]) -> QuerySet[Instance]:
    """Those of them that are wanted and failed, or are not heard from."""
    return instances.filter(wanted=Wanted.RUNNING, phase__in=FAILING)


def has_failed(instance: Instance) -> bool:
    return instance.phase in FAILING


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
        Phase.STARTING: (BUSY, "progress_activity", _starting_title(instance)),
        Phase.STOPPING: (BUSY, "stop", _("Signalled; it has some seconds")),
        Phase.STOPPED: (QUIET, "stop_circle", _("As wanted")),
        Phase.SUCCEEDED: (QUIET, "task_alt", _exit_title(instance)),
        Phase.FAILED: (BAD, "error", _exit_title(instance)),
        Phase.LOST: (WARN, "link_off", _silent_title(instance)),
    }
    role, icon, title = looks[Phase(instance.phase)]
    return Chip(str(Phase(instance.phase).label), role, icon, title)


def _starting_title(instance: Any) -> str:
    """With the time its probe has left, where its revision is at hand."""
    if not isinstance(instance, Instance) or not Instance.revision.is_cached(instance) or not instance.started_at:
        return _("Its probe has not passed yet")
    allowed = instance.revision.probes.get("startup_seconds") or STARTUP_SECONDS
    left = allowed - (timezone.now() - instance.started_at).total_seconds()
    if left <= 0:
        return _("Its probe has not passed yet, and its time is over")
    if left < 60:
        return _("Its probe has not passed yet; %(n)d s left") % {"n": left}
    return _("Its probe has not passed yet; %(n)d min left") % {"n": left // 60}


def _exit_title(instance: Any) -> str:
    code, at = getattr(instance, "shown_exit_code", None), getattr(instance, "observed_at", None)
    if code is None:
        return instance.reason
    if at is None:
        return _("Exit %(code)s") % {"code": code}
    return _("Exit %(code)s at %(at)s") % {"code": code, "at": clock(at)}


def _silent_title(instance: Any) -> str:
    """Since when, where its server is at hand."""
    at_hand = isinstance(instance, Instance) and Instance.placement.is_cached(instance)
    if not at_hand or not Placement.server.is_cached(instance.placement):
        return instance.reason or _("Silent; it may still run")
    seen = instance.placement.server.agent_seen_at
    since = clock(seen) if seen else ABSENT
    return _("Silent since %(at)s; it may still run; its devices stay reserved") % {"at": since}


def with_progress(operations: QuerySet) -> QuerySet:
    """Adds ``result_count``, ``done_count`` and ``failed_count``: on how many instances, and how far."""
    results = OperationResult.objects.all()
    return operations.annotate(
        result_count=count_of(results, "operation"),
        done_count=count_of(results.filter(state=ResultState.DONE), "operation"),
        failed_count=count_of(results.filter(state=ResultState.FAILED), "operation"),
    )


def operation_chip(operation: Any) -> Chip:
    """Expects ``with_progress()``."""
    told = {
        "done": operation.done_count,
        "failed": operation.failed_count,
        "all": operation.result_count,
        "at": clock(operation.finished_at) if operation.finished_at else ABSENT,
        "reason": said(operation.reason),
    }
    looks = {
        OperationState.QUEUED: (QUIET, "schedule", _("Waits for a worker")),
        OperationState.RUNNING: (BUSY, "progress_activity", _("%(done)d of %(all)d done") % told),
        OperationState.DONE: (GOOD, "task_alt", _("All %(all)d, at %(at)s") % told),
        OperationState.FAILED: (BAD, "error", (_("%(failed)d of %(all)d failed. %(reason)s") % told).strip()),
        OperationState.RETURNED: (WARN, "undo", operation.reason),
        OperationState.CANCELLED: (QUIET, "block", (_("At %(at)s. %(reason)s") % told).strip()),
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
