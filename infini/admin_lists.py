"""What a list's page shows of its reader's own choices: his saved filters as tabs, and which columns he wants."""

from dataclasses import dataclass
from typing import Any

from django.contrib.admin.utils import label_for_field
from django.http import HttpRequest

from infini.saved_lists import filters_of, lists_of, may_change


@dataclass(frozen=True)
class ListColumn:
    """One that may be hidden; ``name`` is what its cells' classes are called by."""

    name: str
    label: str
    hidden: bool


class OwnListsAdmin:
    list_before_template: str | None = "partials/list_tabs.html"
    model: Any
    opts: Any

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        # A live page asks for its rows alone.
        own = {} if "X-Live" in request.headers or request.method != "GET" else self._own(request)
        return super().changelist_view(request, {**own, **(extra_context or {})})  # type: ignore[misc]

    def list_columns(self, request: HttpRequest) -> list[ListColumn]:
        """All with a head, but for the row's name, without which a row is nothing."""
        user: Any = request.user
        shown = self.get_list_display(request)  # type: ignore[attr-defined]
        named = list(self.get_list_display_links(request, shown) or shown[:1])  # type: ignore[attr-defined]
        hidden = user.hidden_columns.get(self.opts.label_lower, [])
        columns = []
        for column in shown:
            name = column if isinstance(column, str) else column.__name__
            label = str(label_for_field(column, self.model, self))  # type: ignore[call-overload]
            if label and column not in named:
                columns.append(ListColumn(name, label, name in hidden))
        return columns

    def _own(self, request: HttpRequest) -> dict[str, Any]:
        user: Any = request.user
        query = filters_of(request.GET.urlencode())
        tabs = lists_of(user, self.opts.label_lower)
        opened = next((saved for saved in tabs if saved.query == query), None)
        return {
            "list_page": self.opts.label_lower,
            "list_query": query,
            "list_columns": self.list_columns(request),
            "saved_lists": tabs,
            "open_list": opened,
            "may_change_list": opened is not None and may_change(opened, user),
        }
