"""docs/roles.md out of the table: ``python -m tests.roles.document > docs/roles.md``."""

from collections.abc import Iterable

from tests.roles.table import (
    ADMIN,
    ADMINISTRATOR,
    ANYONE,
    API,
    GATEWAY,
    LOGGED_IN,
    NOBODY,
    OPERATOR,
    PAGES,
    SOCKETS,
    VIEWER,
    Least,
)

WORDS = {
    ANYONE: "anyone",
    LOGGED_IN: "logged in",
    VIEWER: "viewer",
    OPERATOR: "operator",
    ADMINISTRATOR: "administrator",
    NOBODY: "nobody",
}
_HEAD = """# Who may do what

Written by `make roles` from `tests/roles/table.py`, which the tests hold the site to: each address and socket is asked
by each kind of person, and one without a row fails. Do not edit it here.

A cell names the least role. Each role may do what those before it may: anyone, logged in (also without a role), viewer,
operator, administrator. A role too low is answered 403, at once and with the missing permission; without a login a page
leads to the login and the API answers 401.

Somebody may be **limited to environments** (Settings, Users). He then sees only the servers of these, and of services,
tasks and runs those whose servers all lie in them, with all that belongs to them: instances, devices, operations,
terminals, files, logs, events, alerts, chats, usage. The rest is as if it were not there: not in lists, counts,
searches, figures or sockets, and 404 by its address. Administrators are never limited. Why so: decisions/0013.
"""


def page() -> str:
    parts = [
        _HEAD,
        "\n## Pages\n",
        *_table(("Address", "Who"), ((f"`{path}`", _methods(least)) for path, least in PAGES.items())),
        "\n## Lists and rows in the admin\n",
        "At `/admin/<name>/`: the list, a row's page and history (see), the forms, and what may be done to rows.\n",
        *_table(
            ("Name", "See", "Add", "Change", "Delete", "Do"),
            (
                (
                    f"`{place}`",
                    *(WORDS[least] for least in (one.see, one.add, one.change, one.delete)),
                    ", ".join(f"{verb}: {WORDS[least]}" for verb, least in one.verbs.items()),
                )
                for place, one in ADMIN.items()
            ),
        ),
        "\n## API\n",
        *_table(("Path", "Who"), ((f"`{path}`", _methods(least)) for path, least in API.items())),
        "\n## Gateway\n",
        "A key may be narrower than its owner: gateway.md.\n",
        *_table(("Path", "Who"), ((f"`{path}`", _methods(least)) for path, least in GATEWAY.items())),
        "\n## Sockets\n",
        *_table(("Path", "Who"), ((f"`{path}`", WORDS[least]) for path, least in SOCKETS.items())),
    ]
    return "\n".join(parts) + "\n"


def _methods(least: Least) -> str:
    """Those of one role together: ``GET: viewer; PUT, PATCH, DELETE: operator``."""
    by_role: dict[int, list[str]] = {}
    for method, role in least.items():
        by_role.setdefault(role, []).append(method)
    return "; ".join(f"{', '.join(methods)}: {WORDS[role]}" for role, methods in by_role.items())


def _table(heads: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> list[str]:
    rows = [heads, ("---",) * len(heads), *lines]
    return [f"| {' | '.join(row)} |" for row in rows]


if __name__ == "__main__":
    print(page(), end="")
