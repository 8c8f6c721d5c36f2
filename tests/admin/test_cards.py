"""Brands and cards: a brand's page with its cards as bars, cards side by side, who may put brands in order."""

from collections.abc import Callable

import pytest
from django.test import Client

from inventory.models import Brand, Card, Device, Server
from tests.admin.conftest import count_queries

pytestmark = pytest.mark.django_db
COMPARE = "/admin/inventory/card/compare/"


@pytest.fixture
def cards(db: None) -> list[Card]:
    brand = Brand.objects.create(name="Maker", vendor="nvidia")
    sheet = "https://example.org/sheet"
    one = Card.objects.create(brand=brand, name="C1", memory=64, fp16_perf=300, power=350, source_url=sheet)
    two = Card.objects.create(brand=brand, name="C2", memory=128, power=350)
    return [one, two]


def test_a_brand_has_a_page_with_its_cards_as_bars(viewing: Client, cards: list[Card]) -> None:
    brand = cards[0].brand
    page = f"/admin/inventory/brand/{brand.pk}/"
    assert f'href="{page}"' in viewing.get("/admin/inventory/brand/").content.decode()
    html = viewing.get(page).content.decode()
    assert 'value="50"' in html and 'value="100"' in html and "https://example.org/sheet" in html
    assert 'title="Not published">–</span>' in html
    assert "FP8" not in html, "a figure that no card of it has needs no column"
    before = count_queries(viewing, page)
    for n in range(5):
        Card.objects.create(brand=brand, name=f"more {n}", memory=n + 1)
    assert count_queries(viewing, page) == before


def test_cards_are_chosen_in_the_list_and_compared(viewing: Client, cards: list[Card]) -> None:
    ids = [card.pk for card in cards]
    answer = viewing.post("/admin/inventory/card/", {"action": "compare", "_selected_action": ids})
    assert answer.url.startswith(f"{COMPARE}?ids=") and set(answer.url.split("=")[1].split(",")) == set(map(str, ids))
    response = viewing.get(COMPARE, {"ids": ids})
    assert [c["card"] for c in response.context["columns"]] == cards
    html = response.content.decode()
    assert "350" in html and 'title="Not published">–</span>' in html
    assert "Hide 9 equal rows" in html  # what both lack is alike too

    hidden = viewing.get(f"{COMPARE}?ids={ids[1]},{ids[0]}&hide=equal")
    assert [c["card"] for c in hidden.context["columns"]] == cards[::-1]
    assert [line["label"] for line in hidden.context["lines"]] == ["Memory", "FP16"]


def test_six_at_most_and_nonsense_is_passed_over(viewing: Client, cards: list[Card]) -> None:
    more = [Card.objects.create(brand=cards[0].brand, name=f"N{n}") for n in range(6)]
    ids = [card.pk for card in (*cards, *more)]
    response = viewing.get(COMPARE, {"ids": ["x", "²", "9" * 30, "", *ids, ids[0], 987654]})
    assert len(response.context["columns"]) == 6 and "2 were left out" in response.content.decode()
    assert "No card chosen" in viewing.get(COMPARE).content.decode()
    assert viewing.get(f"{COMPARE}?ids={ids[0]}&ids={ids[1]},{ids[2]}").context["ids_text"].count(",") == 2
    few = count_queries(viewing, f"{COMPARE}?ids={ids[0]}")
    assert count_queries(viewing, f"{COMPARE}?ids={','.join(map(str, ids[:5]))}") == few


def test_comparing_takes_the_right_to_see_cards(as_user: Callable, cards: list[Card]) -> None:
    from infini.models import User

    nobody = as_user(User.objects.create_user("nobody", password="x", is_staff=True))
    assert nobody.get(COMPARE).status_code == 403


def test_only_who_may_change_brands_moves_them_and_only_in_their_own_order(
    operating: Client, viewing: Client, cards: list[Card]
) -> None:
    brands = "/admin/inventory/brand/"
    assert 'aria-label="Move Maker up"' in operating.get(brands).content.decode()
    for browser, path in ((viewing, brands), (operating, f"{brands}?q=ma"), (operating, f"{brands}?o=2")):
        assert "order-up" not in browser.get(path).content.decode(), path


def test_a_brand_tells_its_free_devices(viewing: Client, cards: list[Card]) -> None:
    server = Server.objects.create(name="gpu", host_ip="127.0.0.1")
    for n in range(3):
        Device.objects.create(server=server, uuid=str(n), index=n, vendor="nvidia", name="H", present=n < 2)
    html = viewing.get("/admin/inventory/brand/").content.decode()
    assert 'href="/admin/inventory/device/?vendor=nvidia&amp;free=yes">2/2</a>' in html
