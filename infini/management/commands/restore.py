"""`manage.py restore`: a site from a file that `manage.py backup` wrote."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from infini import backups


class Command(BaseCommand):
    help = "Put a backup in the data directory's place. The site must not run; what was there before is kept aside."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file")

    def handle(self, *args: Any, **options: Any) -> None:
        backup, aside = backups.restore(Path(options["file"]).absolute())
        self.stdout.write(f"Restored from {backup.made_at:%Y-%m-%d %H:%M:%S} UTC, of Infini {backup.version}.")
        if aside:
            self.stdout.write(f"What was here before is in {aside}.")
        if not backup.has_database:
            self.stdout.write("The database is PostgreSQL's and was not in it: bring that back with pg_restore.")
        self.stdout.write("`make up` starts it. Instances go on as they run; what was revoked since is valid again.")
