"""Every path below /api, with each method, as each kind of person. A path without a row here fails."""

from collections.abc import Callable, Iterator

import pytest
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from infini import keys
from infini.models import User

NOBODY, NO_ROLE, VIEWER, OPERATOR, ADMINISTRATOR = range(5)
PEOPLE = {"nobody": NOBODY, "no role": NO_ROLE, "viewer": VIEWER, "operator": OPERATOR, "administrator": ADMINISTRATOR}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

LIST = {"GET": VIEWER, "POST": OPERATOR}
DETAIL = {"GET": VIEWER, "PUT": OPERATOR, "PATCH": OPERATOR, "DELETE": OPERATOR}
ACTION = {"POST": OPERATOR}

# Route name: the least role of each method it has. Other methods are 405 for whoever is logged in.
LEAST_ROLE: dict[str, dict[str, int]] = {
    "schema": {"GET": NO_ROLE},
    "docs": {"GET": NO_ROLE},
    "stats": {"GET": NO_ROLE},
    "alerts": {"GET": VIEWER},
    "alert-targets": {"GET": ADMINISTRATOR, "POST": ADMINISTRATOR},
    "alert-target": {"GET": ADMINISTRATOR, "PUT": ADMINISTRATOR, "PATCH": ADMINISTRATOR, "DELETE": ADMINISTRATOR},
    "alert-target-test": {"POST": ADMINISTRATOR},
    "keys": {"GET": NO_ROLE, "POST": NO_ROLE},
    "key": {"GET": NO_ROLE, "PATCH": ADMINISTRATOR},
    "key-revoke": {"POST": NO_ROLE},
    "upload": ACTION,
    "picture": {"GET": NO_ROLE},
    "environments": LIST,
    "environment": DETAIL,
    "brands": LIST,
    "brand": DETAIL,
    "brands-reorder": ACTION,
    "brand-accelerators": LIST,
    "accelerators": {"GET": VIEWER},
    "accelerator": DETAIL,
    "models": LIST,
    "model": DETAIL,
    "servers": LIST,
    "server": DETAIL,
    "server-check": ACTION,
    "server-host-key": {"GET": VIEWER, "POST": OPERATOR},
    "server-host-key-scan": ACTION,
    "server-resources": {"GET": VIEWER},
    "fleet-history": {"GET": VIEWER},
    "server-history": {"GET": VIEWER},
    "servers-resources": {"POST": VIEWER},
    "servers-check": ACTION,
    "server-agent-install": ACTION,
    "server-agent-upgrade": ACTION,
    "server-agent-remove": ACTION,
    "servers-agents-install": ACTION,
    "servers-agents-upgrade": ACTION,
    "installations": {"GET": VIEWER},
    "installation": {"GET": VIEWER},
    "installation-retry": ACTION,
    "installation-cancel": ACTION,
    "server-files": {"GET": OPERATOR},
    "server-file-download": {"GET": OPERATOR},
    "server-file-upload": {"POST": OPERATOR, "DELETE": OPERATOR},
    "terminals": {"GET": OPERATOR},
    "terminal": {"GET": OPERATOR, "DELETE": OPERATOR},
    "recordings": {"GET": ADMINISTRATOR},
    "recording": {"GET": ADMINISTRATOR, "DELETE": ADMINISTRATOR},
    "recording-file": {"GET": ADMINISTRATOR},
    "presets": {"GET": VIEWER},
    "services": LIST,
    "services-plan": {"POST": VIEWER},
    "services-refresh-status": {"POST": VIEWER},
    "service": DETAIL,
    "service-deploy": ACTION,
    "service-restart": ACTION,
    "service-stop": ACTION,
    "service-roll-back": ACTION,
    "service-revisions": {"GET": VIEWER},
    "service-revisions-diff": {"GET": VIEWER},
    "service-deploy-log": {"GET": VIEWER},
    "devices": {"GET": VIEWER},
    "instance-free-devices": ACTION,
    "unknown-instances": {"GET": VIEWER},
    "unknown-instance": {"GET": VIEWER, "DELETE": OPERATOR},
    "unknown-instance-adopt": ACTION,
    "unknown-instance-stop": ACTION,
    "instance-logs": {"GET": VIEWER},
    "instance-logs-download": {"GET": VIEWER},
    "tasks": LIST,
    "tasks-preview": {"POST": VIEWER},
    "task": DETAIL,
    "task-execute": ACTION,
    "task-result": {"GET": VIEWER},
    "runs": LIST,
    "run": {"GET": VIEWER},
    "run-cancel": ACTION,
    "run-retry-failed": ACTION,
    "run-output": {"GET": VIEWER},
    "commands": LIST,
    "command": DETAIL,
    "chat_history": {"GET": VIEWER, "POST": VIEWER, "DELETE": VIEWER},
    "endpoints": {"GET": VIEWER, "POST": ADMINISTRATOR},
    "endpoint": {"GET": VIEWER, "PUT": ADMINISTRATOR, "PATCH": ADMINISTRATOR, "DELETE": ADMINISTRATOR},
    "service-traffic": {"GET": VIEWER, "PUT": OPERATOR, "DELETE": OPERATOR},
    "usage": {"GET": NO_ROLE},
    "usage-history": {"GET": NO_ROLE},
    "chat_services": {"GET": VIEWER},
    "conversations": {"GET": VIEWER, "POST": VIEWER},
    "conversation": {"GET": VIEWER, "PATCH": VIEWER, "DELETE": VIEWER},
    "conversation_turns": {"GET": VIEWER},
    "conversation_branch": {"PUT": VIEWER},
    "conversation_export": {"GET": VIEWER},
}

