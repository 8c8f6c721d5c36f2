"""Events and ages in templates."""

from datetime import datetime

from django import template
from django.template import Context
from django.utils.safestring import SafeString

from infini.display import ago
from infini.event_facts import event_text
from infini.event_words import event_words
from infini.models import Event
from infini.timeline import subject_url

register = template.Library()


@register.simple_tag(takes_context=True)
def event_link(context: Context, event: Event) -> str:
    return subject_url(event, context.get("user")) or ""


@register.simple_tag
def event_does(event: Event) -> str:
    return event_words(event)


@register.simple_tag
def event_says(event: Event) -> str:
    return event_text(event)


@register.simple_tag
def event_age(event: Event) -> SafeString:
    return ago(event.at)


@register.filter
def age(moment: datetime | None) -> SafeString:
    return ago(moment)
