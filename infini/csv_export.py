"""Lists as CSV files: UTF-8 with a byte order mark, raw numbers, ISO times, names no spreadsheet takes for formulas.

A list's admin names its ``csv_columns``; what is not named there never leaves, so secrets cannot.
"""

import csv
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import reduce
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse

BOM = "\ufeff"
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class CsvColumn:
    """``name`` is the API's word for it, whatever the language of the page; ``value`` reads a row."""

    name: str
    value: Callable[[Any], Any]


def attributes(*paths: str) -> list[CsvColumn]:
    """Columns that are attributes of the row; ``environment.name`` is called ``environment``; None on the way stays."""
    return [CsvColumn(path.partition(".")[0], _reader(path)) for path in paths]


def _reader(path: str) -> Callable[[Any], Any]:
    names = path.split(".")
    return lambda row: reduce(lambda value, name: None if value is None else getattr(value, name), names, row)


def csv_response(
    request: HttpRequest, filename: str, columns: Sequence[CsvColumn], rows: Iterable[Any], *, mark: bool = True
) -> StreamingHttpResponse:
    """A download written as it is read. ``mark`` begins it with the mark by which spreadsheets know UTF-8."""
    lines = _lines(columns, rows, mark)
    content = _off_the_loop(lines) if isinstance(request, ASGIRequest) else lines
    response = StreamingHttpResponse(content, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{filename}"'
    response["Cache-Control"] = "no-store"
    return response


def rows_of(queryset: QuerySet) -> Iterable[Any]:
    """One query, read as it is written; with prefetches all at once, as each piece would repeat them."""
    return queryset if queryset._prefetch_related_lookups else queryset.iterator(chunk_size=ROWS_AT_ONCE)  # type: ignore[attr-defined]


class _Line:
    def write(self, text: str) -> str:
        return text


def _lines(columns: Sequence[CsvColumn], rows: Iterable[Any], mark: bool) -> Iterator[str]:
    writer = csv.writer(_Line())
    yield (BOM if mark else "") + writer.writerow([column.name for column in columns])
    for row in rows:
        yield writer.writerow([cell(column.value(row)) for column in columns])


async def _off_the_loop(lines: Iterator[str]) -> AsyncIterator[str]:
    """The server's loop goes on while the database is read."""

    def piece() -> str:
        return "".join(islice(lines, ROWS_AT_ONCE))

    while text := await sync_to_async(piece)():
        yield text


def cell(value: Any) -> Any:
    """As a file keeps it: nothing for None, times in UTC, JSON for what has parts, no text that begins a formula."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if value is None or isinstance(value, int | float):
        return value
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
