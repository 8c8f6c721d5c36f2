"""``/admin/inventory/server/import/``: paste or choose a file, look at what each line would do, then do it."""

import csv
from collections import Counter
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods

from infini.display import BAD, BUSY, GOOD, QUIET, WARN, Chip
from infini.errors import InfiniError, Invalid
from inventory.imports.lines import Line, Verdict, judge, write
from inventory.imports.table import COLUMNS, MAX_BYTES, Table, guess_columns, read_table
from inventory.models import Server

NEEDS = ("inventory.add_server", "inventory.change_server")
_LOOKS = {
    Verdict.NEW: (GOOD, "add_circle"),
    Verdict.CHANGE: (BUSY, "edit"),
    Verdict.SAME: (QUIET, "check"),
    Verdict.DUPLICATE: (WARN, "content_copy"),
    Verdict.ERROR: (BAD, "error"),
}
_EXAMPLE = "name,address,account,environment,labels\ngpu-01,10.0.0.11,root,production,rack=a1;zone=b\n"


@require_http_methods(["GET", "POST"])
@login_required
def import_page(request: HttpRequest) -> HttpResponse:
    missing = [need for need in NEEDS if not request.user.has_perm(need)]
    if missing:
        context = {**_frame(request), "forbidden": ", ".join(missing)}
        return render(request, "pages/import.html", context, status=403)
    if request.method == "GET":
        return _page(request, {"text": ""})
    try:
        return _posted(request)
    except InfiniError as error:
        return _page(request, {"text": request.POST.get("text", ""), "error": error.message}, status=error.http_status)


def _posted(request: HttpRequest) -> HttpResponse:
    text = _text(request)
    table = read_table(text)
    columns = request.POST.getlist("columns") or guess_columns(table)
    by: Any = request.user
    lines = judge(table, columns, by=by)
    if "errors" in request.POST:
        return _errors_as_csv(table, lines)
    if "write" in request.POST:
        done = write(lines, by=by)
        added, changed = done[Verdict.NEW], done[Verdict.CHANGE]
        messages.success(request, _("Servers added: %(a)d, changed: %(c)d.") % {"a": added, "c": changed})
        return redirect("admin:inventory_server_changelist")
    return _page(request, {"text": text, **_preview(table, columns, lines)})


def _text(request: HttpRequest) -> str:
    file: Any = request.FILES.get("file")
    if file is None:
        return request.POST.get("text", "")
    if file.size > MAX_BYTES:
        raise Invalid(_("The file is larger than %(n)s KiB.") % {"n": MAX_BYTES // 1024})
    raw = file.read()
    for encoding in ("utf-8-sig", "gb18030"):  # what spreadsheets in China write when they do not write UTF-8
        try:
            return str(raw.decode(encoding))
        except UnicodeDecodeError:
            continue
    raise Invalid(_("The file is no text in UTF-8."))


def _preview(table: Table, columns: list[str], lines: list[Line]) -> dict[str, Any]:
    counts = Counter(line.verdict for line in lines)
    titles = table.titles or [_("Column %(n)d") % {"n": n + 1} for n in range(table.width)]
    fields = [(column, _field_name(column)) for column in COLUMNS]
    return {
        "lines": [(line, _chip(line), _says(line)) for line in lines],
        "mapping": list(zip(titles, columns, strict=False)),
        "fields": fields,
        "counts": [(count, Verdict(verdict).label) for verdict, count in sorted(counts.items())],
        "button": _button(counts),
        "has_errors": bool(counts[Verdict.ERROR] or counts[Verdict.DUPLICATE]),
    }


def _field_name(column: str) -> str:
    return str(Server._meta.get_field(column).verbose_name)  # type: ignore[union-attr]


def _chip(line: Line) -> Chip:
    role, icon = _LOOKS[line.verdict]
    return Chip(str(line.verdict.label), role, icon)


def _says(line: Line) -> str:
    if line.problems:
        return " ".join(line.problems)
    return ", ".join(_field_name(name) for name in line.changes)


def _button(counts: Counter[Verdict]) -> str:
    """Repeats verb and number; empty when there is nothing to do."""
    added, changed = counts[Verdict.NEW], counts[Verdict.CHANGE]
    parts = []
    if added:
        parts.append(ngettext("Add %(n)d server", "Add %(n)d servers", added) % {"n": added})
    if changed:
        parts.append(ngettext("change %(n)d", "change %(n)d", changed) % {"n": changed})
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]


def _errors_as_csv(table: Table, lines: list[Line]) -> HttpResponse:
    """The lines that were left out as they came, with why; to mend and to bring again."""
    why = {line.number: " ".join(line.problems) for line in lines if line.problems}
    response = HttpResponse(content_type="text/csv; charset=utf-8", headers={"Cache-Control": "no-store"})
    response["Content-Disposition"] = 'attachment; filename="servers-not-read.csv"'
    response.write("\ufeff")
    writer = csv.writer(response)
    if table.titles:
        writer.writerow([*table.titles, "problem"])
    for number, cells in table.rows:
        if number in why:
            writer.writerow([*(cells + [""] * (table.width - len(cells))), why[number]])
    return response


def _page(request: HttpRequest, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    response = render(request, "pages/import.html", {**_frame(request), **context}, status=status)
    response["Cache-Control"] = "no-store"  # pasted lines may hold passwords
    return response


def _frame(request: HttpRequest) -> dict[str, Any]:
    return {
        **admin.site.each_context(request),
        "title": _("Add many servers"),
        "example": _EXAMPLE,
        "list_url": reverse("admin:inventory_server_changelist"),
    }
