from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InventoryConfig(AppConfig):
    name = "inventory"
    verbose_name = _("Fleet")

    def ready(self) -> None:
        from infini.stats import register
        from inventory import selectors

        register(selectors.counts)
