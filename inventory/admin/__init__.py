"""The fleet in the admin."""

from inventory.admin import catalogue, servers, terminals

__all__ = ["catalogue", "servers", "terminals"]
