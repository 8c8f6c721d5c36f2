"""The fleet in the admin."""

from inventory.admin import catalogue, installations, servers

__all__ = ["catalogue", "installations", "servers"]
