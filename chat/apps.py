from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = _("Chat")

    def ready(self) -> None:
        from chat import environments, overview
        from infini import dashboard

        dashboard.register(overview.overview)
        environments.register()
