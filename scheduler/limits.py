"""Which tasks and runs lie within some environments (infini/visibility.py): those all of whose servers do."""

from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from infini import visibility
from infini.errors import InfiniError, Invalid
from infini.visibility import Environments
from inventory.models import Environment
from scheduler.models import Run, RunResult, Target, Task
from scheduler.targets import read_selector


def _stays_within(selector: str, names: set[str]) -> bool:
    """Whether whatever the selector will fit lies within the environments of these names: it says which it is for."""
    try:
        terms = read_selector(selector)
    except InfiniError:
        return False
    return any(term.name == "environment" and not term.negated and term.text in names for term in terms)


def _tasks(rows: QuerySet[Task], environments: Environments) -> QuerySet[Task]:
    """Two more queries: selectors are read here, not by the database."""
    names = set(Environment.objects.filter(pk__in=environments).values_list("name", flat=True))
    selecting = Task.objects.order_by().exclude(selector="").values_list("pk", "selector")
    kept = [pk for pk, selector in selecting if _stays_within(selector, names)]
    named = Target.objects.filter(task=OuterRef("pk"), server__isnull=False)
    outside = named.exclude(server__environment__in=environments)
    return rows.filter(~Exists(outside), Q(pk__in=kept) | (Q(selector="") & Exists(named)))


def _runs(rows: QuerySet[Run], environments: Environments) -> QuerySet[Run]:
    """One that reached no server at all goes with its task."""
    results = RunResult.objects.filter(run=OuterRef("pk"))
    outside = results.exclude(server__environment__in=environments)
    tasks = _tasks(Task.objects.order_by(), environments).values("pk")
    return rows.filter(~Exists(outside), Exists(results) | Q(task__in=tasks))


def refuse_wide_selector(selector: str, *, by: Any) -> None:
    """Raises Invalid when ``by`` is limited and the selector might fit servers he does not see."""
    limits = visibility.limits_of(by)
    if limits is None or not selector.strip():
        return
    names = set(Environment.objects.filter(pk__in=limits).values_list("name", flat=True))
    if not _stays_within(selector, names):
        text = _("You are limited to some environments: name one, as %(example)s.") % {
            "example": ", ".join(f"environment={name}" for name in sorted(names))
        }
        raise Invalid(text, fields={"selector": [text]}, code="out_of_sight")


def register() -> None:
    visibility.register("scheduler.task", _tasks, told_of=True)
    visibility.register("scheduler.run", _runs, told_of=True)
