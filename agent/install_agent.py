#!/usr/bin/env python3
"""Installs Infini's node agent on the server it is run on, and removes it again.

One file, standard library only, Python 3.8 or newer, Linux. The site sends it over SSH and asks it one thing at a time,
by a JSON object on stdin; docs/agent-installation.md tells which. By hand it does all of it:

    python3 install_agent.py --host 10.0.0.7          # from the directory that holds infini_agent.py
    python3 install_agent.py --remove

Every verb looks first and changes only what differs, each file in one step, so that running it again, or for the
first time after a run that was cut off, ends in the same state. Instances belong to neither the agent nor to this.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, Tuple

Json = Dict[str, Any]

ANSWER = "INFINI-ANSWER "  # what a login shell's profile prints before is not ours
NAME = "infini-agent"
TOOL_SECONDS = 60
START_SECONDS = 20.0
END_SECONDS = 10.0
LOG_LINES = 30
SOURCE = "infini_agent.py"
TOKEN, CERTIFICATE, KEY = "token", "agent.pem", "agent.key"
LOOP, LOOP_PID, LOG = "supervise.sh", "supervise.pid", "agent.log"
OURS = (SOURCE, SOURCE + ".previous", SOURCE + ".new", TOKEN, CERTIFICATE, KEY, LOOP, LOOP_PID, LOG, LOG + ".1")


class Refused(Exception):
    """Why it cannot be done, in a sentence that says what to do; ``output`` is what a tool said."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.output = output


# --- Where things are -------------------------------------------------------------------------------


class Place:
    """Where this account's agent lives and how it is called. ``root`` puts all of it below another directory."""

    def __init__(self, request: Json) -> None:
        self.root: str = (request.get("root") or "/").rstrip("/") + "/"
        self.host: str = request.get("host") or ""
        self.port = int(request.get("port") or 8888)
        self.as_root = os.geteuid() == 0
        account = pwd.getpwuid(os.geteuid())
        self.account = account.pw_name
        if self.as_root:
            self.folder, self.state = self.root + "opt/" + NAME, self.root + "var/lib/" + NAME
        else:
            home = account.pw_dir if self.root == "/" else self.root.rstrip("/") + account.pw_dir
            self.folder = os.path.join(home, "." + NAME)
            self.state = os.path.join(self.folder, "state")
        self.unit = self.root + "etc/systemd/system/" + NAME + ".service"
        self.cron_file = self.root + "etc/cron.d/" + NAME

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    @property
    def has_systemd(self) -> bool:
        """Whether systemd runs here and is ours to use."""
        return self.as_root and os.path.isdir(self.root + "run/systemd/system")

    @property
    def has_cron_folder(self) -> bool:
        return self.as_root and os.path.isdir(os.path.dirname(self.cron_file))

    def command(self) -> List[str]:
        """The agent's command line."""
        address = ["--host", bind_address(self.host), "--port", str(self.port), "--state-dir", self.state]
        tls = ["--tls-cert", self.path(CERTIFICATE), "--tls-key", self.path(KEY)]
        return [sys.executable, self.path(SOURCE), *address, "--token-file", self.path(TOKEN), *tls]


def bind_address(host: str) -> str:
    """Where the agent listens: at the server's address where that is its own, else (a name, NAT) at all of them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        socket.inet_pton(family, host)
        probe.bind((host, 0))
        return host
    return "::" if family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - over TLS, with a token


def write(path: str, text: str, mode: int) -> None:
    """Replace ``path`` in one step; nobody ever reads half of it, nor a secret under a wider mode."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = "%s.%d.tmp" % (path, os.getpid())
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise Refused("%s cannot be written: %s." % (path, error.strerror)) from None


def read(path: str) -> str:
    """The text of a file, empty when it is missing or nothing we could have written."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8", newline="") as file:
        return file.read()
    return ""


def remove_file(path: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        return True
    return False


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def tool(*command: str, stdin: str = "", check: bool = True) -> str:
    """What a system's tool prints; raises Refused with its words when it fails or hangs."""
    try:
        done = subprocess.run(
            command,
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TOOL_SECONDS,
            check=False,
        )
    except OSError as error:
        if not check:
            return ""
        raise Refused("%s cannot be run: %s." % (command[0], error.strerror)) from None
    except subprocess.TimeoutExpired:
        raise Refused("%s did not end within %d s." % (" ".join(command), TOOL_SECONDS)) from None
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode and check:
        raise Refused("%s failed with exit code %d." % (" ".join(command), done.returncode), output)
    return output


