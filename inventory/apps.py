from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InventoryConfig(AppConfig):
    name = "inventory"
    verbose_name = _("Fleet")

    def ready(self) -> None:
        from infini import badges, dashboard, event_words, stats
        from inventory import overview, selectors
        from inventory.event_words import WORDS

        stats.register(selectors.counts)
        dashboard.register(overview.overview)
        badges.register(overview.badges)
        event_words.register(WORDS)
