"""Which servers a task reaches: those it names, and those whose labels fit its selector when it runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.models import BooleanField, ExpressionWrapper, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from infini.errors import Invalid
from infini.visibility import visible
from inventory.models import Server
from scheduler.models import Target, Task


@dataclass(frozen=True)
class Aim:
    """One server to run on. ``server_id`` None: it was deleted. ``obstacle`` says why nothing can begin there."""

    server_id: int | None
    server_name: str
    host: str
    account: str
    labels: dict[str, str]
    maintenance: bool
    obstacle: str = ""


@dataclass(frozen=True)
class Term:
    """One condition of a selector: ``name``, ``!name``, ``name=text`` or ``name!=text``."""

    name: str
    text: str | None
    negated: bool

    def __str__(self) -> str:
        sign = "!" if self.negated else ""
        return f"{sign}{self.name}" if self.text is None else f"{self.name}{sign}={self.text}"

    def holds(self, labels: dict[str, str]) -> bool:
        found = self.name in labels if self.text is None else labels.get(self.name) == self.text
        return found != self.negated


def read_selector(selector: str) -> list[Term]:
    """The terms of ``selector``, all of which must hold; raises Invalid when it cannot be read."""
    terms = [_read_term(part.strip()) for part in selector.split(",") if part.strip()]
    if selector.strip() and not terms:
        raise _unreadable(selector)
    return terms


def _read_term(part: str) -> Term:
    name, sign, text = part.partition("=")
    negated = name.endswith("!") if sign else name.startswith("!")
    name = (name.removesuffix("!") if sign else name.removeprefix("!")).strip()
    if not name or "=" in text or "!" in name:
        raise _unreadable(part)
    return Term(name, text.strip() if sign else None, negated)


def _unreadable(part: str) -> Invalid:
    text = _("%(part)s is no condition; write name, name=text, name!=text or !name, with commas between.")
    said = text % {"part": repr(part)}
    return Invalid(said, fields={"selector": [said]})


def aims_of(task: Task) -> list[Aim]:
    """Where ``task`` would run now, by name; servers that were deleted since among them."""
    targets = list(Target.objects.filter(task=task))
    gone = [target.server_name for target in targets if target.server_id is None]
    named = {target.server_id for target in targets if target.server_id is not None}
    return aims(named, task.selector, task.account, gone=gone)


def aims(named: Iterable[int], selector: str, account: str = "", *, gone: Sequence[str] = ()) -> list[Aim]:
    """The servers of these ids and those ``selector`` fits; one query. Raises Invalid for an unreadable selector."""
    wanted, terms = set(named), read_selector(selector)
    columns = ("name", "host_ip", "username", "labels", "maintenance", "environment__name", "brand__name")
    secret = ExpressionWrapper(~Q(password="") | ~Q(private_key=""), output_field=BooleanField())
    rows = Server.objects.select_related("environment", "brand").only(*columns).annotate(has_secret=secret)
    if not terms:
        rows = rows.filter(pk__in=wanted)
    found = [_aim(server, account) for server in rows]
    chosen = [a for a in found if a.server_id in wanted or (terms and all(t.holds(a.labels) for t in terms))]
    deleted = [Aim(None, name, "", "", {}, False, gettext_noop("This server was deleted.")) for name in gone]
    return sorted([*chosen, *deleted], key=lambda aim: aim.server_name)


def idle_terms(selector: str, *, by: Any) -> list[str]:
    """Those terms that fit none of the servers ``by`` sees, each for itself; one query."""
    terms = read_selector(selector)
    if not terms:
        return []
    rows = Server.objects.order_by().select_related("environment", "brand")
    rows = visible(rows.only("name", "labels", "environment__name", "brand__name"), by)
    known = [_labels_of(server) for server in rows]
    return [str(term) for term in terms if not any(term.holds(labels) for labels in known)]


def _labels_of(server: Server) -> dict[str, str]:
    """Its own, and those every server has, which no label overrides."""
    implied = {"name": server.name}
    implied |= {"environment": server.environment.name} if server.environment else {}
    implied |= {"brand": server.brand.name} if server.brand else {}
    return (server.labels if isinstance(server.labels, dict) else {}) | implied


def _aim(server: Any, account: str) -> Aim:
    user = account or server.username
    obstacle = "" if server.has_secret else gettext_noop("Neither password nor private key is stored for this server.")
    obstacle = obstacle if server.username else gettext_noop("No SSH account is set for this server.")
    return Aim(server.pk, server.name, server.host_ip, user, _labels_of(server), server.maintenance, obstacle)
