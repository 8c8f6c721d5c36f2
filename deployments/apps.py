from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DeploymentsConfig(AppConfig):
    name = "deployments"
    verbose_name = _("Services")

    def ready(self) -> None:
        from deployments import overview, selectors, surroundings
        from infini import dashboard, stats
        from inventory.terminals.surroundings import register

        stats.register(selectors.counts)
        dashboard.register(overview.overview)
        register(surroundings.surroundings)
