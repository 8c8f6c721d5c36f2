"""The pages of commands; each module registers its own."""

from scheduler.admin import library, runs, tasks

__all__ = ["library", "runs", "tasks"]
