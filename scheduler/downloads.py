"""Output as files."""

from collections.abc import Iterator
from typing import TypeVar

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.text import slugify

from infini.csv_export import CsvColumn, attributes, csv_response
from scheduler.models import Run, RunResult

PIECE = 20  # results in memory at once
R = TypeVar("R", bound=HttpResponseBase)
# The API's words (scheduler/serializers.py).
RESULT_COLUMNS = [
    *attributes("server_id"),
    CsvColumn("server", lambda row: row.server_name),
    *attributes("host", "state", "exit_status", "reason", "attempt", "started_at", "finished_at"),
    CsvColumn("truncated", lambda row: bool(row.output_cut or row.error_cut)),
    *attributes("output", "error"),
]


def whole_run(run: Run) -> StreamingHttpResponse:
    """The output of all servers, one after the other, each under its name."""
    response = StreamingHttpResponse(_pieces(run), content_type="text/plain; charset=utf-8")
    return _attached(response, f"{slugify(run.name) or 'run'}-{run.pk}.txt")


def results_csv(request: HttpRequest, run: Run, results: QuerySet[RunResult]) -> StreamingHttpResponse:
    """``results`` of ``run``, a server a line, with what each printed."""
    return csv_response(request, f"{slugify(run.name) or 'run'}-{run.pk}.csv", RESULT_COLUMNS, _by_piece(results))


def _pieces(run: Run) -> Iterator[str]:
    for row in _by_piece(run.results.all()):
        status = "" if row.exit_status is None else f", exit {row.exit_status}"
        yield f"==> {row.server_name} ({row.state}{status}) {row.reason}".rstrip() + "\n"
        yield "".join(f"{text}\n" if not text.endswith("\n") else text for text in (row.output, row.error) if text)


def _by_piece(results: QuerySet[RunResult]) -> Iterator[RunResult]:
    """Page by page: a cursor held open would keep the database's log from shrinking while a browser is slow."""
    after = 0
    while True:
        rows = list(results.filter(pk__gt=after).defer("raw").order_by("pk")[:PIECE])
        yield from rows
        if len(rows) < PIECE:
            return
        after = rows[-1].pk


def one_result(run: Run, result: RunResult) -> HttpResponse:
    """One server's output: bytes as they came where they are no text."""
    name = f"{slugify(run.name) or 'run'}-{run.pk}-{slugify(result.server_name) or result.pk}"
    if result.raw is not None:
        response = HttpResponse(bytes(result.raw), content_type="application/octet-stream")
        return _attached(response, f"{name}.bin")
    text = result.output + (f"\n--- error output ---\n{result.error}" if result.error else "")
    return _attached(HttpResponse(text, content_type="text/plain; charset=utf-8"), f"{name}.txt")


def _attached(response: R, name: str) -> R:
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response
