"""Every address as each kind of person; and what somebody limited to an environment meets outside of it."""

import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from django.http import HttpResponse
from django.test import Client

from infini import forbidden, keys
from tests.roles.addresses import addresses, blanked, sockets
from tests.roles.document import page
from tests.roles.table import (
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
    admin_rows,
)
from tests.roles.world import HIDDEN, World

pytestmark = pytest.mark.usefixtures("fast")
WHO = {"nobody": ANYONE, "no role": LOGGED_IN, "viewer": VIEWER, "operator": OPERATOR, "administrator": ADMINISTRATOR}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
NO_SUCH = {"terminal-key": "0" * 32, "key": "none-1", "batch": "0" * 32}
NOT_THERE = (
    "/admin/<anything>",
    "/admin/r/<type>/<id>/",
    "/api/uploads/<filename>",
    "/api/recordings/<recording>/cast",
)
ADDRESS = re.compile(r"""\b(href|action|formaction)="([^"]*)\"""")
PERMISSION = re.compile(r"\b(?:auth|chat|deployments|infini|inventory|scheduler)\.[a-z]+_[a-z]+\b")
# Below /api/ the gateway's own paths are answered before Django.
ROWS = {**PAGES, **admin_rows(), **API}
DOCUMENT = Path(__file__).parents[2] / "docs" / "roles.md"


def test_every_address_and_socket_has_its_row() -> None:
    known = {blanked(path) for path in ROWS} - {blanked("/static/<file>")}
    assert addresses() == known
    assert sockets() == {blanked(path) for path in SOCKETS}


def test_the_document_is_the_table() -> None:
    assert DOCUMENT.read_text() == page(), "write it anew: make roles"


def ask(client: Client, method: str, path: str) -> Any:
    body = {} if method == "GET" else {"data": "{}", "content_type": "application/json"}
    if method == "POST" and path.startswith("/admin/"):
        body = {}
    answer = client.generic(method, path, **body) if method != "POST" or body else client.post(path, {})
    return answer


def text_of(answer: HttpResponse) -> str:
    if answer.streaming:
        pieces = answer.streaming_content  # type: ignore[attr-defined]
        return "" if hasattr(pieces, "__aiter__") else b"".join(pieces).decode(errors="replace")
    return html.unescape(answer.content.decode(errors="replace"))


def is_refused(path: str, who: str, answer: HttpResponse) -> bool:
    """In the way of the place: the API says so, a page leads to the login or names what is missing."""
    if path.startswith(("/api/", "/metrics")) or path == "/admin/find/":
        return answer.status_code == (401 if who == "nobody" else 403)
    if who == "nobody":
        return answer.status_code == 302 and "/login/" in answer["Location"]
    if path == "/admin/<app>/":
        return answer.status_code == 404  # Django's: an app of which one sees nothing
    return answer.status_code == 403 and bool(PERMISSION.search(text_of(answer)))


def test_a_refusal_names_the_missing_permission_and_who_has_it(browsers: dict[str, Client]) -> None:
    page = browsers["viewer"].get("/admin/inventory/server/add/")
    text = " ".join(text_of(page).split())
    assert page.status_code == 403
    assert "The missing permission is inventory.add_server. The role operator has it" in text
    assert 'href="/admin/inventory/server/"' in text, "the way to what one may see"
    nobodys = browsers["administrator"].get("/admin/infini/event/add/")
    assert "Nobody may do this here" in text_of(nobodys)


def rows(paths: dict[str, dict[str, int]]) -> Iterator[tuple[str, str, int]]:
    for path, methods in paths.items():
        for method, least in methods.items():
            yield path, method, least


