"""What each line would do: add a server, change one, nothing, or why it cannot; and doing it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import models, transaction
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini import events, records
from infini.errors import InfiniError, Invalid
from infini.visibility import limits_of, visible
from inventory.imports.table import COLUMNS, Table
from inventory.models import Brand, Card, Environment, Server
from inventory.servers import SECRETS, brand_for, check_agent_token, check_host, check_labels


class Verdict(models.TextChoices):
    NEW = "new", _("New")
    CHANGE = "change", _("Change")
    SAME = "same", _("Already so")
    DUPLICATE = "duplicate", _("Twice here")
    ERROR = "error", _("Error")


@dataclass
class Line:
    """One line judged. ``values`` are columns of Server; ``changes`` names those that would differ."""

    number: int
    name: str
    host: str
    values: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict = Verdict.ERROR
    problems: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    server: Server | None = None


class _Known:
    """All that lines are compared with, in four queries whatever their number."""

    def __init__(self, by: events.Actor) -> None:
        servers = list(visible(Server.objects.all(), by).select_related("environment", "brand", "card"))
        self.by_name = {server.name.casefold(): server for server in servers}
        self.hosts = Counter(server.host_ip for server in servers)
        self.by_host = {server.host_ip: server for server in servers}
        self.environments = {e.name.casefold(): e for e in visible(Environment.objects.all(), by)}
        self.must_say_where = limits_of(by) is not None
        self.brands = {b.name.casefold(): b for b in Brand.objects.all()}
        self.cards: dict[str, list[Card]] = {}
        for card in Card.objects.select_related("brand"):
            for name in {card.name.casefold(), card.model.casefold()} - {""}:
                self.cards.setdefault(name, []).append(card)

    def server_of(self, name: str, host: str) -> Server | None:
        """The one of this name; without a name of its own, the only one at this address."""
        if name:
            return self.by_name.get(name.casefold())
        return self.by_host.get(host) if self.hosts[host] == 1 else None


def judge(table: Table, columns: Sequence[str], *, by: events.Actor) -> list[Line]:
    """What each line would do if ``by`` wrote it; raises Invalid when no column is the address or one stands twice."""
    chosen = [column for column in columns if column]
    if "host_ip" not in chosen:
        raise Invalid(
            gettext("Say which column is the address."), fields={"columns": [gettext("None of them is the address.")]}
        )
    if len(set(chosen)) < len(chosen) or set(chosen) - set(COLUMNS):
        raise Invalid(
            gettext("Each field takes one column."),
            fields={"columns": [gettext("A field stands twice, or is unknown.")]},
        )
    known = _Known(by)
    seen: dict[str, int] = {}
    return [_judged(number, _cells(columns, cells), known, seen) for number, cells in table.rows]


def write(lines: Sequence[Line], *, by: events.Actor) -> Counter[str]:
    """Add and change what the lines say, all or nothing; how many of each verdict. Lines with errors are left out.

    Raises InfiniError, naming the line, when another person was faster.
    """
    done: Counter[str] = Counter()
    with transaction.atomic():
        for line in lines:
            try:
                _write(line, by=by)
            except InfiniError as error:
                raise Invalid(
                    gettext("Line %(number)s: %(message)s Nothing was written; look again.")
                    % {"number": line.number, "message": error.message}
                ) from None
            done[line.verdict] += 1
    return done


def _write(line: Line, *, by: events.Actor) -> None:
    if line.verdict == Verdict.NEW:
        records.create(Server(**line.values), by=by)
    elif line.verdict == Verdict.CHANGE and line.server is not None:
        for name, value in line.values.items():
            setattr(line.server, name, value)
        records.change(line.server, set(line.values), by=by, version=line.server.version)


def _cells(columns: Sequence[str], cells: list[str]) -> dict[str, str]:
    pairs = zip(columns, cells, strict=False)
    return {column: text for column, text in pairs if column and text}


def _judged(number: int, cells: dict[str, str], known: _Known, seen: dict[str, int]) -> Line:
    line = Line(number, cells.get("name", ""), cells.get("host_ip", ""))
    line.values = _values(line, cells, known)
    line.server = known.server_of(line.name, line.host)
    if not line.name:
        line.name = line.server.name if line.server else line.host
    line.values["name"] = line.name
    if known.must_say_where and line.server is None and "environment" not in line.values:
        line.problems.append(gettext("You are limited to some environments: say which one it is in."))
    if line.problems:
        return line
    earlier = seen.setdefault(line.name.casefold(), number)
    if earlier != number:
        line.verdict = Verdict.DUPLICATE
        line.problems.append(
            gettext("%(name)s stands in line %(earlier)s already.") % {"name": line.name, "earlier": earlier}
        )
    elif line.server is None:
        line.verdict = Verdict.NEW
    else:
        line.changes = [n for n, value in line.values.items() if getattr(line.server, n) != value]
        line.verdict = Verdict.CHANGE if line.changes else Verdict.SAME
    return line


def _values(line: Line, cells: dict[str, str], known: _Known) -> dict[str, Any]:
    """The columns of a server, each checked as everywhere else; what is wrong is noted in the line."""
    values: dict[str, Any] = {}
    for column, text in cells.items():
        try:
            values |= _value(column, text, known)
        except InfiniError as error:
            line.problems += [told for texts in error.fields.values() for told in texts] or [error.message]
    if not line.host:
        line.problems.append(gettext("The address is missing."))
    elif "host_ip" in values:
        line.host = values["host_ip"]
    _settle_brand(line, values)
    return values


def _value(column: str, text: str, known: _Known) -> dict[str, Any]:
    if column in ("port", "agent_port"):
        return {column: _port(text)}
    if column == "host_ip":
        return {column: check_host(text)}
    if column == "agent_token":
        return {column: check_agent_token(text)}
    if column == "labels":
        return {column: check_labels(_labels(text))}
    if column == "environment":
        return {column: _named(known.environments, text, "environment")}
    if column == "brand":
        return {column: _named(known.brands, text, "brand")}
    if column == "card":
        return {column: _card(known, text)}
    if len(text) > 1000 or (column not in SECRETS and len(text) > 100):
        raise Invalid(gettext("%(column)s is too long.") % {"column": column})
    return {column: text}


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 65535):
        raise Invalid(gettext("%(text)s is no port; one from 1 to 65535 is needed.") % {"text": text})
    return int(text)


def _labels(text: str) -> dict[str, str]:
    """``rack=a1;zone=b``"""
    pairs = [part.partition("=") for part in text.replace(",", ";").split(";") if part.strip()]
    if any(not sign for _name, sign, _text in pairs):
        raise Invalid(gettext("Labels are written as rack=a1;zone=b."))
    return {name.strip(): value.strip() for name, _sign, value in pairs}


def _named(rows: dict[str, Any], text: str, what: str) -> Any:
    if text.casefold() not in rows:
        raise Invalid(gettext("There is no %(what)s %(text)s; add it first.") % {"what": what, "text": text})
    return rows[text.casefold()]


def _card(known: _Known, text: str) -> Card:
    found = known.cards.get(text.casefold(), [])
    if len(found) != 1:
        raise Invalid(
            gettext("There is no card %(text)s.") % {"text": text}
            if not found
            else gettext("More than one card is called %(text)s.") % {"text": text}
        )
    return found[0]


def _settle_brand(line: Line, values: dict[str, Any]) -> None:
    """A card brings its brand with it."""
    if "card" in values:
        try:
            values["brand"] = brand_for(brand=values.get("brand"), card=values["card"], brand_given="brand" in values)
        except InfiniError as error:
            line.problems.append(error.message)
