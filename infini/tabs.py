"""Tabs of an object's page: each is a link, ``?tab=<name>``, and only the open one asks the database for its content.

A page is named by its model's label, ``inventory.server``; apps above may add tabs to it, as with ``infini.extras``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

ASKED = "tab"  # in the address


@dataclass(frozen=True)
class Tab:
    """``make`` gives what ``template`` and ``outside`` show to the one who asks; called while the tab is open.

    ``template`` is fetched anew while the page stands open; ``outside`` is not, since scripts fill it. ``urgent``
    counts what needs a person behind the tab; it is asked for every tab, so it may take one query. Without
    ``permission`` the tab is absent, and its address says what is missing.
    """

    name: str
    label: Any
    template: str = ""
    outside: str = ""
    make: Callable[[HttpRequest, Any], dict[str, Any]] = lambda request, row: {}
    permission: str = ""
    urgent: Callable[[Any], int] = lambda row: 0


@dataclass(frozen=True)
class TabLink:
    """One tab in the bar."""

    label: Any
    url: str
    is_open: bool
    urgent: int


_added: dict[str, list[tuple[str, Tab]]] = defaultdict(list)


def add_tab(page: str, tab: Tab, *, after: str) -> None:
    """Put ``tab`` behind the one called ``after``; at the end where there is none."""
    if all(tab.name != known.name for _after, known in _added[page]):
        _added[page].append((after, tab))


def tabs_of(page: str, own: Sequence[Tab]) -> list[Tab]:
    """The page's own tabs with those of other apps between them."""
    tabs = list(own)
    for after, tab in _added[page]:
        names = [known.name for known in tabs]
        tabs.insert(names.index(after) + 1 if after in names else len(tabs), tab)
    return tabs


def opened(tabs: Iterable[Tab], request: HttpRequest) -> Tab:
    """The one the address asks for, else the first. Raises PermissionDenied for one that is not this person's."""
    listed = list(tabs)
    asked = request.GET.get(ASKED, "")
    tab = next((tab for tab in listed if tab.name == asked), listed[0])
    if tab.permission and not request.user.has_perm(tab.permission):
        raise PermissionDenied(tab.permission)
    return tab


def links(tabs: Iterable[Tab], request: HttpRequest, row: Any) -> list[TabLink]:
    """The bar: what this person may open."""
    listed = list(tabs)
    is_open = opened(listed, request)
    return [
        TabLink(tab.label, f"?{ASKED}={tab.name}", tab is is_open, tab.urgent(row))
        for tab in listed
        if not tab.permission or request.user.has_perm(tab.permission)
    ]


def kept(request: HttpRequest) -> str:
    """What leads back to the tab that is open, for the end of an address."""
    asked = request.GET.get(ASKED, "")
    return f"?{ASKED}={asked}" if asked.isidentifier() and asked.isascii() else ""