def test_each_address_refuses_every_role_below_its_own(
    world: World, browsers: dict[str, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of refusals: the page around them is looked at below."""
    monkeypatch.setattr(forbidden, "refusal_page", lambda _request, told: HttpResponse(told, status=403))
    wrong = []
    for path, method, least in rows(ROWS):
        for who, role in WHO.items():
            if role < least:
                answer = ask(browsers[who], method, world.shown.fill(path, who))
                if not (is_refused(path, who, answer) or (least == NOBODY and answer.status_code == 403)):
                    wrong.append(f"{method} {path} as {who}: {answer.status_code} {answer.get('Location', '')}")
    assert not wrong, "\n".join(["", *wrong])


def test_each_address_lets_in_its_least_role_and_shows_nothing_of_another_environment(
    world: World, browsers: dict[str, Client]
) -> None:
    """Reading asks about what is there; other methods about what is not, so that nothing is done. Viewer and operator
    are limited to one environment: no answer may hold a word of the other.
    """
    by_role = {role: who for who, role in WHO.items()}
    wrong = []
    for path, method, least in rows(ROWS):
        if least == NOBODY:
            continue
        who, reads = by_role[least], method == "GET"
        asked = "GET" if "/do/" in path else method  # a verb tells by 405 that it may be used
        answer = ask(browsers[who], asked, world.shown.fill(path, who) if reads or "/do/" in path else absent(path))
        good = (200, 302, 400, 504) if reads else (200, 302, 400, 404, 405, 409, 415)
        told = f"{method} {path} as {who}: {answer.status_code}"
        missing = path in NOT_THERE
        closed = path == "/admin/autocomplete/"  # asks for the field it completes
        if answer.status_code not in good and not (missing and answer.status_code == 404) and not closed:
            wrong.append(told)
        if answer.status_code == 302 and "/login/" in answer["Location"] and "/login/" not in path:
            wrong.append(f"{told} is led to the login")
        if HIDDEN in text_of(answer) and least in (VIEWER, OPERATOR):
            at = text_of(answer).index(HIDDEN)
            wrong.append(f"{told} shows {text_of(answer)[at - 80 : at + 40]!r}")
        if reads:
            wrong += [f"{told} leads to {where}" for where in beyond(answer, role=least)]
    assert not wrong, "\n".join(["", *wrong])


def test_an_operators_pages_lead_nowhere_he_may_not(world: World, browsers: dict[str, Client]) -> None:
    """The viewer's are looked at above; here those that show an operator more."""
    wrong = []
    for path, method, least in rows(ROWS):
        is_main = path.startswith("/admin/") and not path.endswith(("change/", "history/", "csv/"))
        if least == VIEWER and method == "GET" and is_main:
            answer = ask(browsers["operator"], method, world.shown.fill(path))
            wrong += [f"{path} leads to {where}" for where in beyond(answer, role=OPERATOR)]
    assert not wrong, "\n".join(["", *wrong])


def beyond(answer: HttpResponse, *, role: int) -> list[str]:
    """Links, forms and buttons of a page that somebody of this role would be refused."""
    if not answer.headers["Content-Type"].startswith("text/html") or answer.status_code != 200:
        return []
    found = []
    for kind, address in ADDRESS.findall(text_of(answer)):
        path = urljoin(answer.request["PATH_INFO"], address.split("?")[0].split("#")[0])  # type: ignore[attr-defined]
        methods = row_of(path)
        least = methods.get("GET", 0) if kind == "href" else methods.get("POST", methods.get("GET", 0))
        if least > role:
            found.append(f"{kind} {path}")
    return found


@cache
def row_of(path: str) -> dict[str, int]:
    """The row an address of a page belongs to; empty for one of another site, or none."""
    if path in ROWS:
        return ROWS[path]
    if path == "/admin/infini/":
        return {}  # everybody has keys of his own there
    return next((ROWS[row] for row, pattern in _PATTERNS if pattern.fullmatch(path)), {})


_PATTERNS = [
    (row, re.compile(re.sub(r"<[^<>/]*>", "[^/]+", row))) for row in ROWS if "<" in row and row != "/admin/<anything>"
]


def absent(path: str) -> str:
    """The same address of what does not exist."""
    for name, value in NO_SUCH.items():
        path = path.replace(f"<{name}>", value)
    return re.sub(r"<[^<>/]*>", "987654321", path)


# What is of no environment.
EVERYBODYS = re.compile(
    r"<(brand|card|command|target|apikey|user|group|app|anything|type|filename|file|name|event|alert)>"
)


def test_outside_of_their_environments_there_is_nothing(world: World, browsers: dict[str, Client]) -> None:
    """Of every address of one object: the answer about a hidden one is that about one which does not exist."""
    asked, wrong = 0, []
    for path, method, least in rows(ROWS):
        if "<" not in path or least > OPERATOR or (EVERYBODYS.search(path) and "<server>" not in path):
            continue
        real, none = world.hidden.fill(path), absent(path)
        about, nothing = (ask(browsers["operator"], method, one) for one in (real, none))
        told = f"{method} {path}: {about.status_code}, of nothing {nothing.status_code}"
        asked += 1
        if about.status_code != nothing.status_code or (method != "GET" and about.status_code < 300):
            wrong.append(told)
        elif HIDDEN in text_of(about).replace(world.hidden.ids["key"], "") and "<key>" not in path:
            wrong.append(f"{told} tells of it")
    assert not wrong, "\n".join(["", *wrong])
    assert asked > 100


def test_the_hidden_rows_are_there_for_who_is_not_limited(world: World, browsers: dict[str, Client]) -> None:
    """Else the tests above would pass on an empty site."""
    world.people["operator"].environment_limits.all().delete()  # type: ignore[attr-defined]
    unlimited = Client()
    unlimited.force_login(type(world.people["operator"]).objects.get(username="otto"))
    lists = [path for path in admin_rows() if "<" not in path and path.count("/") == 4]
    api = [path for path in API if path.count("/") == 2 and path not in ("/api/schema", "/api/docs")]
    places = ["/admin/", "/admin/chat/conversation/", "/admin/chat/usage/", *lists, *api, "/api/chat/services"]
    seen = {path for path in places if HIDDEN in text_of(ask(unlimited, "GET", path))}
    assert seen >= {
        "/admin/",
        "/admin/chat/conversation/",
        "/admin/chat/usage/",
        *(f"/admin/inventory/{name}/" for name in ("server", "device", "environment", "aimodel", "installation")),
        *("/admin/inventory/terminalsession/", "/admin/deployments/service/", "/admin/deployments/operation/"),
        *("/admin/deployments/unknowninstance/", "/admin/chat/trafficrule/", "/admin/chat/endpoint/"),
        *("/admin/scheduler/task/", "/admin/scheduler/run/", "/admin/infini/event/", "/admin/infini/alert/"),
        *("/api/alerts", "/api/environments", "/api/models", "/api/devices", "/api/servers", "/api/installations"),
        *("/api/services", "/api/endpoints", "/api/usage", "/api/chat/services", "/api/conversations"),
        *("/api/tasks", "/api/runs"),
    }


def test_no_method_beside_those_of_the_table(world: World, browsers: dict[str, Client]) -> None:
    for path, methods in API.items():
        for method in set(METHODS) - set(methods):
            answer = ask(browsers["administrator"], method, absent(path))
            assert answer.status_code == 405, f"{method} {path}: {answer.status_code}"
            assert answer.json()["error"].keys() >= {"code", "message"}


def test_a_key_opens_what_its_owner_may(world: World) -> None:
    _key, text = keys.create_key(user=world.people["viewer"], name="test", by=None)
    own = Client(headers={"Authorization": f"Bearer {text}"})
    for path, methods in API.items():
        method, least = next(iter(methods.items()))
        status = ask(own, method, absent(path)).status_code
        assert (status == 403) == (least > VIEWER) and status != 401, f"{method} {path}: {status}"
    for credentials in ("Bearer inf_unknown", "Bearer ", "Basic dTpw"):
        assert Client(headers={"Authorization": credentials}).get("/api/servers").status_code == 401


def test_the_gateway_has_a_row_for_each_of_its_paths() -> None:
    from chat.paths import KINDS

    posted = {f"/v1/{kind}" for kind in KINDS}
    assert {path for path in GATEWAY if path.startswith("/v1/") and "models" not in path} == posted
