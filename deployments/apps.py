from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DeploymentsConfig(AppConfig):
    name = "deployments"
    verbose_name = _("Services")

    def ready(self) -> None:
        from deployments import limits, overview, selectors, surroundings
        from deployments import metrics as our_metrics
        from deployments.event_words import WORDS
        from infini import badges, dashboard, event_words, metrics, stats
        from inventory.terminals.surroundings import register

        stats.register(selectors.counts)
        dashboard.register(overview.overview)
        badges.register(overview.badges)
        event_words.register(WORDS)
        register(surroundings.surroundings)
        metrics.register(our_metrics.figures)
        limits.register()
