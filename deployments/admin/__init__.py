"""Services and operations in the admin, and what they add to the pages of the fleet."""

from deployments.admin import fleet, operations, services, unknown

__all__ = ["fleet", "operations", "services", "unknown"]
