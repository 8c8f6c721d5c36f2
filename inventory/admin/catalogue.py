"""Environments, brands, cards and models."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import BaseForm, RecordAdmin, RelatedDropdownFilter, UnfoldAdminFileFieldWidget, display
from infini.counting import count_of
from infini.display import ABSENT, link, number
from infini.errors import InfiniError
from inventory import uploads
from inventory.catalogue import refuse_foreign_brand, remove_environment
from inventory.models import AIModel, Brand, Card, Environment, Server


def _logo(row: Brand | AIModel) -> SafeString:
    if row.logo:
        return format_html('<img class="logo" src="{}" alt="" width="28" height="28" loading="lazy">', row.logo)
    return format_html('<span class="logo logo-letter" aria-hidden="true">{}</span>', row.name[:1].upper())


class LogoForm(BaseForm):
    logo_file = forms.ImageField(
        label=_("Logo"), required=False, widget=UnfoldAdminFileFieldWidget, help_text=_("png, jpg, gif or webp")
    )


class LogoAdmin(RecordAdmin):
    form = LogoForm

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        file = form.cleaned_data.get("logo_file")
        if not file:
            super().save_model(request, obj, form, change)
            return
        file.seek(0)
        with uploads.stored_picture(file, field="logo_file") as obj.logo, transaction.atomic():
            super().save_model(request, obj, form, change)

    def changed_columns(self, form: Any) -> set[str]:
        return super().changed_columns(form) | ({"logo"} if "logo_file" in form.changed_data else set())


@admin.register(Environment)
class EnvironmentAdmin(RecordAdmin):
    list_display = ["name", "servers_shown", "models_shown"]
    search_fields = ["name"]
    fieldsets = [(None, {"fields": ["name"]})]
    remove = staticmethod(remove_environment)
    empty_text = _("Environments separate servers and models, as development from production.")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        bound = AIModel.environments.through.objects.all()
        return rows.annotate(
            server_count=count_of(Server.objects.all(), "environment"), model_count=count_of(bound, "environment")
        )

    @display(description=_("Servers"), ordering="server_count")
    def servers_shown(self, environment: Any) -> SafeString:
        url = f"{reverse('admin:inventory_server_changelist')}?environment__id__exact={environment.pk}"
        return link(url, environment.server_count)

    @display(description=_("Models"), ordering="model_count")
    def models_shown(self, environment: Any) -> SafeString:
        url = f"{reverse('admin:inventory_aimodel_changelist')}?environments__id__exact={environment.pk}"
        return link(url, environment.model_count)


@admin.register(Brand)
class BrandAdmin(LogoAdmin):
    find_icon = "sell"
    list_display = ["logo_shown", "name", "name_zh", "cards_shown", "servers_shown", "sort_order"]
    list_display_links = ["name"]
    search_fields = ["name", "name_zh"]
    fieldsets = [(None, {"fields": ["name", "name_zh", "vendor", "logo_file", "logo", "sort_order"]})]
    empty_text = _("Brands are makers of accelerators. The reference list loads at the first start.")
    removed_effect = _("Their cards are deleted with them. A brand that servers have is kept.")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.annotate(
            card_count=count_of(Card.objects.all(), "brand"), server_count=count_of(Server.objects.all(), "brand")
        )

    @display(description="")
    def logo_shown(self, brand: Brand) -> SafeString:
        return _logo(brand)

    @display(description=_("Cards"), ordering="card_count")
    def cards_shown(self, brand: Any) -> SafeString:
        return link(f"{reverse('admin:inventory_card_changelist')}?brand__id__exact={brand.pk}", brand.card_count)

    @display(description=_("Servers"), ordering="server_count")
    def servers_shown(self, brand: Any) -> SafeString:
        return link(f"{reverse('admin:inventory_server_changelist')}?brand__id__exact={brand.pk}", brand.server_count)


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
        if not card.source_url:
            return SafeString(ABSENT)
        return format_html(
            '<a class="link" href="{}" rel="noreferrer noopener" target="_blank" title="{}">{}</a>',
            *(card.source_url, card.source_url, gettext("source")),
        )


@admin.register(AIModel)
class AIModelAdmin(LogoAdmin):
    find_icon = "smart_toy"
    list_display = ["logo_shown", "name", "parameters", "environments_shown"]
    list_display_links = ["name"]
    list_filter = [("environments", RelatedDropdownFilter)]
    search_fields = ["name"]
    empty_text = _("A model is what services serve.")
    fieldsets = [(None, {"fields": ["name", "parameters", "logo_file", "logo", "environments"]})]
    removed_effect = _("A model that services have is kept.")

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        return rows.prefetch_related("environments")

    @display(description="")
    def logo_shown(self, model: AIModel) -> SafeString:
        return _logo(model)

    @display(description=_("Environments"))
    def environments_shown(self, model: AIModel) -> str:
        return ", ".join(str(e) for e in model.environments.all()) or gettext("all")