# --- Supervision ------------------------------------------------------------------------------------


def systemd_version() -> int:
    match = re.match(r"systemd (\d+)", tool("systemctl", "--version", check=False))
    return int(match.group(1)) if match else 0


def unit_text(command: List[str], version: int) -> str:
    """The systemd unit. Without ``KillMode=process`` each restart of the agent would end the instances."""
    # systemd reads % as a specifier and $ as a variable.
    line = " ".join(systemd_word(word) for word in command)
    lines = [
        "# Written by Infini; see docs/agent-installation.md.",
        "[Unit]",
        "Description=Infini node agent",
        "After=network-online.target",
        "Wants=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=simple",
        "ExecStart=" + line,
        "Restart=always",
        "RestartSec=2",
        "KillMode=process",
        "Delegate=yes",
        *(["DelegateSubgroup=agent"] if version >= 254 else []),
        "OOMPolicy=continue",
        "TasksMax=infinity",
        "LimitNOFILE=1048576",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def systemd_word(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return '"%s"' % escaped if re.search(r"[\s\"';\\]", word) or not word else escaped


def loop_text(place: Place) -> str:
    """The shell script that keeps the agent running where there is no systemd."""
    return """#!/bin/sh
# Written by Infini: keeps the node agent running. It ends with TERM, or when this file is gone.
umask 077
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
folder=%s
own() { tr '\\0' ' ' 2>/dev/null < "/proc/$1/cmdline" | grep -qF "$folder/%s"; }
other=$(cat "$folder/%s" 2>/dev/null)
[ -n "$other" ] && [ "$other" != $$ ] && own "$other" && exit 0
cd / && echo $$ > "$folder/%s" || exit 1
agent=
trap 'kill $agent 2>/dev/null; rm -f "$folder/%s"; exit 0' TERM INT
pause=1
while [ -f "$folder/%s" ]; do
    [ "$(wc -c < "$folder/%s" 2>/dev/null || echo 0)" -gt 10000000 ] && mv -f "$folder/%s" "$folder/%s.1"
    began=$(date +%%s)
    %s >> "$folder/%s" 2>&1 < /dev/null &
    agent=$!
    wait $agent
    [ $(($(date +%%s) - began)) -ge 60 ] && pause=1
    sleep $pause &
    wait $!
    pause=$((pause * 2))
    [ $pause -gt 30 ] && pause=30
done
""" % (
        *(shlex.quote(place.folder), LOOP, LOOP_PID, LOOP_PID, LOOP_PID, LOOP, LOG, LOG, LOG),
        *(" ".join(shlex.quote(word) for word in place.command()), LOG),
    )


def cron_line(place: Place) -> str:
    """What starts the loop at boot. In a crontab ``%`` ends the command."""
    who = " root" if place.has_cron_folder else ""
    script = shlex.quote(place.path(LOOP)).replace("%", "\\%")
    return "@reboot%s /bin/sh %s # %s" % (who, script, NAME)


def crontab() -> List[str]:
    """This account's crontab; an account without one has an empty one."""
    try:
        return tool("crontab", "-l").splitlines()
    except Refused as refused:
        if "no crontab" in refused.output:
            return []
        raise Refused("The crontab of this account cannot be read. Is cron installed?", refused.output) from None


def with_cron_line(lines: List[str], place: Place, line: str = "") -> List[str]:
    """The crontab with ``line`` as the only one of this installation."""
    mine = shlex.quote(place.path(LOOP)).replace("%", "\\%")
    kept = [other for other in lines if not (mine in other and other.endswith("# " + NAME))]
    return [*kept, line] if line else kept


def set_crontab(lines: List[str]) -> None:
    tool("crontab", "-", stdin="".join(line + "\n" for line in lines))


def wanted_files(place: Place) -> Dict[str, Tuple[str, int]]:
    """The supervision's files: ``{path: (text, mode)}``."""
    if place.has_systemd:
        return {place.unit: (unit_text(place.command(), systemd_version()), 0o644)}
    files = {place.path(LOOP): (loop_text(place), 0o755)}
    if place.has_cron_folder:
        # cron reads no file without a newline at its end.
        files[place.cron_file] = ("# Written by Infini.\n%s\n" % cron_line(place), 0o644)
    return files


def is_supervised(place: Place) -> bool:
    if any(read(path) != text for path, (text, _mode) in wanted_files(place).items()):
        return False
    if place.has_systemd:
        return tool("systemctl", "is-enabled", NAME, check=False).strip() == "enabled"
    if place.has_cron_folder:
        return True
    with contextlib.suppress(Refused):
        return cron_line(place) in crontab()
    return False


def supervision_kind(place: Place) -> str:
    if place.has_systemd:
        return "systemd"
    return "cron.d" if place.has_cron_folder else "crontab"


def supervise(place: Place, _request: Json) -> Json:
    """See that the agent is started at boot and kept running; nothing is started yet."""
    for path, (text, mode) in wanted_files(place).items():
        if read(path) != text:
            write(path, text, mode)
    output = ""
    if place.has_systemd:
        output = tool("systemctl", "daemon-reload") + tool("systemctl", "enable", NAME)
    elif not place.has_cron_folder:
        lines = crontab()
        wanted = with_cron_line(lines, place, cron_line(place))
        if wanted != lines:
            set_crontab(wanted)
    return {"output": output}


# --- Processes --------------------------------------------------------------------------------------


def processes() -> Iterator[Tuple[int, List[str]]]:
    """PID and words of every process that may be looked at."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open("/proc/%s/cmdline" % name, "rb") as file:
                words = file.read().decode("utf-8", "replace").split("\0")
                yield int(name), words


def agents(place: Place) -> Dict[int, List[str]]:
    """Our agent's processes, one at most as a rule: of its file and state directory, and no spawner or guard."""
    return {
        pid: words
        for pid, words in processes()
        if place.path(SOURCE) in words and "--state-dir" in words and place.state in words
    }


def loops(place: Place) -> List[int]:
    return [pid for pid, words in processes() if place.path(LOOP) in words and pid != os.getpid()]


def end_all(pids: List[int]) -> None:
    """SIGTERM, then SIGKILL; returns when none is left. Each PID was recognised by its words just before."""
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, END_SECONDS)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + seconds
        while pids and time.monotonic() < until:
            pids = [pid for pid in pids if lives(pid)]
            time.sleep(0.05)
        if not pids:
            return
    raise Refused("Process %d does not end." % pids[0])


def lives(pid: int) -> bool:
    stat = read("/proc/%d/stat" % pid)
    return bool(stat) and stat.rpartition(")")[2].split()[0] not in "ZX"


def instances(place: Place) -> List[str]:
    """Keys of the instances that run, told by the mark that the agent gives their processes."""
    mark = read(os.path.join(place.state, "id")).strip()
    found = set()
    for name in os.listdir("/proc") if mark else ():
        if name.isdigit():
            with contextlib.suppress(OSError), open("/proc/%s/environ" % name, "rb") as file:
                words = dict(
                    word.split("=", 1) for word in file.read().decode("utf-8", "replace").split("\0") if "=" in word
                )
                if words.get("INFINI_TREE", "").startswith(mark + "/") and lives(int(name)):
                    found.add(words.get("INFINI_INSTANCE", ""))
    return sorted(found)


def who_listens(port: int) -> str:
    """Name and PID of the process on a port, as far as this account may know."""
    inodes = set()
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in read(path).splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:
                inodes.add("socket:[%s]" % words[9])
    for pid, words in processes():
        with contextlib.suppress(OSError):
            for fd in os.listdir("/proc/%d/fd" % pid):
                if os.readlink("/proc/%d/fd/%s" % (pid, fd)) in inodes:
                    return "process %d (%s)" % (pid, os.path.basename(words[0]))
    return "another program"


def port_taken_by(place: Place) -> str:
    """Who keeps our agent from listening; empty when the port is free or is our agent's."""
    host = bind_address(place.host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, place.port))
            probe.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return "the system: %s" % error.strerror
            mine = any(str(place.port) in words for words in agents(place).values())
            return "" if mine else who_listens(place.port)
    return ""


