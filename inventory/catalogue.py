"""Verbs on brands, cards and environments that are more than writing one row."""

from collections.abc import Mapping

from django.db import transaction
from django.db.models import Count, F
from django.utils.translation import gettext as _

from infini import events, records
from infini.errors import Conflict, Invalid
from infini.models import Event
from inventory.models import AIModel, Brand, Card, Environment, Server


def reorder_brands(orders: Mapping[int, int], *, by: events.Actor) -> None:
    """Give each brand id its place, all or none; raises Invalid naming the ids nobody knows."""
    with transaction.atomic():
        brands = list(Brand.objects.select_for_update().filter(pk__in=orders))
        unknown = sorted(set(orders) - {brand.pk for brand in brands})
        if unknown:
            text = _("There is no brand with the id %(names)s.") % {"names": ", ".join(map(str, unknown[:5]))}
            raise Invalid(text, fields={"orders": [text]})
        moved = [brand for brand in brands if brand.sort_order != orders[brand.pk]]
        happened = []
        for brand in moved:
            data = {"sort_order": [brand.sort_order, orders[brand.pk]]}
            happened.append(Event(**events.describe("brand.changed", brand, by=by, data=data)))
            Brand.objects.filter(pk=brand.pk).update(sort_order=orders[brand.pk], version=F("version") + 1)
        Event.objects.bulk_create(happened)


def refuse_foreign_brand(card: Card, brand: Brand) -> None:
    """A card in use keeps its brand, as its servers carry both; raises Conflict naming them."""
    if brand.pk == card.brand_id:
        return
    names = list(Server.objects.filter(card=card).values_list("name", flat=True)[:5])
    if names:
        raise Conflict(
            _("%(card)s keeps its brand while servers have it: %(names)s.") % {"card": card, "names": ", ".join(names)}
        )


def remove_environment(environment: Environment, *, by: events.Actor) -> None:
    """Delete it; raises Conflict when something is in it, or when a model would open to all environments."""
    with transaction.atomic():
        bound = AIModel.objects.filter(environments=environment).values("pk")
        alone = AIModel.objects.filter(pk__in=bound).annotate(n=Count("environments")).filter(n=1)
        names = list(alone.values_list("name", flat=True)[:5])
        if names:
            raise Conflict(
                _("%(environment)s is the only environment of %(names)s.")
                % {"environment": environment, "names": ", ".join(names)}
            )
        records.remove(environment, by=by)
