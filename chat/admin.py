"""The chat's and the gateway's pages in the admin."""

from chat import gateway_admin
from chat.gateway_parts import CHAT_WITH, MONTH, service_part
from infini.extras import add_column, add_part

__all__ = ["gateway_admin"]  # it registers itself

add_column("infini.apikey", MONTH)
add_column("inventory.aimodel", CHAT_WITH)
add_part("deployments.service", service_part)
