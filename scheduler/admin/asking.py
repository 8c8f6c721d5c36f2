"""What is asked before a command goes to many servers: their number, typed (ui.md, section 5)."""

from collections.abc import Sequence
from typing import Any

from django.utils.translation import ngettext

from infini.confirmation import Word, typed_count
from infini.errors import InfiniError
from scheduler import targets
from scheduler.models import RunResult
from scheduler.states import BAD_RESULTS

MANY_SERVERS = 50  # from so many on a command takes their number


def word_for(servers: int) -> Word | None:
    return typed_count(servers) if servers >= MANY_SERVERS else None


def reach_of_tasks(tasks: Sequence[Any]) -> int:
    """On how many servers these tasks would run now, one that several reach counted for each."""
    return sum(_count(targets.aims_of(task)) for task in tasks)


def reach_of_draft(named: Sequence[int], selector: str) -> int:
    """The same of a command that is being written; 0 while it cannot be told, which sending it then says."""
    try:
        return _count(targets.aims(named, selector))
    except InfiniError:
        return 0


def reach_of_retries(runs: Sequence[Any]) -> int:
    """On how many servers retrying what failed in these runs would run."""
    return RunResult.objects.filter(run__in=runs, state__in=BAD_RESULTS).exclude(server=None).count()


def _count(aims: Sequence[targets.Aim]) -> int:
    return sum(aim.server_id is not None for aim in aims)


def word_to_run(tasks: Sequence[Any]) -> Word | None:
    return word_for(reach_of_tasks(tasks))


def word_to_retry(runs: Sequence[Any]) -> Word | None:
    return word_for(reach_of_retries(runs))


def effect_of_running(tasks: Sequence[Any]) -> str:
    servers = reach_of_tasks(tasks)
    said = ngettext(
        "The command is run on %(n)d server, at once and whatever its schedule.",
        "The command is run on %(n)d servers, at once and whatever its schedule.",
        servers,
    )
    return said % {"n": servers}


def effect_of_retrying(runs: Sequence[Any]) -> str:
    servers = reach_of_retries(runs)
    said = ngettext(
        "The same command runs again on %(n)d server, where it failed, timed out or lost contact.",
        "The same command runs again on %(n)d servers, where it failed, timed out or lost contact.",
        servers,
    )
    return said % {"n": servers}


def effect_of_once(servers: int) -> str:
    said = ngettext("The command is run on %(n)d server, now.", "The command is run on %(n)d servers, now.", servers)
    return said % {"n": servers}
