"""The cards of inventory/data/cards.csv: brands and cards the inventory starts with.

Only what is missing is made. A row that exists is left as people made it, figures included; one that was
renamed or deleted is missing, and comes back at the next load.
"""

import csv
from pathlib import Path
from typing import Any

from django.db import transaction

from infini import events
from infini.models import Event
from inventory.models import Brand, Card

FILE = Path(__file__).parent / "data" / "cards.csv"
_FIGURES = {
    "memory": "memory_gib",  # vendors print GB and mostly mean GiB; the number printed is kept
    "fp8_perf": "fp8_tflops",
    "int8_perf": "int8_tops",
    "bf16_perf": "bf16_tflops",
    "fp16_perf": "fp16_tflops",
    "fp32_perf": "fp32_tflops",
    "interconnect_bandwidth": "interconnect_gbs",
    "power": "tdp_w",
}
Row = dict[str, str]


def load_reference_cards() -> dict[str, int]:
    """Make the brands and cards that are missing, in one transaction; returns how many of each."""
    with FILE.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    with transaction.atomic():
        new_brands = _make_brands(rows)
        brands = _Brands()
        have = {_identity(*names) for names in Card.objects.values_list("brand_id", "name", "model")}
        cards = [_card(row, brands.of(row)) for row in rows]
        missing = [card for card in cards if _identity(card.brand_id, card.name, card.model) not in have]
        Card.objects.bulk_create(missing)
        _record(missing)
    return {"brands": new_brands, "cards": len(missing)}


class _Brands:
    """The brand a row means: the one with its vendor key, else the one of its name."""

    def __init__(self) -> None:
        brands = list(Brand.objects.all())
        self.by_name = {brand.name.lower(): brand for brand in brands}
        self.by_vendor = {brand.vendor: brand for brand in reversed(brands) if brand.vendor}

    def find(self, row: Row) -> Brand | None:
        return self.by_vendor.get(row["vendor_key"]) or self.by_name.get(row["brand_en"].lower())

    def of(self, row: Row) -> Brand:
        brand = self.find(row)
        if brand is None:
            raise LookupError(f"No brand was made for {row['brand_en']}.")
        return brand


def _make_brands(rows: list[Row]) -> int:
    brands = _Brands()
    firsts: dict[str, Row] = {}
    for row in rows:
        firsts.setdefault(row["vendor_key"], row)
    missing = [
        Brand(name=row["brand_en"], name_zh=row["brand_zh"], vendor=vendor, sort_order=place)
        for place, (vendor, row) in enumerate(firsts.items(), start=1)
        if brands.find(row) is None
    ]
    Brand.objects.bulk_create(missing)
    return len(missing)


def _card(row: Row, brand: Brand) -> Card:
    figures: dict[str, Any] = {name: float(row[column]) if row[column] else None for name, column in _FIGURES.items()}
    return Card(
        brand=brand,
        name=row["name"],
        model=row["model"],
        memory_type=row["memory_type"],
        released=int(row["released"]) if row["released"] else None,
        source_url=row["source_url"],
        note=row["note"],
        **figures,
    )


def _identity(brand_id: int, name: str, model: str) -> tuple[int, str, str]:
    return brand_id, name.lower(), model.lower()


def _record(cards: list[Card]) -> None:
    """One event per brand, not one per card: the timeline is for what people look up."""
    by_brand: dict[Brand, list[str]] = {}
    for card in cards:
        by_brand.setdefault(card.brand, []).append(str(card))
    Event.objects.bulk_create(
        Event(**events.describe("brand.cards_loaded", brand, by=None, data={"cards": names}))
        for brand, names in by_brand.items()
    )
