"""The reference cards: complete, loaded once, never over a person's edit."""

import csv
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from infini.models import Event
from inventory.models import Brand, Card
from inventory.reference import FILE, load_reference_cards

pytestmark = pytest.mark.django_db


def rows() -> list[dict[str, str]]:
    with FILE.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_the_file_has_what_the_inventory_promises() -> None:
    listed = rows()
    assert len(listed) >= 40 and len({row["vendor_key"] for row in listed}) >= 10
    assert all(row["source_url"].startswith(("http://", "https://")) for row in listed)


def test_every_row_becomes_a_card(api: APIClient) -> None:
    made = load_reference_cards()
    assert made == {"brands": len({row["vendor_key"] for row in rows()}), "cards": len(rows())}
    names = [row["name"] for row in api.get("/api/brands").json()]
    assert names == list(dict.fromkeys(row["brand_en"] for row in rows()))
    cards = {(card["brand"]["vendor"], card["model"]): card for card in api.get("/api/accelerators").json()}
    columns = {"memory": "memory_gib", "fp8_perf": "fp8_tflops", "int8_perf": "int8_tops", "bf16_perf": "bf16_tflops"}
    columns |= {"fp16_perf": "fp16_tflops", "fp32_perf": "fp32_tflops", "interconnect_bandwidth": "interconnect_gbs"}
    columns |= {"power": "tdp_w", "released": "released"}
    for row in rows():
        card = cards[row["vendor_key"], row["model"]]
        for name, column in columns.items():
            assert card[name] == (float(row[column]) if row[column] else None), (row["model"], name)
        assert (card["source_url"], card["note"]) == (row["source_url"], row["note"])
    assert Brand.objects.get(vendor="ascend").name_zh == "华为昇腾"


def test_loaded_twice_is_loaded_once() -> None:
    load_reference_cards()
    events = Event.objects.count()
    assert load_reference_cards() == {"brands": 0, "cards": 0}
    assert (Card.objects.count(), Event.objects.count()) == (len(rows()), events)


def test_a_persons_edit_stays(api: APIClient) -> None:
    load_reference_cards()
    brand, card = Brand.objects.get(vendor="nvidia"), Card.objects.get(model="H100 SXM 80GB")
    api.patch(f"/api/brands/{brand.pk}", {"name": "Nvidia (green)", "sort_order": 99}, format="json")
    api.patch(f"/api/accelerators/{card.pk}", {"memory": 79, "note": "ours"}, format="json")
    assert load_reference_cards() == {"brands": 0, "cards": 0}
    card.refresh_from_db()
    brand.refresh_from_db()
    assert (card.memory, card.note, brand.name, brand.sort_order) == (79, "ours", "Nvidia (green)", 99)


def test_a_brand_made_by_hand_gets_the_cards_and_a_missing_card_comes_back() -> None:
    mine = Brand.objects.create(name="nvidia", name_zh="mine")
    made = load_reference_cards()
    assert made["brands"] == len({row["vendor_key"] for row in rows()}) - 1
    mine.refresh_from_db()
    assert (mine.name_zh, mine.vendor) == ("mine", "") and mine.cards.count() > 30
    Card.objects.get(model="H100 SXM 80GB").delete()
    assert load_reference_cards() == {"brands": 0, "cards": 1}


def test_the_number_of_queries_does_not_grow_with_rows() -> None:
    with CaptureQueriesContext(connection) as captured:
        load_reference_cards()
    assert len(captured) < 15


def test_the_command_says_what_it_did() -> None:
    out = StringIO()
    call_command("load_cards", stdout=out)
    assert f"{len(rows())} cards made" in out.getvalue()
    call_command("load_cards", stdout=out)
    assert "0 brands and 0 cards made" in out.getvalue()
