from typing import Any

from django.core.management.base import BaseCommand

from inventory.reference import load_reference_cards


class Command(BaseCommand):
    help = "Make the brands and accelerator cards of the reference data that are missing; changes none that exist."

    def handle(self, *args: Any, **options: Any) -> None:
        made = load_reference_cards()
        self.stdout.write(f"{made['brands']} brands and {made['cards']} cards made.")
