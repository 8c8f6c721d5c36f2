"""`manage.py apikey`: make, list and revoke keys from the shell."""

from datetime import timedelta
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from infini import keys
from infini.errors import InfiniError
from infini.key_rules import LIMITS, Use
from infini.models import ApiKey, User


class Refused(ImproperlyConfigured):
    """One line for stderr; manage.py prints it and exits with 2."""


class Command(BaseCommand):
    help = "Make an API key (printed alone on stdout), list keys, or revoke one."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="print a new key; it cannot be shown again")
        create.add_argument("--user", required=True, help="whose rights the key has")
        create.add_argument("--name", required=True, help="what the key is for")
        create.add_argument("--expires-days", type=int, help="days until it ends; never, when left out")
        create.add_argument(
            "--use", choices=Use.values, default=Use.ALL.value, help="models: no API; read: only its GET"
        )
        create.add_argument("--models", help="names it may ask for, comma separated; all, when left out")
        for name in LIMITS:
            create.add_argument(f"--{name.replace('_', '-')}", type=int, help="no limit, when left out")
        verbs.add_parser("list", help="all keys by prefix, without their secrets")
        revoke = verbs.add_parser("revoke", help="end a key")
        revoke.add_argument("--prefix", required=True, help="as `list` shows it")

    def handle(self, *args: Any, verb: str, **options: Any) -> None:
        try:
            getattr(self, f"_{verb}")(options)
        except InfiniError as error:
            raise Refused(error.message) from None
        except DatabaseError as error:
            raise Refused(f"The database does not answer ({error}). Has the site been started once?") from None

    def _create(self, options: dict[str, Any]) -> None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise Refused(
                f"There is no user {options['user']!r}. Create one on the site under Users, "
                "or with: manage.py createsuperuser"
            )
        days = options["expires_days"]
        if days is not None and not 1 <= days <= 36500:
            raise Refused("--expires-days must lie between 1 and 36500.")
        expires_at = timezone.now() + timedelta(days=days) if days else None
        names = [name.strip() for name in (options["models"] or "").split(",") if name.strip()]
        _key, text = keys.create_key(
            user=user,
            name=options["name"],
            by=None,
            expires_at=expires_at,
            scopes={"use": options["use"], "models": names},
            limits={name: options[name] for name in LIMITS},
        )
        self.stdout.write(text)

    def _list(self, options: dict[str, Any]) -> None:
        for key in ApiKey.objects.select_related("user"):
            self.stdout.write(f"{key.prefix}  {key.user.get_username()}  {_state(key)}  {key.name}")

    def _revoke(self, options: dict[str, Any]) -> None:
        found = list(ApiKey.objects.filter(prefix=options["prefix"]))
        if not found:
            raise Refused(f"There is no key with the prefix {options['prefix']!r}; see: manage.py apikey list")
        if len(found) > 1:
            raise Refused(f"{len(found)} keys have the prefix {options['prefix']!r}; revoke the right one on the site.")
        keys.revoke_key(found[0], by=None)
        self.stdout.write(f"{found[0]} is revoked.")


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return "revoked"
    if key.expires_at:
        return ("expired " if key.expires_at <= timezone.now() else "until ") + f"{key.expires_at:%Y-%m-%d}"
    return "unlimited"
