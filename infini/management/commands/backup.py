"""`manage.py backup`: the site as one file, while it runs."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from infini import backups


class Command(BaseCommand):
    help = "Write database, keys, uploads and recordings to one file. The site may run meanwhile."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", nargs="?", help="default: infini-<now>.tar.gz in this directory")

    def handle(self, *args: Any, **options: Any) -> None:
        path = Path(options["file"] or f"infini-{timezone.now():%Y%m%d-%H%M%S}.tar.gz").absolute()
        made = backups.back_up(path)
        size = path.stat().st_size / 1024**2
        self.stdout.write(f"{path}: {size:.1f} MiB. It holds the keys to every stored secret; keep it as one.")
        if not made.has_database:
            self.stdout.write("The database is PostgreSQL's and not in it: take that with pg_dump.")
