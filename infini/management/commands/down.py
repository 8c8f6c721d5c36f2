"""`manage.py down`: end a running site and stop the instances on this machine."""

import os
import signal
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError
from django.utils.module_loading import import_string

from infini import first_start
from infini.errors import InfiniError
from infini.local_agent import NoAgent, running_agent

END_SECONDS = 15.0


class Command(BaseCommand):
    help = "End a running `up` and stop the instances of the local agent. Doing it twice changes nothing."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self._end_site()
        if not settings.AGENT_STATE_DIR.exists():
            self.stdout.write("No instance was ever deployed here.")
            return
        self._say_stopped_is_wanted()
        self._stop_instances()

    def _end_site(self) -> None:
        pid = first_start.running_pid()
        if pid is None:
            self.stdout.write("The site is not running.")
            return
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + END_SECONDS
        while first_start.running_pid() == pid:
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)  # its guard ends what it ran
            time.sleep(0.05)
        self.stdout.write(f"The site (process {pid}) has ended.")

    def _say_stopped_is_wanted(self) -> None:
        """Write down that these instances are to stay stopped, or the next start would bring them back."""
        for step in settings.DOWN_STEPS:
            try:
                import_string(step)()
            except (DatabaseError, InfiniError) as error:
                self.stderr.write(f"infini: what the database wants could not be changed: {error}")

    def _stop_instances(self) -> None:
        try:
            with running_agent() as agent:
                stopped = list(agent.stop_all())
        except NoAgent as error:
            self.stderr.write(f"infini: the local agent cannot be asked, so no instance was stopped: {error}")
            raise SystemExit(1) from None
        for key, pid, phase in stopped:
            self.stdout.write(f"Instance {key} (process {pid}): {phase}.")
        if not stopped:
            self.stdout.write("No instance was running.")
        if any(phase.startswith("not stopped") for _key, _pid, phase in stopped):
            raise SystemExit(1)
