"""How people like their lists: filters kept as tabs, the columns they want, closer rows."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from infini.models import Event, SavedList, User
from infini.saved_lists import MOST, filters_of
from inventory.limits import limit
from inventory.models import Environment, Server
from tests.admin.conftest import count_queries

pytestmark = pytest.mark.django_db
SERVERS = "/admin/inventory/server/"
OFFLINE = "status=offline"


def keep(browser: Client, name: str, query: str = OFFLINE, page: str = "inventory.server", **more: str) -> Any:
    body = {"page": page, "query": query, "name": name, **more}
    return browser.post("/admin/lists/save/", body, follow=True)


def tabs(browser: Client, path: str = SERVERS) -> dict[str, str]:
    """Name to address of each; the open one's name ends with a star."""
    html = browser.get(path).content.decode()
    bar = re.search(r'<div class="list-tabs">.*?</nav>', html, re.DOTALL)
    links = re.findall(r'<a href="([^"]*)" (aria-current="page")?[^>]*>([^<]*)', bar[0]) if bar else []
    return {name.strip() + ("*" if is_open else ""): url.replace("&amp;", "&") for url, is_open, name in links}


def test_what_is_filtered_becomes_a_tab_under_a_name(
    viewing: Client, admin: Client, make_server: Callable[..., Server]
) -> None:
    make_server("fine")
    make_server("gone", agent_seen_at=None, reachable=False)
    assert tabs(viewing) == {} and "Save as tab" not in viewing.get(SERVERS).content.decode()
    assert "Save as tab" in viewing.get(f"{SERVERS}?{OFFLINE}").content.decode()

    answer = keep(viewing, " My  offline ones ", f"{OFFLINE}&p=2&o=-1")

    assert answer.redirect_chain == [(f"{SERVERS}?o=-1&{OFFLINE}", 302)]
    assert "My offline ones is a tab above the list now." in answer.content.decode()
    assert [row.name for row in answer.context["cl"].result_list] == ["gone"]
    assert tabs(viewing) == {"All*": "?", "My offline ones": f"?o=-1&{OFFLINE}"}
    assert tabs(viewing, f"{SERVERS}?{OFFLINE}&o=-1&p=1") == {"All": "?", "My offline ones*": f"?o=-1&{OFFLINE}"}
    assert tabs(admin) == {} and tabs(viewing, "/admin/deployments/service/") == {}
    assert not Event.objects.filter(subject_kind="savedlist").exists()


def test_a_shared_one_is_everybodys_to_use_and_its_owners_or_an_administrators_to_change(
    operating: Client, viewing: Client, admin: Client
) -> None:
    keep(operating, "Broken", shared="on")
    saved = SavedList.objects.get()
    assert [list(tabs(browser)) for browser in (operating, viewing, admin)] == [["All*", "Broken"]] * 3
    opened = f"{SERVERS}?{OFFLINE}"
    assert ["Edit tab" in browser.get(opened).content.decode() for browser in (operating, viewing, admin)] == [
        True,
        False,
        True,
    ]

    refused = viewing.post(f"/admin/lists/{saved.pk}/change/", {"name": "Mine now"}, follow=True)
    assert "somebody else&#x27;s; an administrator can change it" in refused.content.decode()
    viewing.post(f"/admin/lists/{saved.pk}/remove/", {"confirmed": "1"})
    assert list(tabs(operating)) == ["All*", "Broken"]
    admin.post(f"/admin/lists/{saved.pk}/change/", {"name": "Down", "shared": "on"})
    assert list(tabs(viewing)) == ["All*", "Down"]
    assert "It goes for everybody." in operating.post(f"/admin/lists/{saved.pk}/remove/").content.decode()
    operating.post(f"/admin/lists/{saved.pk}/change/", {"name": "Down"})
    assert tabs(viewing) == {} and list(tabs(operating)) == ["All*", "Down"]
    assert viewing.post(f"/admin/lists/{saved.pk}/remove/", {"confirmed": "1"}).status_code == 404
    operating.post(f"/admin/lists/{saved.pk}/remove/", {"confirmed": "1"})
    assert tabs(operating) == {}
    told = Event.objects.filter(subject_kind="savedlist").order_by("pk").values_list("kind", "actor_name")
    assert list(told) == [
        ("savedlist.created", "operator"),
        ("savedlist.changed", "administrator"),
        ("savedlist.changed", "operator"),
    ]


