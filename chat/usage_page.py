"""The page of usage: what was asked of which model, by whom, day by day."""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from chat import usage
from chat.gateway_api import as_csv, period_of
from chat.models import Usage
from chat.usage import SEE_ALL
from infini.errors import Invalid
from infini.visibility import visible

LAST_REQUESTS = 25
ROWS_SHOWN = 100
_PERIODS = (7, 30, 90)


@require_safe
@login_required
def usage_page(request: HttpRequest) -> HttpResponseBase:
    """Sums, a chart of days, tables and the last requests; with ``csv`` one table as a file. Own usage, or all."""
    problem = ""
    try:
        group, first, last = period_of(request.GET)
    except Invalid as error:
        problem = error.message
        group, first, last = period_of({})
    see_all = request.user.has_perm(SEE_ALL)
    user_id = None if see_all else request.user.pk
    rows = usage.summed_by(group, first=first, last=last, user_id=user_id, viewer=request.user)
    if "csv" in request.GET and not problem:
        return as_csv(request, group, rows, f"usage-by-{group}-{first}-{last}.csv", mark=True)
    days = usage.summed_by("day", first=first, last=last, user_id=user_id, viewer=request.user)
    context = {
        **admin.site.each_context(request),
        "title": _("Usage"),
        "problem": problem,
        "see_all": see_all,
        "group": group,
        "groups": _groups(group, first, last, see_all),
        "periods": _periods(group, first, last),
        "first": first,
        "last": last,
        "csv_url": "?" + urlencode({"by": group, "from": first, "to": last, "csv": 1}),
        "totals": _totals(days),
        "chart": _chart(days, first, last),
        "rows": _with_shares(rows[:ROWS_SHOWN], group),
        "more": max(0, len(rows) - ROWS_SHOWN),
        "requests": _last_requests(user_id, request.user),
        "shared": bool(settings.REDIS_URL),
    }
    return render(request, "pages/usage.html", context, status=400 if problem else 200)


def _groups(group: str, first: Any, last: Any, see_all: bool) -> list[dict[str, Any]]:
    words = {"model": _("Model"), "service": _("Service"), "key": _("Key"), "user": _("User"), "day": _("Day")}
    shown = [name for name in words if see_all or name != "user"]
    return [
        {"word": words[name], "url": "?" + urlencode({"by": name, "from": first, "to": last}), "now": name == group}
        for name in shown
    ]


def _periods(group: str, first: Any, last: Any) -> list[dict[str, Any]]:
    return [
        {
            "word": _("%(n)d days") % {"n": days},
            "now": last - first == timedelta(days=days - 1),
            "url": "?" + urlencode({"by": group, "from": last - timedelta(days=days - 1), "to": last}),
        }
        for days in _PERIODS
    ]


def _totals(days: list[dict[str, Any]]) -> dict[str, int]:
    names = ("requests", "prompt_tokens", "completion_tokens", "total_tokens", "cancelled", "failed", "estimated")
    return {name: sum(day[name] for day in days) for name in names}


def _chart(days: list[dict[str, Any]], first: Any, last: Any) -> dict[str, Any]:
    """One column a day, empty ones too; heights in percent of the highest. Of long periods the last 92 days."""
    by_day = {row["day"]: row for row in days}
    begin = max(first, last - timedelta(days=91))
    span = [begin + timedelta(days=n) for n in range((last - begin).days + 1)]
    highest = max((by_day[day]["total_tokens"] for day in span if day in by_day), default=0)
    columns = []
    for position, day in enumerate(span):
        row = by_day.get(day, {"prompt_tokens": 0, "completion_tokens": 0, "requests": 0, "total_tokens": 0})
        prompt, completion = (_percent(row[name], highest) for name in ("prompt_tokens", "completion_tokens"))
        heights = {"prompt": prompt, "completion": completion, "middle": 100 - prompt, "top": 100 - prompt - completion}
        columns.append({**row, **heights, "day": day, "x": position})
    return {"columns": columns, "highest": highest, "width": len(span)}


def _percent(amount: int, of: int) -> float:
    return round(100 * amount / of, 2) if of else 0.0


def _with_shares(rows: list[dict[str, Any]], group: str) -> list[dict[str, Any]]:
    highest = max((row["total_tokens"] for row in rows), default=0)
    return [
        {**row, "label": _label(row, group), "share": round(_percent(row["total_tokens"], highest))} for row in rows
    ]


def _label(row: dict[str, Any], group: str) -> str:
    if group == "key":
        user = row["user_name"]
        return f"{row['key_name']} ({user})" if row["key_id"] else _("%(user)s in the browser") % {"user": user}
    name = {"model": "model", "service": "service_name", "user": "user_name", "day": "day"}[group]
    return str(row[name]) or _("unnamed")


def _last_requests(user_id: int | None, viewer: Any) -> Any:
    rows = visible(Usage.objects.all(), viewer)
    rows = rows if user_id is None else rows.filter(user_id=user_id)
    return rows.order_by("-pk")[:LAST_REQUESTS]
