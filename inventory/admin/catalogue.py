"""Environments, brands and models."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.db import transaction
from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini.admin_base import (
    BaseForm,
    PagedAdmin,
    RecordAdmin,
    RelatedDropdownFilter,
    UnfoldAdminFileFieldWidget,
    display,
)
from infini.counting import count_of
from infini.csv_export import CsvColumn, attributes
from infini.display import link
from infini.timeline import events_about
from infini.visibility import visible
from inventory import uploads
from inventory.catalogue import remove_environment
from inventory.models import AIModel, Brand, Card, Environment, Server
from inventory.shown_cards import card_table, order_buttons


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
    csv_columns = attributes("id", "name", "server_count", "model_count", "created_at")

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
class BrandAdmin(PagedAdmin, LogoAdmin):
    find_icon = "sell"
    page_template = "pages/brand.html"
    list_before_template = "partials/brand_order.html"
    list_per_page = 200  # they are put in order by hand, all of them in sight
    list_display = ["logo_shown", "name", "name_zh", "cards_shown", "servers_shown"]
    list_display_links = ["name"]
    search_fields = ["name", "name_zh"]
    fieldsets = [(None, {"fields": ["name", "name_zh", "vendor", "logo_file", "logo", "sort_order"]})]
    empty_text = _("Brands are makers of accelerators. The reference list loads at the first start.")
    removed_effect = _("Their cards are deleted with them. A brand that servers have is kept.")
    csv_columns = attributes(
        "id", "name", "name_zh", "vendor", "sort_order", "card_count", "server_count", "created_at"
    )

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        servers = visible(Server.objects.all(), request.user)
        return rows.annotate(card_count=count_of(Card.objects.all(), "brand"), server_count=count_of(servers, "brand"))

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        columns = super().get_list_display(request)
        return ["order_shown", *columns] if self._may_order(request) else columns

    def _may_order(self, request: HttpRequest) -> bool:
        """Only in the list's own order and with every brand in it."""
        return self.has_change_permission(request) and not any(request.GET.values())

    def page_context(self, request: HttpRequest, row: Brand) -> dict[str, Any]:
        own = Card.objects.filter(brand=row) if request.user.has_perm("inventory.view_card") else Card.objects.none()
        return {
            "live_seconds": 30,
            "logo": _logo(row),
            "compare_url": reverse("admin:inventory_card_compare"),
            "events": events_about(request.user, row),
            **card_table(own.select_related("brand")),
        }

    @display(description=_("Order"))
    def order_shown(self, brand: Brand) -> SafeString:
        return order_buttons(brand)

    @display(description="")
    def logo_shown(self, brand: Brand) -> SafeString:
        return _logo(brand)

    @display(description=_("Cards"), ordering="card_count")
    def cards_shown(self, brand: Any) -> SafeString:
        return link(f"{reverse('admin:inventory_card_changelist')}?brand__id__exact={brand.pk}", brand.card_count)

    @display(description=_("Servers"), ordering="server_count")
    def servers_shown(self, brand: Any) -> SafeString:
        return link(f"{reverse('admin:inventory_server_changelist')}?brand__id__exact={brand.pk}", brand.server_count)


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
    csv_columns = [
        *attributes("id", "name", "parameters"),
        CsvColumn("environments", lambda model: ", ".join(str(e) for e in model.environments.all())),
        *attributes("created_at"),
    ]

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        seen = visible(Environment.objects.all(), request.user)
        return rows.prefetch_related(Prefetch("environments", queryset=seen))

    @display(description="")
    def logo_shown(self, model: AIModel) -> SafeString:
        return _logo(model)

    @display(description=_("Environments"))
    def environments_shown(self, model: AIModel) -> str:
        return ", ".join(str(e) for e in model.environments.all()) or gettext("all")
