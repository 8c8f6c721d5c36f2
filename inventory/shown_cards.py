"""How cards are shown: each published figure as a bar against the largest beside it; what is unpublished as a dash."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from infini.display import ABSENT, number
from inventory.models import Brand, Card

MOST_COMPARED = 6


@dataclass(frozen=True)
class Measure:
    """A published figure: its column, what it is called, its unit."""

    name: str
    label: str
    unit: str


def measures() -> list[Measure]:
    return [
        Measure("memory", _("Memory"), "GB"),
        Measure("fp8_perf", "FP8", "TFLOPS"),
        Measure("int8_perf", "INT8", "TOPS"),
        Measure("bf16_perf", "BF16", "TFLOPS"),
        Measure("fp16_perf", "FP16", "TFLOPS"),
        Measure("fp32_perf", "FP32", "TFLOPS"),
        Measure("interconnect_bandwidth", _("Interconnect"), "GB/s"),
        Measure("power", _("Power"), "W"),
    ]


@dataclass(frozen=True)
class Length:
    """A figure as long as its share of the largest beside it; the number stands in words, the bar is for the eye."""

    value: float | None
    largest: float
    unit: str

    def __str__(self) -> SafeString:
        if self.value is None:
            return number(None)
        share = round(100 * self.value / self.largest)
        return format_html(
            '<span class="bar length"><progress max="100" value="{}" aria-hidden="true"></progress>'
            '<span class="bar-number">{} <span class="unit">{}</span></span></span>',
            *(share, f"{self.value:,.10g}", self.unit),
        )

    __html__ = __str__


def _lengths(measure: Measure, cards: Sequence[Card]) -> list[Length]:
    values = [getattr(card, measure.name) for card in cards]
    largest = max((value for value in values if value is not None), default=0)
    return [Length(value, largest, measure.unit) for value in values]


def card_table(cards: Iterable[Card]) -> dict[str, Any]:
    """Lines of cards with their bars, each column against its own largest; a figure none of them has is left out."""
    listed = list(cards)
    columns = [(m, _lengths(m, listed)) for m in measures()]
    told = [(m, lengths) for m, lengths in columns if any(one.value is not None for one in lengths)]
    rows = [
        {
            "card": card,
            "source": source_link(card),
            "cells": [(m.label, lengths[place]) for m, lengths in told],
        }
        for place, card in enumerate(listed)
    ]
    return {"card_columns": [m.label for m, _lengths_of in told], "card_rows": rows}


def compared(cards: Sequence[Card], *, hide: bool) -> dict[str, Any]:
    """Columns of cards, lines of figures; with ``hide`` without the lines in which all are alike."""
    lines = [{"label": m.label, "cells": _lengths(m, cards), "same": _same(cards, m.name)} for m in measures()]
    texts = (("memory_type", _("Memory type")), ("released", _("Released")), ("note", _("Note")))
    for name, label in texts:
        cells = [getattr(card, name) or number(None) for card in cards]
        lines.append({"label": label, "cells": cells, "same": _same(cards, name)})
    ids = [card.pk for card in cards]
    columns = [
        {
            "card": card,
            "source": source_link(card),
            "without_url": compare_url((pk for pk in ids if pk != card.pk), hide),
        }
        for card in cards
    ]
    alike = sum(1 for line in lines if line["same"])
    return {
        "columns": columns,
        "lines": [line for line in lines if not (hide and line["same"])],
        "alike": alike,
        "ids_text": ",".join(map(str, ids)),
        "toggle_url": compare_url(ids, not hide),
    }


def _same(cards: Sequence[Card], name: str) -> bool:
    return len(cards) > 1 and len({getattr(card, name) for card in cards}) == 1


def asked_ids(query: Any) -> list[int]:
    """The ids of ``?ids=1,2&ids=3``, each once, in their order; what is no number is passed over."""
    parts = [part.strip() for text in query.getlist("ids") for part in text.split(",")]
    numbers = [int(part) for part in parts if part.isascii() and part.isdigit() and len(part) < 10]
    return list(dict.fromkeys(numbers))


def compare_url(ids: Iterable[int], hide: bool = False) -> str:
    """The page that shows these cards side by side."""
    query: Mapping[str, str] = {"ids": ",".join(map(str, ids))} | ({"hide": "equal"} if hide else {})
    return f"{reverse('admin:inventory_card_compare')}?{urlencode(query, safe=',')}"


def source_link(card: Card) -> SafeString:
    """Where its figures are published."""
    if not card.source_url:
        return SafeString(ABSENT)
    return format_html(
        '<a class="link" href="{}" rel="noreferrer noopener" target="_blank" title="{}">{}</a>',
        *(card.source_url, card.source_url, _("source")),
    )


def order_buttons(brand: Brand) -> SafeString:
    """What moves a brand in its list: a handle to drag, and two buttons for those who do not drag (brands.js)."""
    up, down = (text % {"name": brand.name} for text in (_("Move %(name)s up"), _("Move %(name)s down")))
    icon = '<span class="material-symbols-outlined" aria-hidden="true">{}</span>'
    return format_html(
        '<span class="order" data-brand="{}" data-place="{}" data-name="{}">'
        f'<button type="button" class="order-handle" tabindex="-1" aria-hidden="true">{icon}</button>'
        f'<button type="button" class="order-up" aria-label="{{}}">{icon}</button>'
        f'<button type="button" class="order-down" aria-label="{{}}">{icon}</button></span>',
        *(brand.pk, brand.sort_order, brand.name, "drag_indicator", up, "arrow_upward", down, "arrow_downward"),
    )
