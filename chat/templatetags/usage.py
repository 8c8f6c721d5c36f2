"""Figures in the page of usage."""

from django import template

register = template.Library()


@register.filter
def thousands(amount: int | None) -> str:
    """``1,234,567``; a dash for nothing known."""
    return "–" if amount is None else f"{amount:,}"
