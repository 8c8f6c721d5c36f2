"""Counting what belongs to each row of a list, in the list's own query."""

from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce


def count_of(rows: QuerySet, key: str, *, of: str = "pk") -> Coalesce:
    """How many of ``rows`` point with ``key`` at ``of`` of the listed row; reckoned only for rows that are shown."""
    counted = rows.filter(**{key: OuterRef(of)}).order_by().values(key).annotate(n=Count("pk")).values("n")
    return Coalesce(Subquery(counted, output_field=IntegerField()), 0)
