"""Every list page and list answer of a site, found by its own tables of them, and how many queries each takes.

    python -m tests.benchmarks.lists

Prints ``{path: queries}`` as JSON, over the database of the environment's data directory.
"""

import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
django.setup()

from django.contrib import admin  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.urls import URLPattern, URLResolver, get_resolver, reverse  # noqa: E402
from django.utils import timezone  # noqa: E402

from infini.models import User  # noqa: E402

# Beside the lists themselves: pages that sum many rows up, a search, a sort, a filter and a last page.
MORE = (
    *("/admin/", "/admin/find/?q=1", "/admin/chat/usage/", "/admin/chat/usage/?by=key", "/admin/chat/usage/?by=day"),
    *("/admin/inventory/server/?q=1", "/admin/inventory/server/?status=offline", "/admin/inventory/server/?o=4"),
    *("/admin/deployments/service/?status=wrong", "/admin/deployments/service/?q=model-1"),
    *("/admin/deployments/service/?p=2", "/admin/inventory/device/?free=yes", "/admin/inventory/device/?q=1&o=2"),
    *("/admin/infini/event/?q=person-1", "/admin/infini/event/?q=nothing-like-it", "/admin/infini/event/?p=last"),
    *("/admin/infini/event/?subject_kind__exact=server&subject_id__exact=7", "/admin/scheduler/run/?state=failed"),
    *("/api/services?limit=50", "/api/terminals?state=ended&limit=100", "/api/usage?by=user"),
)
SPAN_HOURS = 6  # what the overview's charts show
CHARTS = ("/api/history", "/api/usage/history")
# Histories without a bound on their length: asked for the newest, as whoever shows them does.
HISTORIES = ("/api/alerts", "/api/installations", "/api/recordings", "/api/runs")
NOT_LISTS = ("/api/schema", "/api/docs", "/api/upload", "/api/services/plan", "/api/tasks/preview")


def paths() -> list[str]:
    """The changelist of every model in the admin, every GET of the API that names no object, and ``MORE``."""
    answers = [path for path in _plain(get_resolver()) if path.startswith("/api/") and path not in NOT_LISTS]
    lists = [reverse(f"admin:{m._meta.app_label}_{m._meta.model_name}_changelist") for m in admin.site._registry]
    begin = (timezone.now() - timedelta(hours=SPAN_HOURS)).strftime("%Y-%m-%dT%H:%M:%SZ")
    queries = dict.fromkeys(HISTORIES, "?limit=100") | dict.fromkeys(CHARTS, f"?from={begin}")
    return [*lists, *(path + queries.get(path, "") for path in answers), *MORE]


def _plain(resolver: URLResolver, before: str = "/") -> Iterator[str]:
    """Addresses without parameters whose view answers GET."""
    for pattern in resolver.url_patterns:
        text = before + str(pattern.pattern).removeprefix("^").removesuffix("/?$")
        if isinstance(pattern, URLResolver):
            yield from _plain(pattern, text)
        elif (
            isinstance(pattern, URLPattern)
            and "(" not in text
            and hasattr(getattr(pattern.callback, "cls", None), "get")
        ):
            yield text


def main() -> None:
    client = Client()
    client.force_login(User.objects.get(username="admin"))
    counts = {}
    for path in paths():
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(path, headers={"Host": "127.0.0.1"})
        if answer.status_code != 200:
            sys.exit(f"{path}: {answer.status_code}")
        counts[path] = len(queries)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
