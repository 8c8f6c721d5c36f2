"""`manage.py up`: the whole site from one command."""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from infini import first_start
from infini.site import Ready, Site


def run_site(when_ready: Ready | None = None) -> int:
    """Check, prepare, run until a signal; returns the exit code. Raises StartRefused when it cannot start."""
    first_start.prepare_data_dir()
    with first_start.only_one():
        first_start.check_ports(lambda text: print(text, flush=True))
        print("Preparing the database ...", flush=True)
        return Site(password=first_start.prepare_database()).run(when_ready)


class Command(BaseCommand):
    help = "Run the whole site: web, worker, monitor and the local agent, until Ctrl-C."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            sys.exit(run_site())
        except KeyboardInterrupt:
            sys.exit(130)  # interrupted before anything ran
