"""The chat's and the gateway's pages in the admin."""

from chat import gateway_admin

__all__ = ["gateway_admin"]  # it registers itself
