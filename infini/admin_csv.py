"""The file of a list: for every ModelAdmin that names its ``csv_columns``, to everybody who may see the list."""

from collections.abc import Sequence
from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ALL_VAR, PAGE_VAR
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path
from django.utils import timezone

from infini import extras
from infini.csv_export import CsvColumn, csv_response, rows_of


class CsvAdmin:
    """``csv_columns``: what of each row the file tells; empty: the list has none."""

    csv_columns: Sequence[CsvColumn] = ()
    admin_site: Any
    opts: Any

    def get_urls(self) -> list[URLPattern]:
        urls: list[URLPattern] = super().get_urls()  # type: ignore[misc]
        if not self.csv_columns:
            return urls
        view = self.admin_site.admin_view(self.csv_view)
        return [path("csv/", view, name=f"{self.opts.app_label}_{self.opts.model_name}_csv"), *urls]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        shown = {"csv_url": self.csv_url(request), **(extra_context or {})}
        return super().changelist_view(request, shown)  # type: ignore[misc]

    def csv_view(self, request: HttpRequest) -> HttpResponseBase:
        """The list as it is filtered and sorted, all its pages, as a file."""
        if not self.has_view_permission(request):  # type: ignore[attr-defined]
            raise PermissionDenied
        try:
            rows = self.get_changelist_instance(request).queryset  # type: ignore[attr-defined]
        except IncorrectLookupParameters:
            return HttpResponseRedirect("../?e=1")
        columns = [*self.csv_columns, *(c for extra in extras.columns(self.opts.label_lower) for c in extra.csv)]
        name = f"{self.opts.model_name}s-{timezone.now():%Y-%m-%d}.csv"
        return csv_response(request, name, columns, rows_of(rows))

    def csv_url(self, request: HttpRequest) -> str:
        """Where the list that ``request`` shows is as a file; empty when it has none."""
        query = request.GET.copy()
        for name in (PAGE_VAR, ALL_VAR):
            query.pop(name, None)
        return f"csv/?{query.urlencode()}" if self.csv_columns else ""