# What stands for the changing parts of a path: nothing there has this id, so nothing is changed by asking.
EXAMPLES = {
    r"(?P<pk>[0-9]{1,18})": "987654321",
    r"(?P<filename>[^/]{1,100})": "none.png",
    r"(?P<key>[A-Za-z0-9._-]{1,64})": "none-1",
    r"(?P<key>[0-9a-f]{32})": "0" * 32,
}


def routes() -> dict[str, str]:
    """``{name: an example path}`` of everything below /api."""
    return {name: path for name, path in _walk(get_resolver().url_patterns, "") if path.startswith("api/")}


def _walk(patterns: list, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in patterns:
        route = prefix + str(entry.pattern).removeprefix("^")
        if isinstance(entry, URLResolver):
            yield from _walk(entry.url_patterns, route)
        elif isinstance(entry, URLPattern):
            path = route.removesuffix("$").removesuffix("/?")
            for pattern, example in EXAMPLES.items():
                path = path.replace(pattern, example)
            yield entry.name or path, path


@pytest.fixture
def clients(make_user: Callable[..., User], api_as: Callable[[User | None], APIClient]) -> dict[str, APIClient]:
    roles = {"nobody": None, "no role": make_user()}
    roles |= {role: make_user(role) for role in ("viewer", "operator", "administrator")}
    return {name: api_as(user) for name, user in roles.items()}


def test_every_path_has_its_row() -> None:
    assert set(routes()) == set(LEAST_ROLE)


def test_examples_are_whole_paths() -> None:
    assert not [path for path in routes().values() if set(path) & set("(?[\\")]


@pytest.mark.parametrize("name", sorted(LEAST_ROLE))
def test_each_method_takes_its_role(name: str, clients: dict[str, APIClient]) -> None:
    path = f"/{routes()[name]}"
    for method in METHODS:
        for person, role in PEOPLE.items():
            answer = clients[person].generic(method, path, "{}", content_type="application/json")
            told = f"{method} {path} as {person}: {answer.status_code} {answer.content[:200]!r}"
            least = LEAST_ROLE[name].get(method)
            if role == NOBODY:
                assert answer.status_code == 401, told
            elif least is None:
                assert answer.status_code == 405, told
            elif role < least:
                assert answer.status_code == 403, told
            else:
                assert answer.status_code in (200, 201, 204, 400, 404, 409, 415), told
            if answer.status_code >= 400:
                assert answer.json()["error"].keys() >= {"code", "message"}, told


@pytest.mark.parametrize("name", sorted(LEAST_ROLE))
def test_a_key_opens_what_its_owner_may(name: str, viewer: User) -> None:
    _key, text = keys.create_key(user=viewer, name="test", by=None)
    path = f"/{routes()[name]}"
    for method, least in LEAST_ROLE[name].items():
        client = APIClient()

        def ask(credentials: str, method: str = method, client: APIClient = client) -> int:
            headers = {"Authorization": credentials} if credentials else {}
            return client.generic(method, path, "{}", content_type="application/json", headers=headers).status_code

        assert ask("") == ask("Bearer inf_unknown") == ask("Bearer ") == ask("Basic dTpw") == 401
        assert (ask(f"Bearer {text}") == 403) == (least > VIEWER), f"{method} {path}"
