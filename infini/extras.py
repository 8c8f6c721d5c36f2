"""What an app adds to pages of an app below it, so that imports keep pointing one way.

A page is named by its model's label, ``inventory.server``.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import Model, QuerySet
from django.http import HttpRequest

from infini.csv_export import CsvColumn

Part = tuple[str, dict[str, Any]]  # a template and its context
MakePart = Callable[[HttpRequest, Model], Part | None]


@dataclass(frozen=True)
class Column:
    """A column of a list: ``annotate`` adds what ``show`` reads, so that rows cost no queries of their own.

    ``annotate`` is given the rows and who looks at them. ``csv`` is what of it goes into the list's file.
    """

    annotate: Callable[[QuerySet, Any], QuerySet]
    show: Callable[[Any], Any]
    csv: Sequence[CsvColumn] = ()


_parts: dict[str, list[MakePart]] = defaultdict(list)
_columns: dict[str, list[Column]] = defaultdict(list)
_filters: dict[str, list[type]] = defaultdict(list)


def add_part(page: str, make: MakePart) -> None:
    if make not in _parts[page]:
        _parts[page].append(make)


def add_column(page: str, column: Column) -> None:
    if column not in _columns[page]:
        _columns[page].append(column)


def parts(page: str, request: HttpRequest, row: Model) -> list[Part]:
    """The parts other apps show on the page of ``row``; None of them when its viewer may not see it."""
    made = [make(request, row) for make in _parts[page]]
    return [part for part in made if part is not None]


def columns(page: str) -> list[Column]:
    return list(_columns[page])


def add_filter(page: str, list_filter: type) -> None:
    """A filter of a list, as Django's admin takes it."""
    if list_filter not in _filters[page]:
        _filters[page].append(list_filter)


def filters(page: str) -> list[type]:
    return list(_filters[page])