# --- The running agent ------------------------------------------------------------------------------


def ask(place: Place, method: str, path: str, body: Json | None = None, seconds: float = 5.0) -> Tuple[str, Json]:
    """Ask our agent on this machine: its certificate (PEM) and its answer. Raises OSError or ValueError."""
    context = ssl._create_unverified_context()  # noqa: S323 - the caller compares the certificate
    host = bind_address(place.host)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPSConnection(host, place.port, timeout=seconds, context=context)
    headers = {"Authorization": "Bearer " + read(place.path(TOKEN)).strip()}
    with contextlib.closing(connection):
        try:
            connection.connect()
            shown = ssl.DER_cert_to_PEM_cert(connection.sock.getpeercert(True))
            connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (http.client.HTTPException, AttributeError) as error:
            raise ValueError(str(error)) from error
    if response.status == 401:
        raise ValueError("it wants another token")
    return shown, answer if isinstance(answer, dict) else {}


def what_is_wrong(place: Place) -> str:
    """Why the agent has to be started again; empty when it runs as it should, with all that is on disk."""
    running = agents(place)
    if not running:
        return "it does not run"
    if any(words[1:-1] != place.command()[1:] for words in running.values()):
        return "it was started with another command line"
    if not place.has_systemd and not loops(place):
        return "nothing keeps it running"
    try:
        shown, report = ask(place, "GET", "/report")
    except ValueError as error:
        return str(error)
    except OSError as error:
        return "it does not answer: %s" % error
    agent = report.get("agent") or {}
    if shown.split() != read(place.path(CERTIFICATE)).split():
        return "it shows another certificate than the one on disk"
    if agent.get("version") != version_in(read(place.path(SOURCE))):
        return "it runs another version than the file on disk"
    return "" if started_after(agent.get("started_at"), place.path(SOURCE)) else "its file is newer than it"


