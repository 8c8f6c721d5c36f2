"""The fleet in the admin."""

from inventory.admin import catalogue, devices, servers

__all__ = ["catalogue", "devices", "servers"]
