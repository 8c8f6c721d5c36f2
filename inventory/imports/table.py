"""Reading what people paste: CSV of any common delimiter, a spreadsheet's cells, or just one address a line."""

import csv
import io
from dataclasses import dataclass

from django.utils.translation import gettext

from infini.errors import Invalid, TooLarge

MAX_LINES = 2000
MAX_BYTES = 1024 * 1024
_DELIMITERS = ",;\t|"

# What a column of people's files is called, in either language, without case and punctuation.
_TITLES = {
    "name": ("name", "server", "servername", "hostname", "名称", "服务器", "主机名"),
    "host_ip": ("hostip", "host", "ip", "address", "ipaddress", "地址", "ip地址", "主机"),
    "port": ("port", "sshport", "端口", "ssh端口"),
    "username": ("username", "user", "account", "sshaccount", "login", "用户名", "账号", "用户"),
    "password": ("password", "pass", "密码"),
    "agent_port": ("agentport", "agent端口"),
    "agent_token": ("agenttoken", "token", "令牌"),
    "environment": ("environment", "env", "环境"),
    "brand": ("brand", "vendor", "品牌"),
    "card": ("card", "gpu", "accelerator", "model", "加速卡", "型号"),
    "labels": ("labels", "tags", "标签"),
}
COLUMNS = tuple(_TITLES)
# What lines without titles are taken for, by the number of their cells.
_UNTITLED = ("host_ip", "name", "username", "password", "port")


@dataclass(frozen=True)
class Table:
    """Cells with the number of the line each row stands in; ``titles`` is empty when the first line has none."""

    titles: list[str]
    rows: list[tuple[int, list[str]]]

    @property
    def width(self) -> int:
        return max([len(self.titles), *(len(cells) for _, cells in self.rows)], default=0)


def read_table(text: str) -> Table:
    """Raises TooLarge, and Invalid when there is no line to read."""
    if len(text.encode()) > MAX_BYTES:
        raise TooLarge(gettext("At most %(n)s KiB can be read at once.") % {"n": MAX_BYTES // 1024})
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text), skipinitialspace=True)
    rows = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped) and not stripped[0].startswith("#"):
                rows.append((reader.line_num, stripped))
    except csv.Error as error:
        raise Invalid(
            gettext("Line %(line_num)s cannot be read: %(error)s.") % {"line_num": reader.line_num, "error": error}
        ) from None
    if not rows:
        raise Invalid(gettext("There is no line to read."), fields={"text": [gettext("Paste at least one line.")]})
    titled = _is_header(rows[0][1])
    body = rows[1:] if titled else rows
    if len(body) > MAX_LINES:
        raise TooLarge(
            gettext("At most %(n)s lines at once; these are %(given)s.") % {"n": MAX_LINES, "given": len(body)}
        )
    return Table(rows[0][1] if titled else [], body)


def guess_columns(table: Table) -> list[str]:
    """Which field each column is; empty: left out. No field stands twice."""
    guessed = [_column_of(title) for title in table.titles] if table.titles else list(_UNTITLED)
    guessed = (guessed + [""] * table.width)[: table.width]
    return [column if column not in guessed[:at] else "" for at, column in enumerate(guessed)]


def _delimiter(text: str) -> str:
    """The one that stands most often in the first line; blanks part what has none of them."""
    first = next((line for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")), "")
    found = max(_DELIMITERS, key=first.count)
    return found if found in first else " "


def _is_header(cells: list[str]) -> bool:
    return any(_column_of(cell) == "host_ip" or _column_of(cell) == "name" for cell in cells) and len(
        [cell for cell in cells if _column_of(cell)]
    ) * 2 >= len(cells)


def _column_of(title: str) -> str:
    plain = "".join(letter for letter in title.casefold() if letter.isalnum())
    return next((column for column, titles in _TITLES.items() if plain in titles), "")
