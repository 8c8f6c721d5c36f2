"""What is stored in English, in the reader's language."""

from django import template

from infini import said as language

register = template.Library()


@register.filter
def said(text: str | None) -> str:
    return language.said(text or "")