def started_after(moment: Any, path: str) -> bool:
    with contextlib.suppress(OSError, ValueError, TypeError):
        written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(os.stat(path).st_mtime))
        return str(moment)[:19] >= written
    return False


def version_in(source: str) -> str:
    match = re.search(r'^VERSION = "([^"]+)"$', source, re.MULTILINE)
    return match.group(1) if match else ""


def agent_log(place: Place) -> str:
    """The last lines of the agent's own log."""
    if place.has_systemd:
        return tool("journalctl", "-u", NAME, "-n", str(LOG_LINES), "--no-pager", "-o", "cat", check=False)
    return "\n".join(read(place.path(LOG)).splitlines()[-LOG_LINES:])


# --- Verbs ------------------------------------------------------------------------------------------


def look(place: Place, request: Json) -> Json:
    """What is there, read only. Secrets leave the server as digests."""
    source = read(place.path(SOURCE))
    certificate, key = read(place.path(CERTIFICATE)), place.path(KEY)
    return {
        "system": system_name(),
        "machine": os.uname().machine,
        "python": sys.executable,
        "python_version": "%d.%d.%d" % sys.version_info[:3],
        "account": place.account,
        "as_root": place.as_root,
        "folder": place.folder,
        "state": place.state,
        "supervision": supervision_kind(place),
        "supervision_paths": [*wanted_files(place)],
        "supervised": is_supervised(place),
        "cron_missing": cron_missing(place),
        "free_bytes": free_bytes(place),
        "not_writable": why_not_writable(place),
        "version": version_in(source),
        "source": sha256(source),
        "token": sha256(read(place.path(TOKEN)).strip()),
        "token_open": is_open(place.path(TOKEN)) or is_open(key),
        "certificate": certificate if certificate and fits(place.path(CERTIFICATE), key) else "",
        "port_taken_by": port_taken_by(place),
        "wrong": what_is_wrong(place),
        "runs": bool(agents(place)),
        "instances": instances(place),
        "state_exists": os.path.isdir(place.state),
    }


def system_name() -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read("/etc/os-release"), re.MULTILINE)
    return match.group(1) if match else os.uname().sysname


def cron_missing(place: Place) -> str:
    """Why nothing would start the agent at boot, where cron has to."""
    if place.has_systemd:
        return ""
    if not place.has_cron_folder and shutil.which("crontab") is None:
        return "There is neither systemd nor cron."
    running = any(os.path.basename(words[0]) in ("cron", "crond") for _pid, words in processes())
    return "" if running else "cron is installed and does not run."


