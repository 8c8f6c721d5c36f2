from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DeploymentsConfig(AppConfig):
    name = "deployments"
    verbose_name = _("Services")

    def ready(self) -> None:
        from deployments import selectors
        from infini.stats import register

        register(selectors.counts)
