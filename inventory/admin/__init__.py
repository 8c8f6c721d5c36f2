"""The fleet in the admin."""

from inventory.admin import catalogue, devices, installations, servers, terminals

__all__ = ["catalogue", "devices", "installations", "servers", "terminals"]
