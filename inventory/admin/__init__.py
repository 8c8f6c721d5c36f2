"""The fleet in the admin."""

from inventory.admin import cards, catalogue, devices, servers

__all__ = ["cards", "catalogue", "devices", "servers"]
