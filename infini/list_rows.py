"""The rows of a list in the admin as HTML, without a template for each cell: a page has hundreds of them.

What is told once for all rows, as a cell's head and how its value is read, is made once; the theme's own tag makes it
again for each cell, which took half of a page's time. Cells look by the class ``cell``, not by thirty of them each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import display_for_field, display_for_value
from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db.models import BooleanField, Field, Model
from django.utils.functional import Promise
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext

if TYPE_CHECKING:
    from infini.admin_base import PageChangeList

Reading = Callable[[Model], Any]
_ROW = (
    '<tbody class="block relative lg:table-row-group{}"><tr data-key="{}" class="data-row block border border-base-200 '
    'mb-3 relative rounded-default lg:table-row lg:border-none lg:mb-0 lg:rounded-none dark:border-base-800">{}</tr>'
    "</tbody>"
)
_HEADING = (
    '<tbody class="block lg:table-row-group"><tr class="block lg:table-row">'
    '<th class="list-heading" colspan="{}" scope="rowgroup">{}</th></tr></tbody>'
)
_STRIPES = ("", " bg-base-50 dark:bg-white/[.02]")
_HERE = "-the-row-"


@dataclass(frozen=True)
class Column:
    """One of a list: ``begins`` and ``ends`` are its cell's HTML around what ``reads`` gives for a row."""

    begins: str
    ends: str
    reads: Reading
    leads: bool  # to the row's page


def rows_html(cl: "PageChangeList", heads: list[dict[str, Any]]) -> SafeString:
    """Every row of the list; ``heads`` has the text of each column in "text"."""
    columns, kept = list(_columns(cl, heads)), _kept(cl)
    rows: list[str] = []
    above = ""
    for number, row in enumerate(cl.result_list):
        heading = cl.heading_of(row)
        if heading != above:
            rows.append(format_html(_HEADING, len(columns), heading))
            above = heading
        rows.append(
            _ROW.format(
                _STRIPES[number % 2],
                conditional_escape(row.pk),
                "".join(_cell(cl, column, row, kept) for column in columns),
            )
        )
    return mark_safe("".join(rows))  # noqa: S308  (each part is escaped where it is made)


def two_lines(lines: list[Any] | tuple[Any, ...]) -> SafeString:
    """What a column made with ``header=True`` shows: a first line, and below it quieter ones."""
    first, *more = lines
    below = format_html_join("", "<small>{}</small>", ((line,) for line in more if line))
    return format_html('<span class="two-lines"><span>{}</span>{}</span>', first, below)


def _columns(cl: "PageChangeList", heads: list[dict[str, Any]]) -> Iterator[Column]:
    links = cl.list_display_links
    led = False
    for name, head in zip(cl.list_display, heads, strict=True):
        if name == "action_checkbox":
            yield _box_column(cl)
            continue
        leads = links is not None and (name in links or not (links or led))
        tag = "th" if leads and not led else "td"
        led = led or leads
        begins = format_html('<{} class="cell field-{}" data-label="{}">', tag, _name_of(name), head["text"])
        yield Column(begins, f"</{tag}>", _reading(cl, name), leads)


def _name_of(column: Any) -> str:
    return column if isinstance(column, str) else column.__name__


def _box_column(cl: "PageChangeList") -> Column:
    before, after = cl.model_admin.action_checkbox(SimpleNamespace(pk=_HERE)).split(_HERE)
    label = gettext("Select record")
    begins = format_html('<td class="cell action-checkbox" data-label="{}">', label)
    return Column(begins, "</td>", lambda row: mark_safe(f"{before}{conditional_escape(row.pk)}{after}"), False)  # noqa: S308


def _kept(cl: "PageChangeList") -> str:
    """What follows each row's address, so that its page leads back to this list as it is filtered now."""
    if not cl.result_list:
        return ""
    url = cl.url_for_result(cl.result_list[0])
    whole: str = add_preserved_filters({"preserved_filters": cl.preserved_filters, "opts": cl.opts}, url)
    return whole.removeprefix(url)


def _cell(cl: "PageChangeList", column: Column, row: Model, kept: str) -> str:
    try:
        shown = column.reads(row)
    except ObjectDoesNotExist:
        shown = cl.model_admin.get_empty_value_display()
    if column.leads:
        opener = format_html(' data-popup-opener="{}"', row.pk) if cl.is_popup else ""
        shown = format_html('<a href="{}{}"{}>{}</a>', cl.url_for_result(row), kept, opener, shown)
    return f"{column.begins}{conditional_escape(shown)}{column.ends}"


def _reading(cl: "PageChangeList", column: Any) -> Reading:
    """How a column's value is found and shown: as Django does, a field, a function, the admin's, the row's."""
    admin = cl.model_admin
    empty = admin.get_empty_value_display()
    if isinstance(column, str):
        try:
            field = cl.opts.get_field(column)
        except FieldDoesNotExist:
            pass
        else:
            return _field_reading(field, empty)
    shows = column if callable(column) else getattr(admin, column, None) if column != "__str__" else None
    if shows is None:
        return lambda row: display_for_value(_of_row(row, column), empty)
    if getattr(shows, "header", False):
        return lambda row: two_lines(shows(row))
    own = getattr(shows, "empty_value_display", empty)
    return lambda row: _shown(shows(row), own)


def _shown(value: Any, empty: str) -> Any:
    """A text is shown as it is: `display_for_value` would make an escaped one and a lazy one both plain."""
    return value if isinstance(value, str | Promise) else display_for_value(value, empty)


def _field_reading(field: Any, empty: str) -> Reading:
    if field.many_to_one or field.one_to_one:
        return lambda row: empty if getattr(row, field.attname) is None else getattr(row, field.name)
    assert isinstance(field, Field)
    if isinstance(field, BooleanField):
        return lambda row: gettext("Yes") if getattr(row, field.attname) else gettext("No")
    return lambda row: display_for_field(getattr(row, field.attname), field, empty)


def _of_row(row: Model, name: str) -> Any:
    value = getattr(row, name)
    return value() if callable(value) else value