def test_who_is_limited_to_environments_has_his_own_alone(operating: Client, viewer: User, viewing: Client) -> None:
    keep(operating, "The hidden room", shared="on")
    limit(viewer, [Environment.objects.create(name="here")])
    keep(viewing, "Mine", shared="on")
    assert list(tabs(viewing)) == ["All*", "Mine"] and list(tabs(operating)) == ["All*", "The hidden room", "Mine"]
    hidden = SavedList.objects.get(name="The hidden room")
    assert viewing.post(f"/admin/lists/{hidden.pk}/change/", {"name": "x"}).status_code == 404
    assert "hidden room" not in viewing.get("/admin/infini/event/").content.decode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": " "}, "has a name of 1 to 40 characters"),
        ({"name": "x" * 41}, "has a name of 1 to 40 characters"),
        ({"name": "none", "query": "p=3"}, "Filter, search or sort the list first"),
        ({"name": "long", "query": "q=" + "x" * 1001}, "These filters are too long"),
        ({"name": "TAKEN"}, "You have a filter called TAKEN here already."),
    ],
)
def test_what_cannot_be_kept_is_told_on_the_list(viewing: Client, given: dict[str, str], told: str) -> None:
    keep(viewing, "Taken")
    assert told in keep(viewing, **given).content.decode()  # type: ignore[arg-type]
    assert SavedList.objects.count() == 1


def test_nobody_keeps_more_than_fit_or_for_a_list_he_may_not_see(viewing: Client, viewer: User) -> None:
    assert keep(viewing, "People", "q=x", page="infini.user").status_code == 404
    assert keep(viewing, "None", "q=x", page="nothing").status_code == 404
    for n in range(MOST + 1):
        keep(viewing, f"n{n}", f"q={n}")
    assert viewer.saved_lists.count() == MOST


def test_tabs_cost_one_query_however_many(viewing: Client, operator: User) -> None:
    viewing.get(SERVERS)
    bare = count_queries(viewing, SERVERS)
    for n in range(9):
        SavedList.objects.create(user=operator, page="inventory.server", name=f"n{n}", query=f"q={n}", shared=True)
    assert count_queries(viewing, SERVERS) == bare
    assert count_queries(viewing, SERVERS, HTTP_X_LIVE="1") == bare - 1  # who asks for rows alone


def test_equal_filters_are_written_alike() -> None:
    assert filters_of("b=2&a=1&p=4&e=1") == filters_of("?a=1&b=2".lstrip("?")) == "a=1&b=2"
    assert filters_of("q=%3Cscript%3E&x=") == "q=%3Cscript%3E"


def test_columns_are_each_persons_choice(
    viewing: Client, admin: Client, viewer: User, make_server: Callable[..., Server]
) -> None:
    make_server("one")

    def hidden(browser: Client) -> set[str]:
        return set(
            re.findall(r":is\(\.column-(\w+), \.field-\1\) { display: none; }", browser.get(SERVERS).content.decode())
        )

    offered = [column.name for column in viewing.get(SERVERS).context["list_columns"]]
    assert "cpu" in offered and "devices_free_of_server" in offered
    assert "named" not in offered, "a row without its name is nothing"
    shown = [name for name in offered if name not in ("cpu", "disk")]
    answer = viewing.post("/admin/lists/columns/", {"page": "inventory.server", "query": OFFLINE, "column": shown})
    assert answer["Location"] == f"{SERVERS}?{OFFLINE}"
    assert hidden(viewing) == {"cpu", "disk"} and hidden(admin) == set()
    viewing.post("/admin/lists/columns/", {"page": "inventory.server", "column": [*offered, "no_such"]})
    assert hidden(viewing) == set()
    viewer.refresh_from_db()
    assert viewer.hidden_columns == {}


COMPACT = r'<div id="page"[^>]* class="[^"]* compact"'


def test_compact_rows_are_a_preference(viewing: Client) -> None:
    assert not re.search(COMPACT, viewing.get(SERVERS).content.decode())
    preferences = {"language": "", "time_zone": "", "compact_lists": "on"}
    viewing.post("/admin/account/preferences/", preferences)
    assert re.search(COMPACT, viewing.get(SERVERS).content.decode())
    assert re.search(r'name="compact_lists"[^>]* checked', viewing.get("/admin/account/").content.decode())
