"""The admin's look and navigation: what unfold reads from its one setting."""

from collections.abc import Callable
from functools import cache
from typing import Any

from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import reverse, reverse_lazy
from django.utils.translation import gettext_lazy as _

from infini.badges import badges_for


def _may(permission: str) -> Callable[[HttpRequest], bool]:
    return lambda request: request.user.has_perm(permission)


def _file(path: str) -> Callable[[HttpRequest], str]:
    return lambda request: static(path)


def _item(title: Any, icon: str, page: str, permission: str | None = None) -> dict[str, Any]:
    item: dict[str, Any] = {"title": title, "icon": icon, "link": reverse_lazy(f"admin:{page}")}
    return item | {"permission": _may(permission)} if permission else item


def _page(title: Any, icon: str, name: str, permission: str, *, but: str = "") -> dict[str, Any]:
    """A page of our own, beside the admin's, with all below it, except what is below the page named ``but``."""

    def active(request: HttpRequest) -> bool:
        elsewhere = bool(but) and request.path.startswith(reverse(but))
        return request.path.startswith(reverse(name)) and not elsewhere

    shown = {"title": title, "icon": icon, "link": reverse_lazy(name), "active": active}
    return shown | {"permission": _may(permission)}


def _list(title: Any, icon: str, app: str, model: str) -> dict[str, Any]:
    item = _item(title, icon, f"{app}_{model}_changelist", f"{app}.view_{model}")
    return item | {"about": f"{app}.{model}"}


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """The navigation with the counts of what needs somebody."""
    groups = navigation(request)
    found = badges_for(request.user) if request.user.is_authenticated else {}
    for group in groups:
        for item in group["items"]:
            if badge := found.get(item.get("about", "")):
                item |= {"badge": badge.count, "badge_variant": badge.role, "badge_style": "solid"}
    return groups


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The groups by what people do; an item nobody may open is absent."""
    return [
        {"items": [_item(_("Overview"), "dashboard", "index")]},
        {
            "title": _("Fleet"),
            "items": [
                _list(_("Servers"), "dns", "inventory", "server"),
                _list(_("Devices"), "developer_board", "inventory", "device"),
                _list(_("Brands"), "sell", "inventory", "brand"),
                _list(_("Cards"), "memory", "inventory", "card"),
                _list(_("Environments"), "workspaces", "inventory", "environment"),
            ],
        },
        {
            "title": _("Services"),
            "items": [
                _list(_("Services"), "deployed_code", "deployments", "service"),
                _list(_("Models"), "smart_toy", "inventory", "aimodel"),
                _list(_("Endpoints"), "cloud", "chat", "endpoint"),
                _list(_("Traffic rules"), "traffic", "chat", "trafficrule"),
                _list(_("Operations"), "published_with_changes", "deployments", "operation"),
            ],
        },
        {
            "title": _("Chat"),
            "items": [
                _page(_("Chat"), "forum", "chat", "chat.use_chat", but="chat_compare"),
                _page(_("Compare"), "compare", "chat_compare", "chat.use_chat"),
            ],
        },
        {
            "title": _("Commands"),
            "items": [
                _item(_("Terminals"), "terminal", "inventory_terminalsession_changelist", "inventory.open_terminal"),
                _list(_("Tasks"), "schedule", "scheduler", "task"),
                _list(_("Runs"), "play_circle", "scheduler", "run"),
                _list(_("Library"), "menu_book", "scheduler", "savedcommand"),
            ],
        },
        {
            "title": _("Activity"),
            "items": [
                _list(_("Recordings"), "movie", "inventory", "recording"),
                _list(_("Alerts"), "notifications", "infini", "alert"),
                _list(_("Timeline"), "timeline", "infini", "event"),
                {"title": _("Usage"), "icon": "bar_chart", "link": reverse_lazy("usage_page")},
            ],
        },
        {
            "title": _("Settings"),
            "items": [
                _item(_("API keys"), "key", "infini_apikey_changelist"),
                _list(_("Alert targets"), "campaign", "infini", "alerttarget"),
                _list(_("Users"), "group", "infini", "user"),
            ],
        },
    ]


@cache
def _groups() -> dict[str, Any]:
    """The group of each list in the navigation, by the list's address."""
    groups = navigation(HttpRequest())
    return {str(item["link"]): group["title"] for group in groups if "title" in group for item in group["items"]}


def crumbs(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """unfold's breadcrumb below the group of the navigation where its list stands, whatever app that is in."""
    if len(parts) < 2 or "link" not in parts[0]:
        return parts
    group = _groups().get(str(parts[1].get("link")))
    return [{"title": group}, *parts[1:]] if group else parts


UNFOLD = {
    "SITE_TITLE": "Infini",
    "SITE_HEADER": "Infini",
    "SITE_SUBHEADER": _("Model services on your own servers"),
    "SITE_SYMBOL": "all_inclusive",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": _file("img/infini.svg")}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "DASHBOARD_CALLBACK": "infini.dashboard.overview",
    "STYLES": [_file("css/infini.css"), _file("css/commands.css")],
    "SCRIPTS": [_file("js/frame.js"), _file("js/age.js"), _file("js/dialog.js")],
    "ACCOUNT": {"navigation": [{"title": _("Your account"), "link": reverse_lazy("account")}]},
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
    },
    "SIDEBAR": {
        "show_search": False,
        "command_search": False,
        "show_all_applications": False,
        "navigation": sidebar,
    },
}
