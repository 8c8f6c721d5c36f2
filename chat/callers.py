"""Who may call: every usable key with what it opens, kept in memory and read anew where it changed."""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group
from django.db.models import Count, Max, Q, Sum
from django.utils import timezone

from chat.models import UsageDay
from infini.key_rules import LIMITS, Use, use_of
from infini.models import ApiKey, User
from infini.visibility import UNLIMITED, Environments, limits_of
from inventory.models import EnvironmentLimit

PERMISSION = "chat.use_chat"
# Keys changed so lately are read again each time: clocks of several machines differ.
_OVERLAP = timedelta(minutes=2)
_SPENT_EVERY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, and the key that was shown, if any (``key_id`` 0: by session, or the site on that person's behalf)."""

    user_id: int
    user_name: str
    may_chat: bool
    key_id: int = 0
    key_name: str = ""
    use: str = Use.ALL.value
    models: frozenset[str] = frozenset()  # casefolded; empty: all
    expires_at: float = float("inf")
    requests_per_minute: int = 0  # 0: no limit, here and below
    tokens_per_minute: int = 0
    concurrency: int = 0
    tokens_per_month: int = 0
    limited: bool = field(default=False)
    environments: Environments | None = None  # those the person is limited to; None: not limited

    def allows(self, *names: str) -> bool:
        """Whether one of a model's names is among those the key is for."""
        return not self.models or any(name.casefold() in self.models for name in names if name)


def caller_of_user(user: User) -> Caller:
    """Somebody known by session; reads the database for the permission and the limits."""
    may_chat = user.has_perm(PERMISSION)
    return Caller(user.pk, user.get_username(), may_chat, environments=limits_of(user))


class KeyRing:
    """Reads keys; remembers what it read. One thread at a time."""

    def __init__(self) -> None:
        self._callers: dict[str, Caller] = {}
        self._digests: dict[int, str] = {}
        self._people: Any = None
        self._read_at: datetime | None = None
        self._spent: dict[int, int] = {}
        self._spent_at = 0.0
        self.somebody_limited = False  # to environments

    def read(self) -> tuple[dict[str, Caller], dict[int, int]]:
        """Callers by their key's digest, and tokens spent this month by key id, of keys with a budget."""
        now = timezone.now()
        people = _people_mark()
        self.somebody_limited = bool(people[-1][0])
        if people != self._people or self._read_at is None:
            self._read_all(people)
        else:
            self._read_changed(self._read_at - _OVERLAP)
        self._read_at = now
        if time.monotonic() - self._spent_at > _SPENT_EVERY_SECONDS:
            self._spent, self._spent_at = self._read_spent(now), time.monotonic()
        return self._callers, self._spent

    def _read_all(self, people: Any) -> None:
        chatting, limits = _who_may_chat(), _who_is_limited()
        callers, digests = {}, {}
        for key in ApiKey.objects.filter(revoked_at=None, user__is_active=True).select_related("user"):
            callers[key.digest] = _caller(key, key.user_id in chatting, limits.get(key.user_id))
            digests[key.pk] = key.digest
        self._callers, self._digests, self._people = callers, digests, people

    def _read_changed(self, since: datetime) -> None:
        rows = list(ApiKey.objects.filter(changed_at__gte=since).select_related("user"))
        fresh = [key for key in rows if self._callers.get(key.digest) != self._as_known(key)]
        if not fresh:
            return
        chatting, limits = _who_may_chat(), _who_is_limited()
        callers = dict(self._callers)  # the one in use is not changed under its readers
        for key in fresh:
            if key.revoked_at or not key.user.is_active:
                callers.pop(key.digest, None)
            else:
                callers[key.digest] = _caller(key, key.user_id in chatting, limits.get(key.user_id))
                self._digests[key.pk] = key.digest
        self._callers = callers

    def _as_known(self, key: ApiKey) -> Caller | None:
        if key.revoked_at or not key.user.is_active:
            return None
        known = self._callers.get(key.digest)
        return _caller(key, known.may_chat, known.environments) if known else _NOBODY

    def _read_spent(self, now: datetime) -> dict[int, int]:
        ids = [caller.key_id for caller in self._callers.values() if caller.tokens_per_month]
        first = now.date().replace(day=1)
        spent: dict[int, int] = {}
        for begin in range(0, len(ids), 500):
            rows = UsageDay.objects.filter(key_id__in=ids[begin : begin + 500], day__gte=first)
            sums = rows.order_by().values_list("key_id").annotate(Sum("prompt_tokens"), Sum("completion_tokens"))
            spent |= {key_id: prompt + completion for key_id, prompt, completion in sums}
        return spent


_NOBODY = Caller(0, "", False)


def _caller(key: ApiKey, may_chat: bool, environments: Environments | None) -> Caller:
    scopes = key.scopes if isinstance(key.scopes, dict) else {}
    limits = key.limits if isinstance(key.limits, dict) else {}
    numbers = {name: limits[name] for name in LIMITS if isinstance(limits.get(name), int)}
    return Caller(
        user_id=key.user_id,
        user_name=key.user.get_username(),
        may_chat=may_chat,
        key_id=key.pk,
        key_name=key.name,
        use=use_of(key.scopes),
        models=frozenset(name.casefold() for name in scopes.get("models", ())),
        expires_at=key.expires_at.timestamp() if key.expires_at else float("inf"),
        limited=bool(numbers),
        environments=environments,
        **numbers,
    )


def _who_may_chat() -> set[int]:
    return set(User.objects.with_perm(PERMISSION).values_list("pk", flat=True))


def _who_is_limited() -> dict[int, Environments]:
    """By user id; those who may change people have no limits. One query where nobody is limited."""
    found: dict[int, set[int]] = defaultdict(set)
    for user_id, environment_id in EnvironmentLimit.objects.values_list("user_id", "environment_id"):
        found[user_id].add(environment_id)
    if found:
        for user_id in User.objects.with_perm(UNLIMITED).filter(pk__in=list(found)).values_list("pk", flat=True):
            del found[user_id]
    return {user_id: frozenset(ids) for user_id, ids in found.items()}


def _people_mark() -> Any:
    """Differs whenever a person came, went, was locked or unlocked, or was given or lost rights or limits."""
    active = Q(is_active=True)
    people = User.objects.aggregate(
        Count("pk"), Sum("pk"), live=Sum("pk", filter=active), above=Sum("pk", filter=Q(is_superuser=True))
    )
    given = [
        tuple(through.objects.aggregate(Count("pk"), Max("pk"), Sum("pk")).values())
        for through in (User.groups.through, User.user_permissions.through, Group.permissions.through, EnvironmentLimit)
    ]
    return tuple(people.values()), *given  # limits last
