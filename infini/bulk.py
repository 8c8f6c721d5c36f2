"""Writing many rows with one statement, whatever their number: the rows travel as one JSON parameter.

Django's own bulk methods take a parameter for each value and split at 999 of them on SQLite, so that their number of
statements grows with the rows. PostgreSQL is not there yet: it has ``jsonb_to_recordset`` for the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import connections, models, router
from django.db.models import AutoField, Field

M = TypeVar("M", bound=models.Model)


@dataclass(frozen=True)
class Change:
    """New ``values`` for the row ``pk``, written only while the columns of ``known`` hold what is said there."""

    pk: int
    values: Mapping[str, Any]
    known: Mapping[str, Any] = field(default_factory=dict)


def update(model: type[models.Model], changes: Iterable[Change]) -> set[int]:
    """Write ``changes`` in one statement; returns the ids of the rows written.

    All changes name the same columns. Rows that are gone, or whose known columns hold something else, are passed over:
    somebody else won.
    """
    todo = list(changes)
    if not todo:
        return set()
    values, known = list(todo[0].values), list(todo[0].known)
    if any(list(c.values) != values or list(c.known) != known for c in todo):
        raise ValueError("All changes of one statement name the same columns, in the same order.")
    connection = connections[router.db_for_write(model)]
    columns, conditions = _fields(model, values), _fields(model, known)
    rows = [
        [change.pk, *_stored(connection, columns, change.values), *_stored(connection, conditions, change.known)]
        for change in todo
    ]
    # What stands in the text are the model's own names; all values are in the parameter.
    table, [key] = connection.ops.quote_name(model._meta.db_table), _names(connection, _fields(model, ["pk"]))
    sets = [f"{name} = {_value(n)}" for n, name in enumerate(_names(connection, columns), 1)]
    tests = [f"{table}.{key} = {_value(0)}"]
    tests += [f"{table}.{name} IS {_value(n)}" for n, name in enumerate(_names(connection, conditions), 1 + len(sets))]
    sql = f"UPDATE {table} SET {', '.join(sets)} FROM json_each(%s) AS line WHERE {' AND '.join(tests)} RETURNING {key}"
    with connection.cursor() as cursor:
        cursor.execute(sql, [json.dumps(rows)])
        return {row[0] for row in cursor.fetchall()}


def insert(rows: Sequence[M]) -> None:
    """Insert these rows of one model in one statement; their ids are not read back. One that is already there, by
    any of the model's unique constraints, is left as it is."""
    if not rows:
        return
    model = type(rows[0])
    connection = connections[router.db_for_write(model)]
    columns: list[Field] = [f for f in model._meta.concrete_fields if not isinstance(f, AutoField)]
    lines = [[f.get_db_prep_save(f.value_from_object(row), connection) for f in columns] for row in rows]
    table, names = connection.ops.quote_name(model._meta.db_table), _names(connection, columns)
    values = [_value(n) for n in range(len(names))]
    sql = (
        f"INSERT INTO {table} ({', '.join(names)}) "
        f"SELECT {', '.join(values)} FROM json_each(%s) AS line WHERE true ON CONFLICT DO NOTHING"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [json.dumps(lines)])


def _fields(model: type[models.Model], names: Iterable[str]) -> list[Field]:
    return [model._meta.pk if name == "pk" else model._meta.get_field(name) for name in names]  # type: ignore[misc]


def _names(connection: Any, fields: Iterable[Field]) -> list[str]:
    """Their columns, quoted."""
    return [connection.ops.quote_name(field.column) for field in fields]


def _stored(connection: Any, columns: Iterable[Field], values: Mapping[str, Any]) -> list[Any]:
    """As the database keeps them: times and JSON as text."""
    return [column.get_db_prep_save(values[column.name], connection) for column in columns]


def _value(place: int) -> str:
    return f"json_extract(line.value, '$[{place}]')"
