"""Saved commands, and the fleet jobs that come with the site as examples."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models.functions import Lower
from django.utils.translation import gettext_noop

from infini import events, records
from infini.errors import Invalid
from scheduler.models import SavedCommand
from scheduler.parameters import check_parameters, filled
from scheduler.planning import check_command

FILE = Path(__file__).parent / "data" / "jobs.json"
# What the examples say of themselves, for the catalogue: stored as it is there, and said in the reader's language.
EXAMPLE_WORDS = (
    gettext_noop("Fails where a file system is fuller than the limit, and names it."),
    gettext_noop("Accelerators with driver and runtime version. Servers with the same answer stand in one group."),
    gettext_noop("Fails where the clock is not kept by a time service, or is off by more than the limit."),
    gettext_noop("Which version of the Infini agent runs here; fails where none does."),
    gettext_noop(
        "Puts another agent in place without ending what it runs, also where this site has no agent of its own: as the "
        "agent's own account or root. Upgrade agent, in the menu of servers, does it for those the site knows."
    ),
    gettext_noop("Address or path of the new infini_agent.py"),
    gettext_noop("Its SHA-256"),
    gettext_noop("Port of the agent"),
    gettext_noop("Limit in percent"),
    gettext_noop("Limit in seconds"),
)


def settle(saved: SavedCommand) -> SavedCommand:
    """Check it and bring it into its one form; raises Invalid about every field at fault."""
    problems: dict[str, list[str]] = {}
    try:
        check_command(saved.command)
    except Invalid as error:
        problems |= error.fields
    try:
        saved.parameters = check_parameters(saved.parameters)
    except Invalid as error:
        problems["parameters"] = [text for texts in error.fields.values() for text in texts]
    if problems:
        name, texts = next(iter(problems.items()))
        raise Invalid(f"{name}: {texts[0]}", fields=problems)
    return saved


def create_command(saved: SavedCommand, *, by: events.Actor) -> SavedCommand:
    return records.create(settle(saved), by=by)


def change_command(
    saved: SavedCommand, columns: set[str], *, by: events.Actor, version: int | None = None
) -> SavedCommand:
    return records.change(settle(saved), columns, by=by, version=version)


def used(saved: SavedCommand, values: Mapping[str, str]) -> dict[str, Any]:
    """``command`` and ``environment`` of a task or run that uses ``saved`` with ``values`` for its parameters, the
    defaults for the others; raises Invalid where one is missing or not allowed.
    """
    return {"command": saved.command, "environment": filled(saved.parameters, values)}


def load_examples() -> int:
    """Make the examples of scheduler/data/jobs.json that are missing; returns how many. One that exists stays as people
    made it.
    """
    jobs: list[dict[str, Any]] = json.loads(FILE.read_text())
    with transaction.atomic():
        keys = set(SavedCommand.objects.exclude(key="").values_list("key", flat=True))
        names = set(SavedCommand.objects.annotate(folded=Lower("name")).values_list("folded", flat=True))
        fresh = [job for job in jobs if job["key"] not in keys and job["name"].lower() not in names]
        SavedCommand.objects.bulk_create(
            settle(SavedCommand(**job | {"command": "\n".join(job["command"])})) for job in fresh
        )
    return len(fresh)