def existing_parent(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def free_bytes(place: Place) -> int:
    found = (os.statvfs(existing_parent(path)) for path in (place.folder, place.state))
    return min(disk.f_bavail * disk.f_frsize for disk in found)


def why_not_writable(place: Place) -> str:
    """The first of our places that takes no file; asked without leaving one there."""
    paths = [place.folder, place.state, *map(os.path.dirname, wanted_files(place))]
    for path in dict.fromkeys(map(existing_parent, paths)):
        if not os.path.isdir(path):
            return "%s is no directory." % path
        if not os.access(path, os.W_OK | os.X_OK) or os.statvfs(path).f_flag & os.ST_RDONLY:
            return "%s cannot be written to by %s." % (path, place.account)
    return ""


def is_open(path: str) -> bool:
    """Whether others than its owner may read a secret."""
    with contextlib.suppress(OSError):
        return bool(os.stat(path).st_mode & 0o077)
    return False


def fits(certificate: str, key: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
        return True
    return False


def put_source(place: Place, request: Json) -> Json:
    """Write the agent's file; what it replaces stays beside it."""
    old = read(place.path(SOURCE))
    if old and old != request["source"]:
        write(place.path(SOURCE + ".previous"), old, 0o644)
    write(place.path(SOURCE), request["source"], 0o755)
    output = tool(sys.executable, "-I", place.path(SOURCE), "--version")
    return {"output": output}


def put_token(place: Place, request: Json) -> Json:
    write(place.path(TOKEN), request["token"] + "\n", 0o600)
    return {}


def put_certificate(place: Place, request: Json) -> Json:
    """The key first: a certificate without its key is not taken for a good one by the next look."""
    write(place.path(KEY), request["key"], 0o600)
    write(place.path(CERTIFICATE), request["certificate"], 0o644)
    if not fits(place.path(CERTIFICATE), place.path(KEY)):
        raise Refused("The certificate and its key on the server do not fit each other; try again.")
    return {}


def close_secrets(place: Place, _request: Json) -> Json:
    for name in (TOKEN, KEY):
        if is_open(place.path(name)):
            os.chmod(place.path(name), 0o600)
    return {}


def start(place: Place, _request: Json) -> Json:
    """Start the agent, or again; returns when it answers on this machine. Instances do not notice."""
    if place.has_systemd:
        output = tool("systemctl", "restart", NAME)
    else:
        output = ""
        end_all(loops(place))
        end_all([*agents(place)])
        remove_file(place.path(LOOP_PID))
        start_loop(place)
    until = time.monotonic() + START_SECONDS
    while True:
        wrong = what_is_wrong(place)
        if not wrong:
            return {"output": output}
        if time.monotonic() > until:
            raise Refused(
                "The agent was started and is not well after %d s: %s." % (START_SECONDS, wrong), agent_log(place)
            )
        time.sleep(0.2)


def start_loop(place: Place) -> None:
    """Start the loop as nobody's child, so that nothing that ends us, or the SSH session, reaches it."""
    subprocess.run(
        ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", "/bin/sh", place.path(LOOP)],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env=outside_environment(),
        check=True,
    )


def outside_environment() -> Dict[str, str]:
    """As little as cron gives at boot: nothing of the SSH session is left in the agent, and so in its instances."""
    account = pwd.getpwuid(os.geteuid())
    own = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name, "SHELL": account.pw_shell}
    return {**own, **{name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}}


def tail(place: Place, _request: Json) -> Json:
    return {"output": agent_log(place)}


def stop_instances(place: Place, _request: Json) -> Json:
    """Have the agent stop each of its instances; raises Refused naming those that did not."""
    _shown, answer = ask(place, "GET", "/services")
    keys = [one["id"] for one in answer.get("services", []) if one.get("status") == "running"]

    def stop(key: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            ask(place, "POST", "/service/%s/stop" % key, {}, seconds=60)

    threads = [threading.Thread(target=stop, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until = time.monotonic() + END_SECONDS
    while instances(place) and time.monotonic() < until:
        time.sleep(0.2)
    left = instances(place)
    if left:
        raise Refused("These instances do not end: %s." % ", ".join(left))
    return {"stopped": keys}


def end(place: Place, _request: Json) -> Json:
    """Nothing starts the agent any more, and it ends. Instances go on."""
    output = ""
    if place.has_systemd and os.path.exists(place.unit):
        output = tool("systemctl", "disable", "--now", NAME)
        remove_file(place.unit)
        output += tool("systemctl", "daemon-reload")
    remove_file(place.cron_file) if place.as_root else None
    if not place.has_systemd and not place.has_cron_folder and shutil.which("crontab"):
        lines = crontab()
        wanted = with_cron_line(lines, place)
        if wanted != lines:
            set_crontab(wanted)
    end_all(loops(place))
    end_all([*agents(place)])
    return {"output": output}


def erase(place: Place, _request: Json) -> Json:
    """Remove our files. The state stays as long as an instance runs: it writes its log and exit code there."""
    if agents(place):
        raise Refused("The agent still runs.")
    removed = [name for name in OURS if remove_file(place.path(name))]
    kept = instances(place)
    if not kept and os.path.exists(os.path.join(place.state, "agent.lock")):
        shutil.rmtree(place.state, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(place.folder)  # only when nobody keeps anything else in it
    return {"removed": removed, "instances": kept}


VERBS = {
    "look": look,
    "source": put_source,
    "token": put_token,
    "certificate": put_certificate,
    "close_secrets": close_secrets,
    "supervise": supervise,
    "start": start,
    "tail": tail,
    "stop_instances": stop_instances,
    "end": end,
    "erase": erase,
}


def answer(request: Json) -> Json:
    """Do what is asked; what keeps us from it comes back as ``refused``."""
    os.umask(0o022)
    try:
        return VERBS[request["do"]](Place(request), request)
    except Refused as refused:
        return {"refused": refused.reason, "output": refused.output}
    except OSError as error:
        return {"refused": "%s: %s." % (error.filename or request["do"], error.strerror or error)}


# --- By hand ----------------------------------------------------------------------------------------


def by_hand(arguments: List[str]) -> int:
    """Install or remove with one command; the token and the certificate are then entered in the site."""
    import argparse  # noqa: PLC0415 - only here

    parser = argparse.ArgumentParser(description="Installs Infini's node agent on this server.")
    parser.add_argument("--host", default="", help="this server's address, as the site knows it")
    parser.add_argument("--port", type=int, default=8888)
    parser.add_argument("--agent", default=SOURCE, help="the agent's file (infini_agent.py)")
    parser.add_argument("--root", default="/", help=argparse.SUPPRESS)
    parser.add_argument("--remove", action="store_true", help="remove the agent; instances go on")
    options = parser.parse_args(arguments)
    place = Place(vars(options))
    if options.remove:
        return tell([("end", {}), ("erase", {})], place)
    if not options.host:
        parser.error("give --host, the address by which the site reaches this server.")
    source = read(options.agent)
    if not version_in(source):
        parser.error("%s is not the agent; copy infini_agent.py here or name it with --agent." % options.agent)
    seen = look(place, {})
    refusal = seen["not_writable"] or (
        seen["port_taken_by"] and "Port %d is taken by %s." % (options.port, seen["port_taken_by"])
    )
    if refusal:
        print(refusal, file=sys.stderr)
        return 1
    steps: List[Tuple[str, Json]] = []
    if seen["source"] != sha256(source):
        steps.append(("source", {"source": source}))
    if not seen["token"]:
        steps.append(("token", {"token": os.urandom(32).hex()}))
    if not seen["certificate"]:
        steps.append(("certificate", made_certificate(options.host)))
    if tell([*steps, ("close_secrets", {}), ("supervise", {})], place):
        return 1
    if what_is_wrong(place) and tell([("start", {})], place):
        return 1
    print("\nThe agent runs on port %d. Enter in the site, at this server:\n" % options.port)
    print(
        "Agent token:\n%s\n\nAgent certificate:\n%s" % (read(place.path(TOKEN)).strip(), read(place.path(CERTIFICATE)))
    )
    return 0


def tell(steps: List[Tuple[str, Json]], place: Place) -> int:
    """Do the steps with a line each; 1 at the first that is refused."""
    for name, request in steps:
        try:
            done = VERBS[name](place, request)
        except Refused as refused:
            print("%s: %s\n%s" % (name, refused.reason, refused.output), file=sys.stderr)
            return 1
        kept = done.get("instances")
        print("%s: done" % name + (", these instances go on: %s" % ", ".join(kept) if kept else ""))
    return 0


def made_certificate(host: str) -> Json:
    """A key and its certificate, made by openssl on this machine."""
    with contextlib.ExitStack() as stack:
        import tempfile  # noqa: PLC0415 - only here

        folder = stack.enter_context(tempfile.TemporaryDirectory())
        key, certificate = os.path.join(folder, "key"), os.path.join(folder, "certificate")
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=" + NAME]
        tool(*new, "-keyout", key, "-out", certificate)
        return {"key": read(key), "certificate": read(certificate)}


def main() -> int:
    if len(sys.argv) > 1:
        return by_hand(sys.argv[1:])
    print(ANSWER + json.dumps(answer(json.loads(sys.stdin.buffer.read().decode()))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
