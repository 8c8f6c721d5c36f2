"""What an app adds to lists and pages of an app below it, so that imports keep pointing one way; tabs: ``infini.tabs``.

A page is named by its model's label, ``inventory.server``.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from infini.csv_export import CsvColumn

Part = tuple[str, dict[str, Any]]  # a template and its context


@dataclass(frozen=True)
class Column:
    """A column of a list: ``annotate`` adds what ``show`` reads, so that rows cost no queries of their own.

    ``annotate`` is given the rows and who looks at them. ``csv`` is what of it goes into the list's file. It stands
    before the list's own column ``before``, else last.
    """

    annotate: Callable[[QuerySet, Any], QuerySet]
    show: Callable[[Any], Any]
    csv: Sequence[CsvColumn] = ()
    before: str = ""


_columns: dict[str, list[Column]] = defaultdict(list)
_filters: dict[str, list[type]] = defaultdict(list)
_verbs: dict[str, list[Any]] = defaultdict(list)


def add_column(page: str, column: Column) -> None:
    if column not in _columns[page]:
        _columns[page].append(column)


def columns(page: str) -> list[Column]:
    return list(_columns[page])


def with_columns(page: str, own: Sequence[Any]) -> list[Any]:
    """A list's own columns with those of other apps among them."""
    shown = list(own)
    for column in _columns[page]:
        shown.insert(shown.index(column.before) if column.before in shown else len(shown), column.show)
    return shown


def add_filter(page: str, list_filter: type) -> None:
    """A filter of a list, as Django's admin takes it."""
    if list_filter not in _filters[page]:
        _filters[page].append(list_filter)


def filters(page: str) -> list[type]:
    return list(_filters[page])


def add_verb(page: str, verb: Any) -> None:
    """A Verb (``infini.admin_verbs``) of a list and its rows' pages."""
    if all(verb.name != known.name for known in _verbs[page]):
        _verbs[page].append(verb)


def verbs(page: str) -> list[Any]:
    return list(_verbs[page])
