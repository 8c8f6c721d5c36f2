"""Writing many results at once: one prepared statement, since a run's host spends its time on little else."""

from collections.abc import Mapping
from typing import Any

from django.db import connection

from scheduler.models import RunResult


def write_results(rows: Mapping[int, Mapping[str, Any]]) -> None:
    """Write the named columns of the results with these ids. Caller holds the run's claim and a transaction."""
    by_columns: dict[tuple[str, ...], list[list[Any]]] = {}
    for result_id, values in rows.items():
        names = tuple(sorted(values))
        fields = [RunResult._meta.get_field(name) for name in names]
        prepared = [field.get_db_prep_save(values[field.name], connection) for field in fields]  # type: ignore[union-attr]
        by_columns.setdefault(names, []).append([*prepared, result_id])
    quoted = connection.ops.quote_name
    with connection.cursor() as cursor:
        for names, parameters in by_columns.items():
            columns = ", ".join(f"{quoted(name)} = %s" for name in names)
            statement = f"UPDATE {quoted(RunResult._meta.db_table)} SET {columns} WHERE {quoted('id')} = %s"  # noqa: S608
            cursor.executemany(statement, parameters)
