"""What the API writes is what DRF would have written, to the letter of every value."""

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from rest_framework import renderers

from infini.api import JSONRenderer
from infini.models import AlertKind

VALUES = [
    None,
    [],
    {"id": 1, "share": 0.1, "big": 2**53, "none": None, "yes": True},
    {1: "a number for a name", None: "none"},
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    [date(2026, 1, 2), time(3, 4), timedelta(minutes=2), Decimal("1.50"), UUID(int=7)],
    {"lazy": gettext_lazy("Name"), "safe": mark_safe("<b>"), "choice": AlertKind.values[0], "tuple": (1, 2)},
    {"text": '模型 \u2028 \u0007 \\ " 😀 é'},
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_it_reads_as_drf_wrote_it(value: object) -> None:
    ours, theirs = JSONRenderer().render(value), renderers.JSONRenderer().render(value)
    assert (ours and json.loads(ours)) == (theirs and json.loads(theirs))


def test_whoever_asks_for_it_gets_it_indented() -> None:
    told = JSONRenderer().render({"a": 1}, "application/json; indent=4")
    assert told == b'{\n    "a": 1\n}'
