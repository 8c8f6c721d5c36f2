"""The fleet in the admin."""

from inventory.admin import catalogue, devices, servers, terminals

__all__ = ["catalogue", "devices", "servers", "terminals"]
