"""The table of a list in the admin, and the way that leads to it."""

from typing import TYPE_CHECKING, Any

from django import template
from django.template import Context

from infini import unfold_settings
from infini.list_rows import rows_html

if TYPE_CHECKING:
    from infini.admin_base import PageChangeList

register = template.Library()


@register.filter
def crumbs(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return unfold_settings.crumbs(parts)


@register.inclusion_tag("partials/list_table.html", takes_context=True)
def list_table(context: Context, cl: "PageChangeList") -> dict[str, Any]:
    heads = cl.heads()
    return {
        "cl": cl,
        "result_headers": heads,
        "num_sorted_fields": sum(1 for head in heads if head["sortable"] and head["sorted"]),
        "rows": rows_html(cl, heads) if len(cl.result_list) else "",
        "has_add_permission": cl.model_admin.has_add_permission(context["request"]),
    }
