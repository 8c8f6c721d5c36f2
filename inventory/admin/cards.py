"""Accelerator cards: the list of published figures, and up to six of them side by side."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import BaseForm, RecordAdmin, RelatedDropdownFilter, display
from infini.admin_verbs import Verb
from infini.csv_export import attributes
from infini.display import number
from infini.errors import InfiniError
from inventory.catalogue import refuse_foreign_brand
from inventory.models import Card
from inventory.shown_cards import MOST_COMPARED, asked_ids, compare_url, compared, source_link

COMPARE = Verb(
    name="compare",
    label=_("Compare"),
    icon="compare_arrows",
    permission="inventory.view_card",
    done=lambda rows: "",
    leads_to=lambda rows: compare_url(row.pk for row in rows),
)


class CardForm(BaseForm):
    def clean(self) -> dict[str, Any] | None:
        super().clean()
        brand = self.cleaned_data.get("brand")
        if brand and self.instance.pk and "brand" in self.changed_data:
            try:
                refuse_foreign_brand(Card.objects.get(pk=self.instance.pk), brand)
            except InfiniError as error:
                self.add_error("brand", error.message)
        self._refuse_twin()
        return self.cleaned_data

    def _refuse_twin(self) -> None:
        brand, name = self.cleaned_data.get("brand"), self.cleaned_data.get("name")
        if not brand or not name:
            return
        twins = Card.objects.filter(brand=brand, name__iexact=name, model__iexact=self.cleaned_data.get("model") or "")
        if twins.exclude(pk=self.instance.pk).exists():
            self.add_error("name", gettext("This brand has a card with this name and variant already."))


def _figure_column(name: str, title: Any) -> Any:
    @display(description=title, ordering=name)
    def column(card: Card) -> SafeString:
        return number(getattr(card, name))

    return column


@admin.register(Card)
class CardAdmin(RecordAdmin):
    find_icon = "memory"
    form = CardForm
    verbs = [COMPARE]
    list_display = [
        "named",
        _figure_column("memory", _("Memory GB")),
        _figure_column("fp8_perf", _("FP8 TFLOPS")),
        _figure_column("int8_perf", _("INT8 TOPS")),
        _figure_column("bf16_perf", _("BF16 TFLOPS")),
        _figure_column("fp16_perf", _("FP16 TFLOPS")),
        _figure_column("fp32_perf", _("FP32 TFLOPS")),
        _figure_column("interconnect_bandwidth", _("Link GB/s")),
        _figure_column("power", _("Power W")),
        "source",
    ]
    list_display_links = ["named"]
    list_select_related = ["brand"]
    list_filter = [("brand", RelatedDropdownFilter)]
    search_fields = ["name", "model", "brand__name", "brand__name_zh"]
    empty_text = _("Accelerator cards with their published figures.")
    list_title = _("Cards")
    csv_columns = attributes(
        *("id", "brand.name", "name", "model", *Card.FIGURES, "memory_type", "released", "source_url", "note")
    )
    fieldsets = [
        (None, {"fields": ["brand", "name", "model", "released"]}),
        (_("Figures"), {"fields": ["memory", "memory_type", *(f for f in Card.FIGURES if f != "memory")]}),
        (_("Where they are from"), {"fields": ["source_url", "note"]}),
    ]

    @display(description=_("Card"), ordering="name", header=True)
    def named(self, card: Card) -> list[str]:
        return [card.model or card.name, str(card.brand)]

    @display(description=_("Source"))
    def source(self, card: Card) -> SafeString:
        return source_link(card)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.compare_view)
        return [path("compare/", view, name="inventory_card_compare"), *super().get_urls()]

    def compare_view(self, request: HttpRequest) -> HttpResponse:
        """Up to six cards of ``?ids=`` side by side; what is alike may be hidden."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        ids = asked_ids(request.GET)
        found = Card.objects.select_related("brand").in_bulk(ids)
        cards = [found[pk] for pk in ids if pk in found]
        hide = "hide" in request.GET
        others = Card.objects.exclude(pk__in=found).select_related("brand")
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Compare cards"),
            "opts": self.opts,
            "left_out": len(cards) - MOST_COMPARED,
            "most": MOST_COMPARED,
            "hide": hide,
            "others": others.only("name", "model", "brand__name") if len(cards) < MOST_COMPARED else [],
            "list_url": reverse("admin:inventory_card_changelist"),
            **compared(cards[:MOST_COMPARED], hide=hide),
        }
        return TemplateResponse(request, "pages/cards.html", context)
