"""Writing many rows with one statement, whatever their number: the rows travel as one JSON parameter.

Django's own bulk methods take a parameter for each value and split at 999 of them on SQLite, so that their number of
statements grows with the rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from django.db import connections, models, router
from django.db.models import AutoField, Field, JSONField

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
    first, *others = _values(connection, [*_fields(model, ["pk"]), *columns, *conditions])
    sets = [f"{name} = {value}" for name, value in zip(_names(connection, columns), others, strict=False)]
    tests = [f"{table}.{key} = {first}"]
    tests += [
        f"{table}.{name} {_is(connection)} {value}"
        for name, value in zip(_names(connection, conditions), others[len(sets) :], strict=True)
    ]
    sql = (
        f"UPDATE {table} SET {', '.join(sets)} FROM {_lines(connection)} "  # noqa: S608
        f"WHERE {' AND '.join(tests)} RETURNING {table}.{key}"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [json.dumps(rows, default=str)])
        return {row[0] for row in cursor.fetchall()}


def insert(rows: Sequence[M]) -> None:
    """Insert these rows of one model in one statement; their ids are not read back. One that is already there, by
    any of the model's unique constraints, is left as it is."""
    if not rows:
        return
    model = type(rows[0])
    connection = connections[router.db_for_write(model)]
    columns: list[Field] = [f for f in model._meta.concrete_fields if not isinstance(f, AutoField)]
    lines = [[_prepared(connection, f, f.value_from_object(row)) for f in columns] for row in rows]
    table, names = connection.ops.quote_name(model._meta.db_table), _names(connection, columns)
    sql = (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(_values(connection, columns))} "  # noqa: S608
        f"FROM {_lines(connection)} WHERE true ON CONFLICT DO NOTHING"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [json.dumps(lines, default=str)])


def _fields(model: type[models.Model], names: Iterable[str]) -> list[Field]:
    return [model._meta.pk if name == "pk" else model._meta.get_field(name) for name in names]  # type: ignore[misc]


def _names(connection: Any, fields: Iterable[Field]) -> list[str]:
    """Their columns, quoted."""
    return [connection.ops.quote_name(field.column) for field in fields]


def _stored(connection: Any, columns: Iterable[Field], values: Mapping[str, Any]) -> list[Any]:
    return [_prepared(connection, column, values[column.name]) for column in columns]


def _prepared(connection: Any, field: Field, value: Any) -> Any:
    """As it travels: on SQLite times and JSON are text in the table too, on PostgreSQL JSON is part of the line."""
    if connection.vendor == "postgresql" and isinstance(field, JSONField):
        return value
    return field.get_db_prep_save(value, connection)


def _lines(connection: Any) -> str:
    """The parameter as a table ``line`` of one column ``value``, a row's values as a list."""
    if connection.vendor == "postgresql":
        return "jsonb_array_elements(CAST(%s AS jsonb)) AS line(value)"
    return "json_each(%s) AS line"


def _values(connection: Any, columns: Iterable[Field]) -> list[str]:
    """Each of a line's values, as these columns take it."""
    if connection.vendor != "postgresql":
        return [f"json_extract(line.value, '$[{n}]')" for n, _ in enumerate(columns)]
    return [
        f"NULLIF(line.value -> {n}, 'null'::jsonb)"
        if isinstance(column, JSONField)
        else f"CAST(line.value ->> {n} AS {column.db_type(connection)})"
        for n, column in enumerate(columns)
    ]


def _is(connection: Any) -> str:
    """Equal, or both null."""
    return "IS NOT DISTINCT FROM" if connection.vendor == "postgresql" else "IS"
