from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class InventoryConfig(AppConfig):
    name = "inventory"
    verbose_name = _("Fleet")

    def ready(self) -> None:
        from infini import badges, clusters, dashboard, event_words, metrics, stats
        from inventory import limits, overview, selectors
        from inventory import metrics as our_metrics
        from inventory.event_words import WORDS
        from inventory.installation import queueing

        stats.register(selectors.counts)
        dashboard.register(overview.overview)
        badges.register(overview.badges)
        event_words.register(WORDS)
        clusters.register_waiting(queueing.waits_since)
        metrics.register(our_metrics.figures)
        limits.register()
