"""Our hands on a server: ``agent/install_agent.py``, sent over SSH with each thing that is asked of it.

Nothing is left on the server but what the verbs write. Secrets travel on stdin alone, never in a command line, which
every account of the server can read.
"""

import json
import shlex
import threading
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from infini.errors import Unavailable
from inventory.installation.release import installer
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import CommandResult, run

ANSWER = "INFINI-ANSWER "
OUTPUT_MAX_CHARS = 8000

# The first that is new enough; the system's own goes first, since others come and go with somebody's home.
_PYTHONS = (
    "/usr/bin/python3 python3 /usr/local/bin/python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8"
)
_GREETING = """
echo "INFINI-SYSTEM $(uname -s)"
echo "INFINI-UID $(id -u)"
for python in {pythons}; do
    python=$(command -v "$python" 2>/dev/null) || continue
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' </dev/null >/dev/null 2>&1 || continue
    echo "INFINI-PYTHON $python"
    break
done
command -v sudo >/dev/null 2>&1 && echo "INFINI-SUDO"
sudo -n true </dev/null >/dev/null 2>&1 && echo "INFINI-NOPASSWD"
exit 0
"""
# What sudo left of stdin when it asked for no password is passed over.
_BOOTSTRAP = """
import sys
stdin = sys.stdin.buffer
line = stdin.readline()
while line and not line.startswith(b"infini "):
    line = stdin.readline()
exec(compile(stdin.read(int(line[7:])), "install_agent.py", "exec"), {"__name__": "__main__"})
"""


class RemoteRefusal(Unavailable):
    """The server was reached and it cannot be done; ``output`` is what was said there."""

    code = "installation_refused"

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output[-OUTPUT_MAX_CHARS:]


@dataclass(frozen=True)
class Privilege:
    """How root is reached from the account, if at all: ``root``, ``sudo`` without a password, ``sudo-password``."""

    way: str = ""

    @property
    def words(self) -> list[str]:
        if self.way == "sudo":
            return ["sudo", "-n"]
        # -k: the password on stdin is asked for even if sudo remembers one.
        return ["sudo", "-k", "-S", "-p", ""] if self.way == "sudo-password" else []


class Remote:
    """One server, asked by one account; ``cancelled`` ends what runs there."""

    def __init__(self, access: SshAccess, place: dict[str, Any], cancelled: threading.Event) -> None:
        self.access = access
        self.python = ""
        self.privilege = Privilege()
        self._place = place
        self._cancelled = cancelled
        self._installer = installer().encode()

    def greet(self) -> None:
        """Log in and find out by whom, and with which Python, the rest is done.

        Raises SshError, or RemoteRefusal where the agent cannot run.
        """
        pythons = shlex.quote(settings.SERVER_PYTHON) if settings.SERVER_PYTHON else _PYTHONS
        said = self._run(_GREETING.format(pythons=pythons), seconds=30).output
        facts = dict(line.partition(" ")[::2] for line in said.splitlines() if line.startswith("INFINI-"))
        system = facts.get("INFINI-SYSTEM", "")
        if system != "Linux":
            text = _("The site installs agents on Linux only; this is %(system)s.")
            raise RemoteRefusal(text % {"system": system or _("no system we know")}, said)
        self.python = facts.get("INFINI-PYTHON", "")
        if not self.python:
            wanted = settings.SERVER_PYTHON or _("python3 in the account's PATH")
            text = _(
                "There is no Python 3.8 or newer on %(server)s: looked for %(wanted)s. "
                "Install one, or name it with INFINI_SERVER_PYTHON."
            )
            raise RemoteRefusal(text % {"server": self.access.server_name, "wanted": wanted})
        self.privilege = self._privilege(facts)

    def _privilege(self, facts: dict[str, str]) -> Privilege:
        if facts.get("INFINI-UID") == "0":
            return Privilege("root")
        if "INFINI-NOPASSWD" in facts:
            return Privilege("sudo")
        if "INFINI-SUDO" in facts and self.access.password:
            wanted = Privilege("sudo-password")
            if self._run(shlex.join([*wanted.words, "true"]), self._password(wanted), seconds=30).success:
                return wanted
        return Privilege()

    def ask(self, verb: str, *, seconds: float = 60.0, **request: Any) -> dict[str, Any]:
        """Have one verb of ``install_agent.py`` done; its answer. Raises SshError or RemoteRefusal."""
        words = [*self.privilege.words, self.python, "-I", "-c", _BOOTSTRAP]
        body = json.dumps({**self._place, **request, "do": verb}).encode()
        stdin = self._password(self.privilege) + b"infini %d\n" % len(self._installer) + self._installer + body
        result = self._run(shlex.join(words), stdin, seconds=seconds)
        answer = _answer_in(result.output)
        if answer is None:
            raise RemoteRefusal(_why_no_answer(result, seconds), f"{result.output}\n{result.error}".strip())
        if answer.get("refused"):
            raise RemoteRefusal(str(answer["refused"]), str(answer.get("output", "")))
        return answer

    def _password(self, privilege: Privilege) -> bytes:
        return self.access.password.encode() + b"\n" if privilege.way == "sudo-password" else b""

    def _run(self, command: str, stdin: bytes = b"", *, seconds: float) -> CommandResult:
        return run(self.access, command, stdin=stdin, timeout_seconds=seconds, cancelled=self._cancelled)


def _answer_in(output: str) -> dict[str, Any] | None:
    for line in reversed(output.splitlines()):
        if line.startswith(ANSWER):
            try:
                answer = json.loads(line.removeprefix(ANSWER))
            except ValueError:
                return None
            return answer if isinstance(answer, dict) else None
    return None


def _why_no_answer(result: CommandResult, seconds: float) -> str:
    if result.cancelled:
        return _("It was cancelled.")
    if result.timed_out:
        return _("It did not end within %(n)g s.") % {"n": seconds}
    if result.signal:
        return _("The installer was ended by signal %(signal)s, without an answer.") % {"signal": result.signal}
    return _("The installer ended with exit code %(code)s and without an answer.") % {"code": result.exit_status}
