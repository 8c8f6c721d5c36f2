"""The fleet in the admin."""

from inventory.admin import cards, catalogue, devices, installations, people, servers, terminals

__all__ = ["cards", "catalogue", "devices", "installations", "people", "servers", "terminals"]
