"""What people decide about themselves: the language they read, the time zone they live in, how close rows stand."""

import zoneinfo
from functools import lru_cache

from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext as _

from infini import events
from infini.errors import Invalid
from infini.models import User

UTC = zoneinfo.ZoneInfo("UTC")


@lru_cache(maxsize=1)
def time_zones() -> list[str]:
    """Names of the IANA time zones this machine knows, those of places first."""
    return sorted(zoneinfo.available_timezones(), key=lambda name: ("/" not in name, name))


def zone_or_utc(name: str) -> zoneinfo.ZoneInfo:
    """The zone; UTC when this machine no longer knows one that was chosen once."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return UTC


def set_preferences(user: User, *, language: str, time_zone: str, compact_lists: bool = False) -> None:
    """Empty: the browser's language, UTC. ``compact_lists``: rows of lists stand closer.

    Raises Invalid for a language or zone there is not.
    """
    if language and language not in dict(settings.LANGUAGES):
        raise Invalid(_("There is no such language."), fields={"language": [_("Choose one of the list.")]})
    if time_zone and time_zone not in time_zones():
        raise Invalid(
            _("There is no time zone %(time_zone)s.") % {"time_zone": time_zone},
            fields={"time_zone": [_("Choose one, such as Asia/Shanghai.")]},
        )
    before = User.objects.get(pk=user.pk)
    chosen = {"language": language, "time_zone": time_zone, "compact_lists": compact_lists}
    for name, value in chosen.items():
        setattr(user, name, value)
    changes = events.difference(before, user, set(chosen))
    if changes:
        with transaction.atomic():
            User.objects.filter(pk=user.pk).update(**chosen)
            events.record("user.changed", user, by=user, data=changes)
