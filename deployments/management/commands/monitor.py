"""`manage.py monitor`: the loop that keeps what the site says true."""

import asyncio
import signal
from typing import Any

from django.core.management.base import BaseCommand

from deployments.monitor import Monitor
from infini import rounds
from inventory.agents import keep_connections_small


class Command(BaseCommand):
    help = "Ask every agent for its report every few seconds, record it, and queue the steps that are due."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        keep_connections_small()
        monitor = Monitor()
        try:
            with rounds.kept(monitor.leads):
                asyncio.run(monitor.run())
        except KeyboardInterrupt:
            self.stdout.write("monitor: ended")
