"""The text that starts a command on a server, whatever the account's login shell is, and the one that ends it.

What a command is and what stands in its environment is sent over stdin as one line of shell, every value quoted:
no limit of an argument list applies, and the environment shows in no process list.
"""

import re
from collections.abc import Mapping

from infini.errors import Invalid

# Set in everything a command starts, so that all of it is found when it must end.
MARK = "INFINI_RUN"
# Above this a shell cannot take a command as an argument (Linux: 128 KiB each).
_MAX_ARGUMENT_BYTES = 100_000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# One line, and no single quote nor exclamation mark in it: csh takes it as well. Where no command comes it fails. The
# first line of output tells the process, which sshd made the leader of a session of its own. ``f`` is the command as a
# file.
_START = (
    'IFS= read -r s || exit 1; eval "$s"; unset s; export {mark}={token}; echo {token} $$; '
    "w=bash; command -v bash >/dev/null 2>&1 || w=sh; "
    'if [ -n "$infini_big" ]; then f=$(umask 077; mktemp) || exit 1; printf "%s" "rm -f -- $f; $infini_command" >"$f"; '
    'set -- "$f"; unset infini_command infini_big f; exec $w -lc ". \\"\\$0\\"" "$1"; fi; '
    'set -- "$infini_command"; unset infini_command infini_big; exec $w -lc "$1"'
)

# Everything that carries the mark or descends from the session's leader: asked to end, then killed. What is started
# meanwhile is found in the next round. /proc alone is read: no ps does it alike on every system. Another account's
# environment cannot be read; its processes are found as descendants.
_END = """
leader=$1 mark={mark}=$2 grace=$3
tree() {{
  cat /proc/[0-9]*/stat 2>/dev/null | awk -v leader="$leader" '
    {{ pid = $1; sub(/^.*\\) /, ""); if ($1 != "Z" && $1 != "X") {{ parent[pid] = $2; session[pid] = $4 }} }}
    END {{ for (pid in parent) for (at = pid; at > 1 && at in parent; at = parent[at])
      if (at == leader || session[at] == leader) {{ print pid; break }} }}'
  grep -lszxF -e "$mark" /proc/[0-9]*/environ 2>/dev/null | sed 's,/proc/,,;s,/environ,,'
}}
send() {{ for pid in $(tree | sort -u); do kill -$1 "$pid" 2>/dev/null; done; }}
send TERM; send CONT
tries=0
while [ -n "$(tree)" ]; do
  tries=$((tries + 1))
  [ $tries -gt $((grace * 10)) ] && send KILL
  [ $tries -gt $((grace * 10 + 20)) ] && exit 1
  sleep 0.1
done
exit 0
""".strip()


def start(token: str) -> str:
    """The command line to execute; ``preamble`` follows on stdin."""
    return f"exec /bin/sh -c '{_START.format(mark=MARK, token=token)}'"


def preamble(command: str, environment: Mapping[str, str]) -> bytes:
    """One line of shell that sets ``environment`` and the command; raises Invalid about what cannot be said."""
    words = [f"export {_checked(name)}={_quoted(value)}" for name, value in environment.items()]
    words.append(f"infini_command={_quoted(command)}")
    words.append(f"infini_big={'yes' if len(command.encode()) > _MAX_ARGUMENT_BYTES else ''}")
    line = "; ".join(words)
    if '"$infini_newline"' in line:
        line = f'infini_newline=$(printf "\\nx"); infini_newline=${{infini_newline%x}}; {line}; unset infini_newline'
    return line.encode() + b"\n"


def end(leader: int, token: str, grace_seconds: int) -> str:
    """The command line of what ends the session ``leader`` and whatever is marked with ``token``; ``ending`` follows
    on stdin. Status 0 when nothing of it is left. ``leader`` 0 is unknown: no session, since 0 is that of strangers."""
    return f"exec /bin/sh -s {leader or 'none'} {token} {grace_seconds}"


def ending() -> bytes:
    """Not an argument: csh takes no line breaks in one."""
    return _END.format(mark=MARK).encode() + b"\n"


def _checked(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        text = f"{name[:60]!r} is no name of an environment variable: letters, digits and _, not first a digit."
        raise Invalid(text, fields={"environment": [text]})
    return name


def _quoted(text: str) -> str:
    """``text`` as one word on one line."""
    if "\0" in text:
        message = "A command and its environment cannot hold a NUL character."
        raise Invalid(message, fields={"command": [message]})
    return _quoted_text(text).replace("\n", "'\"$infini_newline\"'")


def _quoted_text(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
