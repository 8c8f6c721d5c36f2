"""The addresses the site really has, written as the table writes them."""

import re
from collections.abc import Iterator

from django.contrib import admin
from django.urls import URLPattern, URLResolver, get_resolver

from infini.asgi import socket_routes

_GROUP = re.compile(r"\(\?P<\w+>[^()]*(?:\([^()]*\)[^()]*)*\)")
_BLANK = re.compile(r"<[^<>/]*>")


def blanked(path: str) -> str:
    """With every changing part alike: ``/admin/inventory/server/<>/``."""
    return _BLANK.sub("<>", path)


def addresses() -> set[str]:
    """Every address of Django's and of the admin's, one for each verb of an object's page."""
    found: set[str] = set()
    for path in _walk(get_resolver().url_patterns, "/"):
        found |= set(_with_verbs(path)) if "/do/<" in path else {blanked(path)}
    return found


def sockets() -> set[str]:
    return {blanked("/" + _plain(str(route.pattern))) for route in socket_routes}


def _with_verbs(path: str) -> Iterator[str]:
    app, model = path.split("/")[2:4]
    [registered] = [a for m, a in admin.site._registry.items() if m._meta.label_lower == f"{app}.{model}"]
    for verb in registered.all_verbs():  # type: ignore[attr-defined]
        yield blanked(path[: path.index("/do/")] + f"/do/{verb.name}/")


def _walk(patterns: list, prefix: str) -> Iterator[str]:
    for entry in patterns:
        path = prefix + _plain(str(entry.pattern))
        if isinstance(entry, URLResolver):
            yield from _walk(entry.url_patterns, path)
        elif isinstance(entry, URLPattern):
            yield path


def _plain(pattern: str) -> str:
    """``^api/brands/(?P<pk>[0-9]{1,18})/?$`` as ``api/brands/<>``."""
    text = pattern.removeprefix("^").removesuffix("$").removesuffix("/?")
    return _GROUP.sub("<>", text)
