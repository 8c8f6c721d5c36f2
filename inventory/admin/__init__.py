"""The fleet in the admin."""

from inventory.admin import catalogue, servers

__all__ = ["catalogue", "servers"]
