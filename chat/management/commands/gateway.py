"""`manage.py gateway`: the gateway alone, under uvicorn."""

from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandParser

from chat.serving import serve


class Command(BaseCommand):
    help = (
        "Run the gateway alone: OpenAI's paths under /v1 and the completions of services, many times faster than web."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, help="where to listen; INFINI_GATEWAY_PORT when left out")
        parser.add_argument("--fd", type=int, help="a listening socket to use instead")

    def handle(self, *args: Any, port: int | None, fd: int | None, **options: Any) -> None:
        port = port or settings.GATEWAY_PORT
        if not port and fd is None:
            raise ImproperlyConfigured("Set INFINI_GATEWAY_PORT to the port the gateway is to listen on.")
        with suppress(KeyboardInterrupt):  # uvicorn ends in good order and then passes the signal on
            serve(host=settings.HOST.strip("[]"), port=port, fd=fd)
