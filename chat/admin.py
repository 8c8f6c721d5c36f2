"""The chat's and the gateway's pages in the admin."""

from django.utils.translation import gettext_lazy as _

from chat import gateway_admin
from chat.gateway_parts import CHAT_WITH, MONTH, RATE, service_usage
from infini.extras import add_column
from infini.tabs import Tab, add_tab

__all__ = ["gateway_admin"]  # it registers itself

add_column("infini.apikey", MONTH)
add_column("inventory.aimodel", CHAT_WITH)
add_column("deployments.service", RATE)
add_tab(
    "deployments.service",
    Tab(
        "usage",
        _("Usage"),
        "tabs/service_usage.html",
        "tabs/service_usage_chart.html",
        make=service_usage,
        permission="chat.view_trafficrule",
    ),
    after="events",
)
