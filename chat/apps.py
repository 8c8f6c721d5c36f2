from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = _("Chat")

    def ready(self) -> None:
        from chat import environments, overview
        from chat import metrics as our_metrics
        from infini import dashboard, metrics

        dashboard.register(overview.overview)
        metrics.register(our_metrics.figures)
        environments.register()
