#!/usr/bin/env python3
"""Infini's node agent: runs commands as supervised instances on the server it is started on.

One file, standard library only, Python 3.8 or newer. `docs/agent-protocol.md` is its contract.

Three kinds of process take part:

* the agent: HTTP in front, every instance's state in memory, one background thread (`Watcher`);
* the spawner: a small single-threaded child of the agent that forks shims when asked, and one ahead;
* a shim for each instance: detached, it owns the process, its log and its exit code.

Agent and spawner may be killed at any moment. The files of an instance say all that a new agent needs:
`instance.json` (what is wanted; the agent writes it), `process.json` (what runs) and `exit.json` (how it
ended; the shim writes both). Each start has a random `run` id, so records of an earlier run never count.

Imports at the top are the light ones only: shims are forks of a process that has just these loaded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import select
import selectors
import signal
import socket
import stat
import struct
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Set, Tuple

if sys.platform != "win32":
    import fcntl
    import pwd
    import resource

VERSION = "0.4.0"
PROTOCOL = 1

Json = Dict[str, Any]

KEY_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
BODY_LIMIT = 1024 * 1024
UPGRADE_BODY_LIMIT = 4 * 1024 * 1024  # of a source of at most a mebibyte, whatever JSON makes of it
UPGRADE_WITHIN = 10.0
LOG_SEGMENT_BYTES = 10 * 1000 * 1000
LOG_SEGMENTS = 3
LOG_ANSWER_BYTES = 64 * 1024
LOG_ANSWER_LIMIT = 1024 * 1024
LOG_WAIT_SECONDS = 25
LOG_LOOK_SECONDS = 0.2
READ_BYTES = 64 * 1024
STOP_GRACE = 5.0
STOP_COMMAND_LIMIT = 60.0
STOP_ANSWER_WITHIN = 25.0
START_ANSWER_WITHIN = 10.0
SETTLE_SECONDS = 0.5  # how long a command without a probe must live before it counts as ready
STARTUP_SECONDS = 1800.0
PROBE_TIMEOUT = 1.0
SHIM_ANSWER_WITHIN = 2.0
IDLE_CONNECTION_SECONDS = 75.0
CONNECTIONS = 256
HEADER_LINES = 100
HEADER_LINE_BYTES = 65536
RESTART_HISTORY = 10
SPARE_SHIM_AFTER = 0.0025  # seconds without a request, and at the latest after
SPARE_SHIM_WITHIN = 0.05
LET_GO_AFTER = 0.2  # seconds of a run before its shim frees the room of earlier records
END_AFTER = 0.003  # seconds that a shim leaves the processors to whoever answers, before it is cleared away
SPARE_ANSWER_WITHIN = 0.5  # else it hangs or was frozen, and another shim is forked
ROOM_FOR_A_RUN = 32 * 1024
CHILD_FILES = 1024  # more than a shim ever has open
QUICK_END_WITHIN = 0.02
STARTED_AT_WITHIN = 0.02  # seconds by which a start may be told too early
LOOK_FOR_OTHERS_AFTER = 0.01  # seconds that a tree has to end at the group's SIGTERM alone
UNKNOWN = "unknown"
WAITING_FOR_SHIM = "Waiting for the shim of an earlier run to end."
# Isolated and light; UTF-8 whatever the locale, as the bodies of requests are.
SPAWNER_PYTHON = (sys.executable, "-I", "-S", "-X", "utf8")


# --- Small things --------------------------------------------------------------------------------------


def iso_now() -> str:
    """Return the present moment as ISO 8601 in UTC, to the millisecond."""
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".%03dZ" % int(now % 1 * 1000)


def log(message: str) -> None:
    """Write one line about the agent's own work to stderr; never pass tokens or environment values."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("%s %s\n" % (iso_now(), message))
        sys.stderr.flush()


_after_answer = threading.local()


def later(step: Callable[[], None]) -> None:
    """Do a thing once this thread has answered the request it is at; at once in a thread that answers none."""
    steps: List[Callable[[], None]] | None = getattr(_after_answer, "steps", None)
    if steps is None:
        step()
    else:
        steps.append(step)


def log_later(message: str) -> None:
    """Log what somebody waits to be told."""
    later(lambda: log(message))


def signal_name(number: int) -> str:
    """Return `SIGKILL` for 9, and a plain description for numbers without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def write_file(path: str, data: bytes, durable: bool) -> None:
    """Replace `path` by `data` in one step, mode 0600; a reader sees the old or the new content, never half.

    `durable` also waits until the disk has it. Raises OSError.
    """
    temporary = stage_file(path, data, durable)
    try:
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def stage_file(path: str, data: bytes, durable: bool) -> str:
    """Write what is to replace `path` to a file beside it, and return that file's path. Raises OSError."""
    temporary = "%s.%d.%d.tmp" % (path, os.getpid(), threading.get_ident())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    return temporary


def hold(path: str) -> int:
    """Open what is about to be replaced, -1 where there is nothing.

    Its space is freed when this is closed, which takes as long as to write a file: later, when nobody waits for it.
    """
    try:
        return os.open(path, os.O_RDONLY) if os.name != "nt" else -1
    except OSError:
        return -1


def let_go(fd: int) -> None:
    """Close what `hold` opened."""
    if fd >= 0:
        os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however many calls it takes; for a small file much faster than `open`, as `read_all`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_all(path: str) -> bytes:
    """Return what a file holds."""
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        return b"".join(iter(lambda: os.read(fd, READ_BYTES), b""))
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Make a rename inside `path` durable, where the system can."""
    if os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: str, document: Json, durable: bool) -> None:
    """Write `document` to `path` as `write_file` does."""
    write_file(path, json.dumps(document).encode(), durable)


def refuse_full_disk(fd: int) -> None:
    """Raise OSError where the disk has no room for the few small files of a run."""
    disk = os.fstatvfs(fd)
    free = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    if disk.f_blocks and free * disk.f_frsize < ROOM_FOR_A_RUN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sync_data(fd: int) -> None:
    """Wait until the disk has what was written."""
    getattr(os, "fdatasync", os.fsync)(fd)


_renameat2: Callable[..., int] | None = None


def load_renameat2() -> None:
    """Make it callable for `exchange`; done in the agent alone, or shims would pay for loading ctypes."""
    global _renameat2
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415

        _renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


def exchange(one: str, other: str) -> None:
    """Have two files change places in one step; where the system cannot, `one` takes the place of `other`.

    The first needs no room in a folder, frees none, and leaves both names as they were. Raises OSError.
    """
    here = -100  # AT_FDCWD
    if _renameat2 is None or _renameat2(here, os.fsencode(one), here, os.fsencode(other), 2):  # RENAME_EXCHANGE
        os.replace(one, other)


def stage_json(path: str, document: Json) -> str:
    """Write `document` beside `path` as `stage_file` does."""
    return stage_file(path, json.dumps(document).encode(), durable=False)


class Unreadable(Exception):
    """A state file is there and is not what we once wrote."""


def read_json(path: str) -> Json | None:
    """Return the object in `path`, None where there is no such file; raise Unreadable for anything else."""
    try:
        document = json.loads(read_all(path).decode())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if not isinstance(document, dict):
        raise Unreadable("it holds no JSON object")
    return document


# --- Processes and their identity ---------------------------------------------------------------------


class Identity(NamedTuple):
    """What names one process for good: a PID alone is reused, the three together are not."""

    pid: int
    start: str
    boot_id: str


class Stat(NamedTuple):
    """The fields of /proc/<pid>/stat that we use."""

    state: str
    ppid: int
    pgid: int
    sid: int
    start: str


def read_proc(path: str) -> bytes:
    """Return what a short file of /proc holds; several times faster than `open`, and asked often."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, READ_BYTES)
    finally:
        os.close(fd)


def read_stat(pid: int) -> Stat | None:
    """Return what Linux says of `pid`, None when there is no such process."""
    try:
        data = read_proc("/proc/%d/stat" % pid)
    except OSError:
        return None
    # The name in brackets may itself hold brackets and spaces: what counts starts behind the last one.
    fields = data[data.rindex(b")") + 2 :].decode("ascii", "replace").split()
    return Stat(fields[0], int(fields[1]), int(fields[2]), int(fields[3]), fields[19])


def read_boot_id() -> str:
    """Return what changes with each boot of this machine."""
    if sys.platform.startswith("linux"):
        return read_proc("/proc/sys/kernel/random/boot_id").decode().strip()
    if sys.platform == "darwin":
        return output_of("sysctl", "-n", "kern.bootsessionuuid")
    # Creation times on Windows are absolute, so PID and start time are enough there.
    return "windows"


def output_of(*command: str) -> str:
    """Return what a short system command prints, empty when it fails."""
    import subprocess  # noqa: PLC0415 - not loaded into shims

    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=False)
    return result.stdout.decode("utf-8", "replace").strip()


def start_time(pid: int) -> str | None:
    """Return when `pid` started, in the system's own words; None when it does not run (a zombie does not)."""
    if sys.platform.startswith("linux"):
        found = read_stat(pid)
        return found.start if found and found.state not in "ZX" else None
    if os.name == "nt":
        return windows_start_time(pid)
    return output_of("ps", "-o", "lstart=", "-p", str(pid)) or None


def identify(pid: int, boot_id: str) -> Identity | None:
    """Return the identity of the process that has this PID now."""
    start = start_time(pid)
    return Identity(pid, start, boot_id) if start is not None else None


def is_alive(identity: Identity | None, boot_id: str) -> bool:
    """Tell whether exactly this process still runs."""
    return identity is not None and identity.boot_id == boot_id and start_time(identity.pid) == identity.start


def identity_from(value: Any) -> Identity | None:
    """Read an identity back from a state file; raise Unreadable when it is not one."""
    if value is None:
        return None
    try:
        pid, start, boot_id = value
    except (TypeError, ValueError):
        raise Unreadable("a process identity in it is malformed") from None
    if not (type(pid) is int and pid > 1 and isinstance(start, str) and isinstance(boot_id, str)):
        raise Unreadable("a process identity in it is malformed")
    return Identity(pid, start, boot_id)


def open_pidfd(pid: int) -> int:
    """Return a pidfd, or -1 where the system or this Python has none; raise ProcessLookupError if gone."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1


def send_signal(identity: Identity, number: int, boot_id: str) -> bool:
    """Signal this process and no other; False when it does not run any more.

    The pidfd is opened first and the identity compared after, so a PID reused in between is noticed.
    """
    try:
        fd = open_pidfd(identity.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(identity, boot_id):
            return False
        if fd >= 0:
            signal.pidfd_send_signal(fd, number)  # type: ignore[attr-defined, unused-ignore]
        else:
            os.kill(identity.pid, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        if fd >= 0:
            os.close(fd)


def all_processes() -> Dict[int, Stat]:
    """Return every live process of this machine (Linux; empty elsewhere)."""
    if not sys.platform.startswith("linux"):
        return {}
    found = {int(name): read_stat(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: entry for pid, entry in found.items() if entry is not None and entry.state not in "ZX"}


def descendants(roots: List[int], processes: Dict[int, Stat]) -> List[int]:
    """Return the children of `roots`, their children and so on, without the roots themselves."""
    children: Dict[int, List[int]] = {}
    for pid, entry in processes.items():
        children.setdefault(entry.ppid, []).append(pid)
    found: List[int] = []
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def carries_mark(pid: int, mark: str) -> bool:
    """Tell whether the process was started with our mark in its environment."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return b"INFINI_TREE=%s" % mark.encode() in file.read().split(b"\0")
    except OSError:
        return False


def instance_of(pid: int, mark: str) -> str | None:
    """Return the key of the instance that a process belongs to, by its own mark or that of who started it.

    None for a stranger, and for one whose ancestors have ended or whose environment we may not read.
    """
    prefix = b"INFINI_TREE=%s/" % mark.encode()
    for _ in range(64):  # no tree of processes is that deep; parents read one by one may form a ring
        with contextlib.suppress(OSError), open("/proc/%d/environ" % pid, "rb") as file:
            for entry in file.read().split(b"\0"):
                if entry.startswith(prefix):
                    return entry[len(prefix) :].decode("utf-8", "replace")
        stat = read_stat(pid)
        if stat is None or stat.ppid <= 1:
            return None
        pid = stat.ppid
    return None


def tree_members(leader: Identity | None, mark: str, boot_id: str) -> List[Identity]:
    """Return every process of an instance, found without help from its shim.

    Session and group count only while the leader lives: once it is gone its number may be a stranger's.
    The mark in the environment finds those that left the session.
    """
    processes = all_processes()
    found = {pid for pid in processes if carries_mark(pid, mark)}
    if leader is not None and is_alive(leader, boot_id):
        found.add(leader.pid)
        found |= {pid for pid, entry in processes.items() if leader.pid in (entry.pgid, entry.sid)}
    found |= set(descendants(list(found), processes))
    found.discard(os.getpid())
    return [
        Identity(pid, processes[pid].start, boot_id) if pid in processes else leader  # type: ignore[misc]
        for pid in found
    ]


# --- Control groups: one for each instance, where a part of the hierarchy was handed to the agent ------

CGROUP_MOUNT = "/sys/fs/cgroup"


def write_cgroup(folder: str, name: str, value: str) -> None:
    """Write to a control file; raise OSError where the kernel has none or refuses."""
    fd = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def own_cgroup() -> str | None:
    """Return the folder of the cgroup that this process is in; None without a pure cgroup v2 hierarchy."""
    if not os.path.exists(os.path.join(CGROUP_MOUNT, "cgroup.controllers")):
        return None
    with contextlib.suppress(OSError):
        for line in read_proc("/proc/self/cgroup").decode("utf-8", "replace").splitlines():
            if line.startswith("0::/"):
                return os.path.join(CGROUP_MOUNT, line[4:]).rstrip("/")
    return None


def is_delegated(folder: str) -> bool:
    """Tell whether the service manager has left this cgroup to us: systemd marks it so."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return os.access(os.path.join(folder, "cgroup.procs"), os.W_OK)
    return False


class Cgroups:
    """The part of the cgroup hierarchy that is the agent's to use, if any.

    Memory limits need the controller switched on below `root`, which the kernel allows only while `root`
    itself holds no process. So they work where the agent sits in a cgroup beside those of its instances
    (systemd: DelegateSubgroup=); switching it on anywhere else would keep systemd from starting us again.
    """

    def __init__(self) -> None:
        self.root: str | None = os.environ.get("INFINI_CGROUP_ROOT") or None
        own = own_cgroup() if self.root is None and sys.platform.startswith("linux") else None
        if own is not None:
            found = [folder for folder in (os.path.dirname(own), own) if is_delegated(folder)]
            self.root = found[0] if found else None
        self.holds_agent = own is not None and self.root == own

    def folder(self, mark: str) -> str | None:
        """Return the cgroup for the instance with this mark."""
        return os.path.join(self.root, "infini-" + mark.replace("/", "-")) if self.root else None

    def refuse_memory_limit(self) -> str:
        """Return why no memory limit can be set; an empty text when it can."""
        if self.root is None:
            return "The agent was given no cgroup v2 subtree (systemd: Delegate=yes, DelegateSubgroup=agent)."
        if self.holds_agent:
            return "The agent shares its cgroup with its instances (systemd 254: DelegateSubgroup=agent)."
        try:
            with open(os.path.join(self.root, "cgroup.controllers"), encoding="ascii") as file:
                if "memory" not in file.read().split():
                    return "The agent's cgroup has no memory controller."
            write_cgroup(self.root, "cgroup.subtree_control", "+memory")
        except OSError as error:
            return "The agent may not use the memory controller of its cgroup: %s." % error.strerror
        return ""


# --- The log: segments named by the offset of their first byte ----------------------------------------


def log_segments(folder: str) -> List[Tuple[int, str]]:
    """Return (offset of the first byte, path) of each log segment, oldest first."""
    try:
        entries = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = [name for name in entries if name.startswith("log.") and name[4:].isdigit()]
    return sorted((int(name[4:]), os.path.join(folder, name)) for name in names)


def log_size(folder: str) -> int:
    """Return how many bytes the log has had since its first."""
    segments = log_segments(folder)
    return segments[-1][0] + os.path.getsize(segments[-1][1]) if segments else 0


def read_log(folder: str, offset: int, limit: int) -> Tuple[int, bytes]:
    """Return (offset of the first byte returned, up to `limit` bytes). What was rotated away is skipped."""
    chunks: List[bytes] = []
    start = None
    for first, path in log_segments(folder):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            end = first + os.fstat(file.fileno()).st_size
            position = max(offset, first)
            if limit <= 0 or position >= end:
                continue
            file.seek(position - first)
            data = file.read(limit)
            start = position if start is None else start
            chunks.append(data)
            limit -= len(data)
            offset = position + len(data)
    return (offset if start is None else start), b"".join(chunks)


def cut_at_character(data: bytes) -> bytes:
    """Drop the beginning of a UTF-8 character that `data` ends in the middle of."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if needed > back else data
    return data


def last_lines(folder: str, since: int, count: int, limit: int) -> Tuple[int, bytes]:
    """Return (offset, bytes) of the last `count` lines written at or after `since`, at most `limit` bytes."""
    size = log_size(folder)
    start, data = read_log(folder, max(since, size - limit), limit)
    position = len(data) - (1 if data.endswith(b"\n") else 0)
    for _ in range(count):
        position = data.rfind(b"\n", 0, position)
        if position < 0:
            return start, data
    return start + position + 1, data[position + 1 :]


def log_state(folder: str) -> Tuple[int, int] | None:
    """Return what changes whenever there may be more of a log to read, None when it is gone."""
    try:
        return os.stat(folder).st_mtime_ns, log_size(folder)
    except OSError:
        return None


class LogWriter:
    """Writes an instance's output to its segments; a full disk loses lines, never blocks the process."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.fd = -1
        self.lost = 0
        segments = log_segments(folder)
        self.first, path = segments[-1] if segments else (0, os.path.join(folder, "log.0"))
        self.open(path)

    def open(self, path: str) -> None:
        """Go on in `path`."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = fd
        self.length = os.fstat(self.fd).st_size

    def write(self, data: bytes) -> None:
        """Append `data`; what the disk does not take is counted and told once it takes some again."""
        try:
            if self.length >= LOG_SEGMENT_BYTES:
                self.rotate()
            if self.lost:
                self.append(b"[infini: %d bytes of output lost, the disk took no more]\n" % self.lost)
                self.lost = 0
            self.append(data)
        except OSError:
            self.lost += len(data)

    def append(self, data: bytes) -> None:
        """Write all of `data`, however many calls it takes."""
        view = memoryview(data)
        while view:
            written = os.write(self.fd, view)
            self.length += written
            view = view[written:]

    def rotate(self) -> None:
        """Begin a new segment and drop the oldest ones."""
        following = self.first + self.length
        self.open(os.path.join(self.folder, "log.%d" % following))
        self.first = following
        for _, path in log_segments(self.folder)[:-LOG_SEGMENTS]:
            with contextlib.suppress(OSError):
                os.unlink(path)


# --- The shim: owns one process, its log and its exit code --------------------------------------------


class Shim:
    """Runs in a process of its own, single-threaded. It starts the command, or adopts: takes over a live one.

    SIGTERM asks it to stop the whole tree: stop command, SIGTERM, grace, SIGKILL. It ends when the tree is
    gone and the log is drained; `exit.json` is written as soon as the exit is known.
    """

    def __init__(self, boot_id: str) -> None:
        """Get everything ready that needs no request, so that a spare shim has it behind it."""
        self.boot_id = boot_id
        self.identity = identify(os.getpid(), boot_id)
        self.leader: Identity | None = None
        self.is_parent = False
        self.leader_ended = False
        self.reaped = False
        self.killed = False
        self.stop_asked = False
        self.stops_at_once = False  # whether the leader's group is ours to signal, and due nothing before it
        self.group_told = False
        self.stop_command_pid = 0
        self.leader_fd = -1
        self.listen_for_signals()
        self.child: Child | None = None
        self.line: socket.socket | None = None
        self.exit_fd = -1
        self.held: List[int] = []  # files that were replaced
        self.let_go_at = 0.0
        self.ended: Json = {}

    # Beginning

    def fork_ahead(self) -> None:
        """Have the process that becomes the command forked before anybody waits for it."""
        become_subreaper()
        self.child = Child(self.boot_id)

    def rehearse(self) -> None:
        """Do what a start does, where nothing can come of it.

        A forked process copies each page of memory when it first writes there; a quarter of a start went into that.
        """
        request = json.loads(json.dumps({"folder": os.devnull, "run": "", "mark": "", "cgroup": None}))
        self.take_up(request, lambda message: None, None)
        for step in (
            self.take_lock,
            lambda: self.wanted(adopt=True),
            self.open_output,
            lambda: os.replace(stage_json(self.path("process.json"), request), self.path("process.json")),
            self.rehearse_end,
        ):
            with contextlib.suppress(OSError):
                step()

    def rehearse_record(self) -> None:
        """Go through what is due once the leader has ended, while it is about to: what was not used lately is slow."""
        json.dumps({"event": "gone", "ended": self.exit_record(0)}).encode()

    def rehearse_end(self) -> None:
        """Go through what follows SIGTERM, likewise; the child that waits is left alone."""
        poller = select.poll()
        poller.register(self.wake_read, select.POLLIN)
        self.fifo, self.spec = -1, {}
        self.on_stop()
        self.signal_group(signal.SIGTERM)
        signal.raise_signal(signal.SIGCHLD)
        self.wait(poller, 0)
        self.begin_stop()
        self.finish_leader(kill_now=False)
        self.stop_asked = False
        self.exit_fd = os.open(os.devnull, os.O_WRONLY)
        self.write_exit(json.dumps(self.exit_record(0)).encode(), durable=False)

    def take_up(self, request: Json, tell: Callable[[Json], None], line: socket.socket | None) -> None:
        """Know whose shim this is."""
        self.folder: str = request["folder"]
        self.run_id: str = request["run"]
        self.mark: str = request["mark"]
        self.cgroup: str | None = request.get("cgroup")
        self.tell = tell
        self.line = line

    def main(self, request: Json, tell: Callable[[Json], None], line: socket.socket | None) -> None:
        """Do the whole life of a shim; `line` leads to the agent where that has a word in the start itself."""
        signal.signal(signal.SIGTERM, self.on_stop)
        self.take_up(request, tell, line)
        adopt = request["adopt"]
        if adopt and self.child:
            self.child.dismiss()
        if not self.take_lock():
            self.tell({"event": "busy"})
            return
        document = request.get("document") or self.wanted(adopt)
        if document.get("run") != self.run_id:
            self.tell({"event": "busy"})
            return
        self.spec: Json = document["spec"]
        self.open_output()
        ready = self.find_process() if adopt else self.start_process(document)
        if not ready:
            self.tell({"event": "busy"})
            return
        with contextlib.suppress(OSError):
            os.chdir("/")
        self.supervise()

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def wanted(self, adopt: bool) -> Json:
        """Return instance.json. What already runs is looked after even if that file is damaged."""
        try:
            return read_json(self.path("instance.json")) or {}
        except Unreadable:
            if not adopt:
                raise
            return {"run": self.run_id, "spec": {}}

    def listen_for_signals(self) -> None:
        """Turn SIGCHLD and, later, SIGTERM into bytes on a pipe, so that one poll waits for everything."""
        self.wake_read, wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)

    def on_stop(self, *_: Any) -> None:
        """Note that the tree is to end, and tell its group here and now: somebody waits."""
        first, self.stop_asked = not self.stop_asked, True
        if first and self.stops_at_once:
            self.group_told = self.signal_group(signal.SIGTERM)

    def take_lock(self) -> bool:
        """Become the only shim of this instance; False when another one stays it."""
        self.lock_fd = os.open(self.path("shim.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(40):
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                time.sleep(0.05)
        return False

    def open_output(self) -> None:
        """Open the FIFO and the log.

        A FIFO and not a pipe: the process holds it open for reading too, so it gets no SIGPIPE when this
        shim dies, and the next shim reads on where this one ended.
        """
        self.fifo_path = self.path("output")
        try:
            os.mkfifo(self.fifo_path, 0o600)
        except FileExistsError:
            if not stat.S_ISFIFO(os.stat(self.fifo_path).st_mode):
                os.unlink(self.fifo_path)
                os.mkfifo(self.fifo_path, 0o600)
        self.fifo = os.open(self.fifo_path, os.O_RDWR | os.O_NONBLOCK)
        self.log = LogWriter(self.folder)

    def start_process(self, document: Json) -> bool:
        """Start the command once: False when this run was started before.

        The child waits at its gate until its identity is on disk.
        """
        try:
            known = read_json(self.path("process.json"))
        except Unreadable:
            known = None
            self.signal_tree(signal.SIGKILL)  # an earlier run may live that nobody can name any more
        if known and known.get("run") == self.run_id:
            return False
        if self.child is None or self.child.has_ended():
            self.fork_ahead()
        assert self.child is not None
        self.is_parent = True
        self.leader = self.child.identity
        self.enter_cgroup(self.leader.pid)
        record = self.process_record(document, iso_now(), time.monotonic())
        staged = stage_json(self.path("process.json"), record)
        self.held = [hold(self.path("process.json")), hold(self.path("exit.json"))]
        self.let_go_at = time.monotonic() + LET_GO_AFTER
        if self.line is not None and not self.may_begin(staged):
            return False
        if time.monotonic() - record["started_monotonic"] > STARTED_AT_WITHIN:
            record = self.process_record(document, iso_now(), time.monotonic())
            staged = stage_json(self.path("process.json"), record)
        os.replace(staged, self.path("process.json"))
        self.tell({"event": "started", "process": record})  # somebody waits for it
        self.child.become(self.spec["command"], self.spec, self.mark, self.fifo_path)
        with contextlib.suppress(OSError):  # of an earlier run: to replace it would only delay this one's
            os.unlink(self.path("exit.json"))
        self.stage_exit()
        return True

    def stage_exit(self) -> None:
        """Have a file for the exit record while nobody waits: at the end somebody may."""
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self.exit_fd = os.open(self.path("exit.json.staged"), flags, 0o600)

    def let_go_of_held(self, now: float) -> None:
        """Free the room of what was replaced, in a quiet moment: that can take milliseconds, and no end is to wait.

        A shim that ends before frees it thereby.
        """
        if self.held and now >= self.let_go_at and not self.stop_asked and not self.leader_ended:
            for fd in self.held:
                let_go(fd)
            self.held = []

    def may_begin(self, staged: str) -> bool:
        """Say that all is ready, and wait for the word that the intent is on disk; without it, undo what was done."""
        assert self.line is not None and self.child is not None
        self.tell({"event": "ready"})
        if read_line(self.line) is not None:
            return True
        self.child.dismiss()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.child.identity.pid, 0)
        self.leave_cgroup()
        for path in (staged, self.fifo_path):
            with contextlib.suppress(OSError):
                os.unlink(path)
        return False

    def enter_cgroup(self, pid: int) -> None:
        """Put the child that waits at the gate into its cgroup; it runs without one, but not without its limit."""
        limit = (self.spec.get("limits") or {}).get("memory_bytes")
        if self.cgroup is None and not limit:
            return
        try:
            if self.cgroup is None:
                raise OSError(errno.ENOENT, "no cgroup can be used any more")
            os.makedirs(self.cgroup, exist_ok=True)
            if limit:
                write_cgroup(self.cgroup, "memory.max", str(limit))
                # A server that has lost one of its processes to the limit is of no use.
                write_cgroup(self.cgroup, "memory.oom.group", "1")
            write_cgroup(self.cgroup, "cgroup.procs", str(pid))
        except OSError as error:
            self.leave_cgroup()
            self.cgroup = None
            if limit:
                raise OSError(error.errno, "its memory limit could not be set: %s" % error.strerror) from error

    def leave_cgroup(self) -> None:
        """Remove the cgroup, which is empty by now."""
        if self.cgroup is not None:
            with contextlib.suppress(OSError):
                os.rmdir(self.cgroup)

    def ran_out_of_memory(self) -> bool:
        """Tell whether the kernel's out-of-memory killer has been at this instance's cgroup."""
        if self.cgroup is not None:
            with contextlib.suppress(OSError, ValueError):
                events = read_proc(os.path.join(self.cgroup, "memory.events")).decode().split()
                return int(dict(zip(events[::2], events[1::2])).get("oom_kill", 0)) > 0  # noqa: B905
        return False

    def process_record(self, document: Json, started_at: str, started_monotonic: float) -> Json:
        """Return the content of process.json."""
        return {
            "run": self.run_id,
            "generation": document.get("generation"),
            "process": self.leader,
            "shim": self.identity,
            "started_at": started_at,
            "started_monotonic": started_monotonic,
            "log_start": self.log.first + self.log.length,
            "cgroup": self.cgroup,
        }

    def find_process(self) -> bool:
        """Take over what a dead shim left: False when there is nothing to take over."""
        record = read_json(self.path("process.json"))
        if record is None or record.get("run") != self.run_id:
            return False
        with contextlib.suppress(Unreadable):
            ended = read_json(self.path("exit.json")) or {}
            self.leader_ended = ended.get("run") == self.run_id
        self.leader = identity_from(record.get("process"))
        self.cgroup = record.get("cgroup")
        record["shim"] = self.identity
        # A full disk must not keep the process without a reader; the agent is told all the same.
        with contextlib.suppress(OSError):
            write_json(self.path("process.json"), record, durable=False)
        if self.leader and is_alive(self.leader, self.boot_id):
            with contextlib.suppress(ProcessLookupError):
                self.leader_fd = open_pidfd(self.leader.pid)
        self.tell({"event": "started", "process": record})
        return True

    # Life

    def supervise(self) -> None:
        """Pump output, notice exits, stop when asked; return when the tree is gone."""
        poller = select.poll()
        for fd in (self.fifo, self.wake_read, self.leader_fd):
            if fd >= 0:
                poller.register(fd, select.POLLIN)
        term_at = kill_at = None
        # Without waitid nobody can tell before it is reaped that the leader has ended.
        self.stops_at_once = self.is_parent and hasattr(os, "waitid") and not self.spec.get("stop_command")
        while True:
            ending = self.leader_ended or kill_at is not None or term_at is not None
            patient = (self.is_parent or self.leader_fd >= 0) and not self.held
            self.wait(poller, 50 if ending else None if patient else 200)
            self.notice_exit()
            now = time.monotonic()
            self.let_go_of_held(now)
            if self.stop_asked and term_at is None and kill_at is None:
                term_at = now + self.begin_stop()
            if term_at is not None and kill_at is None and (now >= term_at or not self.stop_command_pid):
                self.terminate_tree(poller)
                kill_at = now + float(self.spec.get("stop_grace", STOP_GRACE))
            if self.leader_ended and kill_at is None and term_at is None:
                kill_at = now
            kill_now = kill_at is not None and now >= kill_at
            # Mostly nothing is left but the leader: then nobody has to be looked for among all processes.
            self.finish_leader(kill_now)
            if self.leader_ended and self.tree_is_gone():
                break
            if kill_now:
                self.killed = self.killed or not self.leader_ended
                self.signal_tree(signal.SIGKILL)
        self.clear_up()

    def clear_up(self) -> None:
        """Leave nothing behind, and say that the whole tree is gone."""
        self.drain()
        self.leave_cgroup()
        os.close(self.lock_fd)
        # The sign of a clean end: where the FIFO is left, another shim is sent to see to leftovers. It is the last
        # thing done, and counts from here on: that a process of this size is gone takes as long as all of the above.
        with contextlib.suppress(OSError):
            os.unlink(self.fifo_path)
        if self.line is not None:
            self.tell({"event": "gone", "ended": self.ended})
            if self.stop_asked:
                time.sleep(END_AFTER)

    def wait(self, poller: Any, milliseconds: int | None) -> None:
        """Sleep until something happens and take one helping of output."""
        for fd, _ in poller.poll(milliseconds):
            if fd == self.fifo:
                self.pump()
            elif fd == self.wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake_read, 1024)
            else:
                poller.unregister(fd)  # the leader ended, and its pidfd would say so for ever

    def pump(self) -> int:
        """Move up to 64 KiB from the FIFO to the log; return how many bytes that were."""
        try:
            data = os.read(self.fifo, READ_BYTES)
        except BlockingIOError:
            return 0
        self.log.write(data)
        return len(data)

    def drain(self) -> None:
        """Take what is left in the FIFO; nobody writes any more, and it holds a mebibyte at most."""
        for _ in range(64):
            if not self.pump():
                return

    def begin_stop(self) -> float:
        """Start the stop command, if there is one; return how long it may take before SIGTERM goes out."""
        command = self.spec.get("stop_command")
        if not command:
            return 0.0
        child = Child(self.boot_id)
        child.become(command, self.spec, self.mark, self.fifo_path)
        self.stop_command_pid = child.identity.pid
        return STOP_COMMAND_LIMIT

    def notice_exit(self) -> None:
        """Learn of ended children and of the leader's end."""
        if self.is_parent:
            self.look_at_children()
        else:
            self.reap_children()
            if not self.leader_ended and not is_alive(self.leader, self.boot_id):
                self.record_exit(UNKNOWN)

    def look_at_children(self) -> None:
        """Reap what ended, but keep the leader a zombie: as long as it is one, its group number is ours."""
        if self.reaped:
            self.reap_children()
            return
        assert self.leader is not None
        while hasattr(os, "waitid"):
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is None:
                return
            if seen.si_pid == self.leader.pid:
                break
            self.forget_child(os.waitpid(seen.si_pid, 0)[0])
        else:  # macOS: no waitid before Python 3.13
            pid, status = os.waitpid(self.leader.pid, os.WNOHANG)
            if pid:
                self.reaped = True
                self.record_exit(exit_code_of(status))
            return
        if not self.leader_ended:
            code = seen.si_status if seen.si_code == os.CLD_EXITED else 128 + seen.si_status
            self.record_exit(code)

    def finish_leader(self, kill_now: bool) -> None:
        """Reap the leader once its group has had the signal it is due."""
        if not (self.is_parent and self.leader_ended) or self.reaped or not self.leader:
            return
        if kill_now:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.leader.pid, signal.SIGKILL)
        self.stops_at_once = False  # from here on the number may be a stranger's
        os.waitpid(self.leader.pid, 0)
        self.reaped = True

    def reap_children(self) -> bool:
        """Reap every child that ended; tell whether there are others."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.forget_child(pid)

    def forget_child(self, pid: int) -> None:
        if pid == self.stop_command_pid:
            self.stop_command_pid = 0

    def record_exit(self, code: int | str) -> None:
        """Write how the leader ended; from here on no death of ours can lose it.

        Nor a power cut, unless it was told to end: then nothing hangs on its code, and somebody waits for its end.
        """
        self.leader_ended = True
        self.ended = self.exit_record(code)
        while True:
            try:
                self.write_exit(json.dumps(self.ended).encode(), durable=not self.stop_asked)
                return
            except OSError:
                # A full disk: the code stays with us until there is room, and output is taken meanwhile.
                self.pump()
                time.sleep(0.5)

    def exit_record(self, code: int | str) -> Json:
        """Return the content of exit.json."""
        return {
            "run": self.run_id,
            "exit_code": code,
            "finished_at": iso_now(),
            "finished_monotonic": time.monotonic(),
            "killed_after_grace": self.killed,
            "out_of_memory": self.ran_out_of_memory(),
        }

    def write_exit(self, data: bytes, durable: bool) -> None:
        """Write exit.json as `write_file` does, by the file that is ready for it, if any."""
        fd, self.exit_fd = self.exit_fd, -1
        if fd < 0:
            write_file(self.path("exit.json"), data, durable)
            return
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(self.path("exit.json.staged"), self.path("exit.json"))
        if durable:
            sync_folder(self.folder)

    # Ending

    def members(self) -> List[Identity]:
        """Return every live process of the tree, each with its identity."""
        if not self.is_parent:
            return tree_members(self.leader, self.mark, self.boot_id)
        # As subreaper this shim is the ancestor of all of them, also of those that left the session.
        processes = all_processes()
        found = descendants([os.getpid()], processes)
        return [Identity(pid, processes[pid].start, self.boot_id) for pid in found]

    def terminate_tree(self, poller: Any) -> None:
        """SIGTERM to the group, and to those outside of it, unless all are gone before these were looked for: to look
        for them means to read about every process of the machine."""
        told = self.group_told or self.signal_group(signal.SIGTERM)
        self.rehearse_record()
        until = time.monotonic() + LOOK_FOR_OTHERS_AFTER
        while told and self.is_parent and time.monotonic() < until:
            self.wait(poller, 2)
            self.notice_exit()
            self.finish_leader(kill_now=False)
            if self.leader_ended and self.tree_is_gone():
                return
        self.signal_others(signal.SIGTERM, told)

    def signal_tree(self, number: int) -> None:
        """Signal the group at once, then everyone outside of it one by one; a cgroup ends all at a stroke."""
        if number == signal.SIGKILL and self.cgroup is not None:
            with contextlib.suppress(OSError):  # cgroup.kill came with Linux 5.14
                write_cgroup(self.cgroup, "cgroup.kill", "1")
        self.signal_others(number, self.signal_group(number))

    def signal_group(self, number: int) -> bool:
        """Signal the leader's group; False when there is none that is surely ours."""
        if self.leader and ((self.is_parent and not self.reaped) or is_alive(self.leader, self.boot_id)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.leader.pid, number)
                return True
        return False

    def signal_others(self, number: int, told: bool) -> None:
        """Signal everyone of the tree, without the group when that was `told`."""
        for member in self.members():
            found = read_stat(member.pid)
            # Twice would be once too often: a second SIGTERM makes many servers drop what they do.
            if found is None or not told or self.leader is None or found.pgid != self.leader.pid:
                with contextlib.suppress(PermissionError):
                    send_signal(member, number, self.boot_id)

    def tree_is_gone(self) -> bool:
        """Tell whether no process of the instance is left."""
        if not self.is_parent:
            return not self.members()
        return not self.reap_children()


class Child:
    """A forked process in a session of its own that waits at a gate, and becomes the command once it is told which.

    If the shim dies before that, the gate closes and the child ends without having run anything.
    """

    def __init__(self, boot_id: str) -> None:
        gate, self.gate = os.pipe()
        # Held back over the fork: the shim's own handler in the child would swallow a stop that comes early.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                restore_signals()
                # Else it would hold open its own gate, and what tells others that the shim or the spawner died.
                os.closerange(3, gate)
                os.closerange(gate + 1, CHILD_FILES)
                with open(gate, "rb") as file:
                    orders = file.readline()
                if orders.endswith(b"\n"):  # else the shim died
                    run_command(**json.loads(orders.decode()))
            finally:
                os._exit(127)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.close(gate)
        # One killed at once has no start time where only live processes have one.
        self.identity = identify(pid, boot_id) or Identity(pid, "", boot_id)

    def has_ended(self) -> bool:
        """Tell, before it is told anything, whether it is gone already."""
        return os.waitpid(self.identity.pid, os.WNOHANG)[0] != 0

    def become(self, command: str, spec: Json, mark: str, output: str) -> None:
        """Open the gate."""
        orders = {"command": command, "spec": spec, "mark": mark, "output": output}
        with contextlib.suppress(BrokenPipeError), open(self.gate, "wb") as gate:  # killed: an end as any other
            gate.write(json.dumps(orders).encode() + b"\n")

    def dismiss(self) -> None:
        """Have it end: there is nothing for it to run."""
        os.close(self.gate)


def exit_code_of(status: int) -> int:
    """Return the exit code a shell would show for a wait status."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


_prctl: Callable[..., int] | None = None


def load_prctl() -> None:
    """Make prctl callable. Done in the spawner, so that no shim pays for loading ctypes."""
    global _prctl
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes  # noqa: PLC0415 - only the spawner and its shims need it

        _prctl = ctypes.CDLL(None, use_errno=True).prctl


def become_subreaper() -> None:
    """Become the parent of orphaned descendants, so that none is lost from sight."""
    if _prctl is not None:
        _prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def restore_signals() -> None:
    """Undo in a forked child what the shim, Python and whoever started the agent did to signals.

    A shell ignores SIGINT and SIGQUIT for what it starts in the background, and that is inherited.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):  # SIGKILL, SIGSTOP, those the C library keeps
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def run_command(command: str, spec: Json, mark: str, output: str) -> None:
    """Turn this child into the command, which writes to the FIFO `output`; what fails is said there. Never returns."""
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        fifo = os.open(output, os.O_RDWR)
        os.dup2(fifo, 1)
        os.dup2(fifo, 2)
        environment = dict(os.environ)
        files = (spec.get("limits") or {}).get("open_files")
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        folder = become_account(spec.get("user"), environment)
        environment.update(spec.get("env") or {})
        environment.update(INFINI_INSTANCE=mark.split("/", 1)[1], INFINI_TREE=mark)
        os.umask(0o022)
        if spec.get("cwd") or folder:
            os.chdir(spec.get("cwd") or folder or "/")
        path = environment.get("PATH") or os.defpath
        bash = find_program("bash", path)
        if bash:
            os.execve(bash, ["bash", "-lc", command], environment)
        os.execve(find_program("sh", path) or "/bin/sh", ["sh", "-c", command], environment)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the forked copy of the shim must end here
        os.write(2, ("infini: the command could not be started: %s\n" % error).encode("utf-8", "replace"))
    finally:
        os._exit(126)


def find_program(name: str, path: str) -> str | None:
    """Return the first such program on `path` that this account may run.

    Not os.execvpe: that imports a module on the way, which another account may not be able to read.
    """
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def become_account(user: str | None, environment: Dict[str, str]) -> str | None:
    """Take on `user`'s rights and say so in `environment`; return the home directory to start in."""
    if not user or pwd.getpwnam(user).pw_uid == os.geteuid():
        return None
    entry = pwd.getpwnam(user)
    os.fchown(1, entry.pw_uid, entry.pw_gid)  # so that it may open /dev/stdout
    os.initgroups(user, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    environment.update(HOME=entry.pw_dir, USER=user, LOGNAME=user, SHELL=entry.pw_shell or "/bin/sh")
    return entry.pw_dir if os.path.isdir(entry.pw_dir) else None


# --- The spawner: forks shims -------------------------------------------------------------------------


def spawner_main(fd: int) -> None:
    """Have a shim for each request line on socket `fd`; end when the agent is gone."""
    import gc  # noqa: PLC0415 - only here

    load_prctl()
    os.set_inheritable(fd, False)  # it had to be for our own start; commands must not get it
    link = socket.socket(fileno=fd)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps shims that end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A collection would touch, and so copy, every page that the shims share.
    gc.collect()
    gc.disable()
    gc.freeze()
    boot_id = read_boot_id()
    while True:
        line = read_line(link)
        if line is None:
            return
        request = json.loads(line.decode())
        if request.get("event") == "spare":
            fork_spare(boot_id, link)
        else:
            fork_shim(request, boot_id, link)


def fork_spare(boot_id: str, link: socket.socket) -> None:
    """Fork a shim that waits for a start, which then need not wait for a fork. Where none can be, there is none."""
    try:
        pid = os.fork()
    except OSError:
        return
    if pid == 0:
        try:
            detach()
            spare_main(boot_id, link)
        finally:
            os._exit(0)


def spare_main(boot_id: str, link: socket.socket) -> None:
    """Get ready for a start, offer the agent a line of our own, and be the shim that is asked for over it."""
    shim = Shim(boot_id)
    shim.fork_ahead()
    shim.rehearse()
    line, theirs = socket.socketpair()
    offer = json.dumps({"event": "spare", "shim": shim.identity}).encode() + b"\n"
    with contextlib.suppress(OSError):
        link.sendmsg([offer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", theirs.fileno()))])
    theirs.close()
    link.close()
    request = read_line(line)
    if request is None:  # the agent ended, or wants another one
        return
    shim_main(json.loads(request.decode()), boot_id, line, shim)


def read_line(link: socket.socket) -> bytes | None:
    """Take one line from `link` and leave what follows to others; None when the other end is gone."""
    line = b""
    while not line.endswith(b"\n"):
        seen = link.recv(READ_BYTES, socket.MSG_PEEK)
        if not seen:
            return None
        line += link.recv(seen.find(b"\n") + 1 or len(seen))
    return line


def fork_shim(request: Json, boot_id: str, link: socket.socket) -> None:
    """Fork one shim; a fork that fails is told to the agent."""
    try:
        pid = os.fork()
    except OSError as error:
        message = "The system could not start a process: %s." % error.strerror
        tell_agent(link, request, {"event": "error", "message": message})
        return
    if pid == 0:
        try:
            detach()
            shim_main(request, boot_id, link)
        finally:
            os._exit(0)


def tell_agent(link: socket.socket, request: Json, message: Json) -> None:
    """Send a message about a request; a shim whose agent is gone goes on, because the files say the same."""
    message.update(folder=request["folder"], run=request["run"])
    with contextlib.suppress(OSError):
        link.send(json.dumps(message).encode() + b"\n", socket.MSG_DONTWAIT)  # it must never hang


def detach() -> None:
    """Leave the agent's and the spawner's session, terminal and files."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def shim_main(request: Json, boot_id: str, link: socket.socket, spare: Shim | None = None) -> None:
    """Be the shim that `request` asks for; a spare one has `link` for itself, others share it with the spawner."""
    told = []

    def tell(message: Json) -> None:
        tell_agent(link, request, message)
        if message["event"] != "ready":
            told.append(True)
        if spare is None:
            link.close()  # a shim holds nothing of the agent's, or the agent's end would not be seen

    try:
        (spare or Shim(boot_id)).main(request, tell, link if spare else None)
    except Exception as error:  # noqa: BLE001 - the last chance to say why there is no process
        if not told:
            tell_agent(
                link, request, {"event": "error", "message": "The shim could not start the process: %s." % error}
            )
        with contextlib.suppress(OSError):
            text = "%s %s: %s\n" % (iso_now(), type(error).__name__, error)
            write_file(os.path.join(request["folder"], "shim.error"), text.encode(), durable=False)


SPARE_REQUEST = b'{"event": "spare"}\n'


class Line:
    """The agent's end of a shim's own line: a start over it needs neither the spawner nor the watcher."""

    def __init__(self, fd: int, shim: Identity | None) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.set_inheritable(False)
        self.shim = shim
        self.buffer = b""
        self.ended = False

    def send(self, message: Json) -> bool:
        """Tell the shim something; False when it has ended."""
        try:
            self.socket.settimeout(SPARE_ANSWER_WITHIN)
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return False
        return True

    def hear(self, seconds: float) -> Json | None:
        """Return the next thing the shim says; None when it says nothing in time, or has ended."""
        until = time.monotonic() + seconds
        try:
            while b"\n" not in self.buffer:
                self.socket.settimeout(max(0.001, until - time.monotonic()))
                data = self.socket.recv(READ_BYTES)
                if not data:
                    self.ended = True
                    return None
                self.buffer += data
        except OSError as error:
            self.ended = isinstance(error, ConnectionError)
            return None
        line, _, self.buffer = self.buffer.partition(b"\n")
        return dict(json.loads(line.decode()))

    def close(self) -> None:
        """Say no more: a shim that has not been told to begin undoes what it did and ends."""
        self.socket.close()

    def dismiss(self, boot_id: str) -> None:
        """Have a shim that runs nothing end, and wait for it; one that hangs, or was frozen, is killed."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        until = time.monotonic() + SPARE_ANSWER_WITHIN
        while self.hear(until - time.monotonic()) is not None:
            pass
        self.close()
        if not self.ended and self.shim is not None:
            send_signal(self.shim, signal.SIGKILL, boot_id)


class Spawner:
    """The agent's end of the spawner: started when first needed, and again should it die."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.link: socket.socket | None = None
        self.process: Any = None
        self.spare: Line | None = None
        self.spare_wanted_since: float | None = None
        self.on_new_link: Callable[[socket.socket], None] = lambda link: None

    def prepare(self) -> None:
        """Start the spawner ahead of the first request, which then need not wait for an interpreter."""
        with self.lock, contextlib.suppress(OSError):
            if self.link is None:
                self.start()

    def offer(self, line: Line) -> None:
        """Keep a spare shim for the next start; one is enough."""
        with self.lock:
            earlier, self.spare = self.spare, line
        if earlier is not None:
            earlier.close()

    def take_spare(self) -> Line | None:
        """Return the line to the spare shim, now the caller's; None where there is none."""
        with self.lock:
            line, self.spare = self.spare, None
        return line

    def want_spare(self) -> None:
        """Have the watcher ask for another one in a quiet moment."""
        if self.spare is None and self.spare_wanted_since is None:
            self.spare_wanted_since = time.monotonic()

    def ask_for_spare(self) -> None:
        """Have another spare shim forked; a spawner that is yet to be started makes one anyway."""
        with self.lock, contextlib.suppress(OSError):
            self.spare_wanted_since = None
            if self.link is not None and self.spare is None:
                self.link.sendall(SPARE_REQUEST)

    def ask(self, request: Json) -> None:
        """Send a request for a shim. Raise OSError when no spawner can be started."""
        line = json.dumps(request).encode() + b"\n"
        with self.lock:
            for attempt in (1, 2):
                link = self.link or self.start()
                try:
                    link.sendall(line)
                    return
                except OSError:
                    self.link = None
                    if attempt == 2:
                        raise

    def start(self) -> socket.socket:
        """Start a spawner and return the socket to it; call with the lock held.

        A fresh interpreter and not a fork: the agent has threads, and shims should carry none of its memory.
        """
        import subprocess  # noqa: PLC0415 - not loaded into shims

        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*SPAWNER_PYTHON, os.path.abspath(__file__), "--spawner", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        with contextlib.suppress(OSError):  # it has ended already: whoever asks for more is told
            ours.sendall(SPARE_REQUEST)
        self.spare_wanted_since = None
        self.link = ours
        self.on_new_link(ours)
        return ours

    def close(self) -> None:
        """End the spawner after what it was asked for, and see it off: no one else would."""
        spare = self.take_spare()
        if spare is not None:
            spare.close()
        with self.lock, contextlib.suppress(OSError):
            if self.link is None:
                return
            self.link.shutdown(socket.SHUT_WR)
            until = time.monotonic() + 2
            while self.process.poll() is None and time.monotonic() < until:
                time.sleep(0.005)

    def end_if_frozen(self) -> None:
        """Kill a spawner that somebody has stopped: it would hold up all that is asked of it, for ever."""
        found = read_stat(self.process.pid) if self.process is not None and sys.platform.startswith("linux") else None
        if found is not None and found.state in "Tt" and found.ppid == os.getpid():
            self.process.kill()

    def lost(self, link: socket.socket) -> None:
        """Note that the spawner behind `link` ended; the next request starts another."""
        with self.lock:
            if self.link is link:
                self.link = None
            if self.process is not None:
                self.process.poll()


# --- Windows: written from documentation, never run ---------------------------------------------------


def windows_start_time(pid: int) -> str | None:
    """Return the creation time of a live process on Windows."""
    import ctypes  # noqa: PLC0415 - only on Windows
    from ctypes import wintypes  # noqa: PLC0415

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined, unused-ignore]
    kernel.OpenProcess.restype = wintypes.HANDLE
    handle = wintypes.HANDLE(kernel.OpenProcess(0x1000, False, pid))  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return None
    try:
        code = wintypes.DWORD()
        times = [wintypes.FILETIME() for _ in range(4)]
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.GetProcessTimes(handle, *[ctypes.byref(entry) for entry in times])
        if code.value != 259:  # STILL_ACTIVE
            return None
        return str((times[0].dwHighDateTime << 32) + times[0].dwLowDateTime)
    finally:
        kernel.CloseHandle(handle)


class WindowsSpawner:
    """Starts a shim as a detached process of its own; it has no link, so the agent reads its files."""

    spare_wanted_since: float | None = None

    def prepare(self) -> None:
        """Nothing is started ahead."""

    def take_spare(self) -> Line | None:
        """There is none."""
        return None

    def want_spare(self) -> None:
        """There will be none."""

    def end_if_frozen(self) -> None:
        """There is none that could be."""

    def ask(self, request: Json) -> None:
        """Start a shim for `request`. Raise OSError."""
        import subprocess  # noqa: PLC0415

        flags = 0x00000200 | 0x00000008  # CREATE_NEW_PROCESS_GROUP | DETACHED_PROCESS
        subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), "--shim", json.dumps(request)],
            creationflags=flags,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=True,
        )


def windows_shim_main(request: Json) -> None:
    """Run one command on Windows: output goes straight to the log file, `stop` in the folder asks to stop."""
    import subprocess  # noqa: PLC0415

    folder, run = request["folder"], request["run"]
    document = read_json(os.path.join(folder, "instance.json")) or {}
    spec = document["spec"]
    boot_id = read_boot_id()
    if request["adopt"]:
        record = read_json(os.path.join(folder, "process.json")) or {}
        leader = identity_from(record.get("process"))
        record["shim"] = identify(os.getpid(), boot_id)
        write_json(os.path.join(folder, "process.json"), record, durable=False)
        process = None
    else:
        environment = dict(os.environ, **(spec.get("env") or {}))
        environment.update(INFINI_INSTANCE=request["mark"].split("/", 1)[1])
        writer = LogWriter(folder)
        process = subprocess.Popen(
            spec["command"], shell=True, env=environment, cwd=spec.get("cwd"), stdin=subprocess.DEVNULL,
            stdout=writer.fd, stderr=writer.fd, creationflags=0x00000200,
        )  # fmt: skip
        leader = identify(process.pid, boot_id)
        record = {
            "run": run, "generation": document.get("generation"), "process": leader,
            "shim": identify(os.getpid(), boot_id), "started_at": iso_now(),
            "started_monotonic": time.monotonic(), "log_start": writer.first + writer.length,
        }  # fmt: skip
        write_json(os.path.join(folder, "process.json"), record, durable=False)
    kill_at = None
    while process.poll() is None if process else is_alive(leader, boot_id):
        now = time.monotonic()
        if kill_at is None and os.path.exists(os.path.join(folder, "stop")):
            kill_at = now + float(spec.get("stop_grace") or 0)
            output_of("taskkill", "/T", "/PID", str(leader.pid if leader else 0))
        elif kill_at is not None and now >= kill_at and is_alive(leader, boot_id):
            output_of("taskkill", "/T", "/F", "/PID", str(leader.pid if leader else 0))
        time.sleep(0.2)
    code = process.returncode if process else UNKNOWN
    ended = {
        "run": run, "exit_code": code, "finished_at": iso_now(), "finished_monotonic": time.monotonic(),
        "killed_after_grace": False,
    }  # fmt: skip
    write_json(os.path.join(folder, "exit.json"), ended, durable=True)
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, "stop"))


# --- Errors and the checking of input -----------------------------------------------------------------


class ApiError(Exception):
    """What a client is told instead of an answer: status, code, a sentence, and what is wrong per field."""

    def __init__(self, status: int, code: str, message: str, fields: Dict[str, List[str]] | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.fields = fields

    def document(self) -> Json:
        error: Json = {"code": self.code, "message": str(self)}
        if self.fields:
            error["fields"] = self.fields
        return {"error": error}


def is_text(value: Any) -> bool:
    """Tell whether `value` is text that can be passed to a process."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and is_number(value, low, high)


def is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_text(name) and name and "=" not in name and is_text(text) for name, text in value.items()
    )


def is_folder(value: Any) -> bool:
    return is_text(value) and os.path.isabs(value) and os.path.isdir(value)


def is_probe_path(value: Any) -> bool:
    return is_text(value) and value.startswith("/") and not re.search(r"[^!-~]", value)


Check = Tuple[Callable[[Any], bool], str]

RESTART_POLICIES = ("never", "on-failure", "always")

DEPLOY_FIELDS: Dict[str, Check] = {
    "command": (
        lambda value: is_text(value) and bool(value.strip()),
        "Give the command as a non-empty text.",
    ),
    "env": (is_environment, "Give an object of texts; names are not empty and hold no '='."),
    "cwd": (is_folder, "Give the absolute path of a directory that exists on this server."),
    "user": (lambda value: is_text(value) and bool(value), "Give the name of an account."),
    "port": (lambda value: is_integer(value, 1, 65535), "Give an integer from 1 to 65535."),
    "generation": (lambda value: is_integer(value, 0, 2**53), "Give an integer, 0 or more."),
    "probes": (lambda value: isinstance(value, dict), "Give an object."),
    "restart": (
        lambda value: isinstance(value, dict) or value in RESTART_POLICIES,
        "Give never, on-failure or always, or an object.",
    ),
    "limits": (lambda value: isinstance(value, dict), "Give an object."),
    "stop_command": (is_text, "Give a text."),
    "stop_grace": (lambda value: is_number(value, 0, 3600), "Give a number of seconds from 0 to 3600."),
}
RESTART_FIELDS: Dict[str, Check] = {
    "policy": (lambda value: value in RESTART_POLICIES, "Give never, on-failure or always."),
    "max_restarts": (lambda value: is_integer(value, 0, 10**6), "Give an integer, 0 or more."),
    "backoff_first_seconds": (lambda value: is_number(value, 0.1, 3600), "Give seconds from 0.1 to 3600."),
    "backoff_most_seconds": (lambda value: is_number(value, 0.1, 86400), "Give seconds from 0.1 to 86400."),
    "stable_seconds": (lambda value: is_number(value, 0, 86400), "Give seconds from 0 to 86400."),
}
LIMIT_FIELDS: Dict[str, Check] = {
    "open_files": (lambda value: is_integer(value, 16, 2**30), "Give an integer from 16 to 2^30."),
    "memory_bytes": (lambda value: is_integer(value, 2**20, 2**60), "Give bytes, a mebibyte or more."),
}
PROBE_FIELDS: Dict[str, Check] = {
    "type": (lambda value: value in ("tcp", "http", "none"), "Give tcp, http or none."),
    "host": (lambda value: is_text(value) and is_ip_address(value), "Give an IP address of this server."),
    "path": (is_probe_path, "Give a path that starts with / and holds no spaces."),
    "expected_status": (lambda value: is_integer(value, 100, 599), "Give an HTTP status."),
    "startup_seconds": (lambda value: is_number(value, 0.1, 7 * 86400), "Give seconds, at most a week."),
    "period_seconds": (lambda value: is_number(value, 0.1, 3600), "Give seconds from 0.1 to 3600."),
    "timeout_seconds": (lambda value: is_number(value, 0.1, 60), "Give seconds from 0.1 to 60."),
    "failure_threshold": (lambda value: is_integer(value, 1, 100), "Give an integer from 1 to 100."),
}


def is_ip_address(value: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, value)
            return True
    return False


def check_fields(body: Json, checks: Dict[str, Check], prefix: str = "") -> Dict[str, List[str]]:
    """Return what is wrong in `body`, per field; null counts as left out."""
    wrong: Dict[str, List[str]] = {}
    for name, value in body.items():
        if name not in checks:
            wrong[prefix + name] = ["There is no such field."]
        elif value is not None and not checks[name][0](value):
            wrong[prefix + name] = [checks[name][1]]
    return wrong


def refuse_if(wrong: Dict[str, List[str]]) -> None:
    """Raise ApiError 400 when any field is wrong."""
    if wrong:
        message = "Correct these fields: %s." % ", ".join(sorted(wrong))
        raise ApiError(400, "invalid", message, wrong)


def checked_spec(body: Json) -> Json:
    """Return the checked fields of a deploy body with the empty ones left out; raise ApiError 400."""
    wrong = check_fields(body, DEPLOY_FIELDS)
    probes = body.get("probes")
    if isinstance(probes, dict):
        wrong.update(check_fields(probes, PROBE_FIELDS, "probes."))
        if probes.get("type") in ("tcp", "http") and body.get("port") is None:
            wrong["port"] = ["A %s probe needs the port." % probes["type"]]
    if body.get("command") is None:
        wrong["command"] = [DEPLOY_FIELDS["command"][1]]
    wrong.update(check_restart(body.get("restart")))
    limits = body.get("limits")
    if isinstance(limits, dict):
        wrong.update(check_fields(limits, LIMIT_FIELDS, "limits."))
    refuse_if(wrong)
    check_account(body.get("user"))
    spec = {name: value for name, value in body.items() if value is not None and name != "generation"}
    spec["probes"] = {name: value for name, value in (probes or {}).items() if value is not None}
    spec.setdefault("stop_grace", STOP_GRACE)
    spec.setdefault("restart", "never")
    return spec


def check_limits(limits: Json, cgroups: Cgroups) -> None:
    """Refuse a limit that this agent cannot give a command; raise ApiError 400."""
    wrong: Dict[str, List[str]] = {}
    if limits.get("open_files") is not None:
        most = most_open_files()
        if limits["open_files"] > most:
            wrong["limits.open_files"] = ["The agent may allow at most %d here." % most]
    if limits.get("memory_bytes") is not None:
        reason = cgroups.refuse_memory_limit()
        if reason:
            wrong["limits.memory_bytes"] = [reason]
    refuse_if(wrong)


def most_open_files() -> int:
    """Return how many open files a command may be allowed at most; 0 where there is no such limit."""
    if os.name == "nt":
        return 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or os.geteuid() == 0:
        with contextlib.suppress(OSError, ValueError):
            return max(hard, int(read_proc("/proc/sys/fs/nr_open")))
    return 2**30 if hard == resource.RLIM_INFINITY else hard


def check_restart(value: Any) -> Dict[str, List[str]]:
    """Return what is wrong in a restart policy that is given as an object."""
    if not isinstance(value, dict):
        return {}
    wrong = check_fields(value, RESTART_FIELDS, "restart.")
    if value.get("policy") is None:
        wrong["restart.policy"] = [RESTART_FIELDS["policy"][1]]
    return wrong


def check_account(user: str | None) -> None:
    """Refuse an account that does not exist or that this agent may not become; raise ApiError 400."""
    if not user:
        return
    if os.name == "nt":
        refuse_if({"user": ["Commands run as the agent's own account on Windows."]})
    try:
        uid = pwd.getpwnam(user).pw_uid
    except (KeyError, OSError):
        refuse_if({"user": ["There is no such account on this server."]})
    else:
        if os.geteuid() not in (0, uid):
            refuse_if({"user": ["The agent does not run as root, so it cannot start commands as others."]})


def checked_generation(body: Json) -> int | None:
    """Return the generation of a stop or restart body; raise ApiError 400."""
    refuse_if(check_fields(body, {"generation": DEPLOY_FIELDS["generation"]}))
    return body.get("generation")


# --- Instances ----------------------------------------------------------------------------------------


class RestartPolicy(NamedTuple):
    """When a command that ended is started again, and how long that waits."""

    policy: str
    most: int | None
    first: float
    ceiling: float
    stable: float

    @classmethod
    def of(cls, spec: Json | None) -> RestartPolicy:
        """Return the policy of a checked deploy, with the defaults filled in."""
        given = (spec or {}).get("restart") or "never"
        fields = {"policy": given} if isinstance(given, str) else given

        def value(name: str, default: Any) -> Any:
            return default if fields.get(name) is None else fields[name]

        return cls(
            value("policy", "never"),
            value("max_restarts", None),
            value("backoff_first_seconds", 1.0),
            value("backoff_most_seconds", 300.0),
            value("stable_seconds", 60.0),
        )

    def wants(self, phase: str) -> bool:
        """Tell whether what ended in this phase is started again."""
        return self.policy == "always" or (self.policy == "on-failure" and phase == "failed")

    def delay(self, streak: int) -> float:
        """Return the wait after so many restarts in a row: doubling, and never the same for all at once."""
        jitter = 0.8 + 0.4 * os.urandom(1)[0] / 255
        return min(self.ceiling, self.first * 2.0 ** min(streak, 64)) * jitter


class Pending(NamedTuple):
    """A restart that is due: at this moment of the monotonic clock, because of this."""

    at: float
    reason: str


NEXT_INTENT = "instance.json.next"
BLOCK = 4096  # a file for intents has whole ones of a file system, so that to write in place changes nothing else


def checked_json(document: Json) -> bytes:
    """Return `document` as JSON with a sum over it: what is written in place may be torn, with old parts beside new."""
    text = json.dumps(document)
    return ('%s, "check": %d}' % (text[:-1], check_sum(text))).encode()


def fill_blocks(data: bytes, size: int) -> bytes:
    """Return `data` with blanks up to the end of a block, and no shorter than `size`."""
    return data.ljust(max(size, -(-len(data) // BLOCK) * BLOCK))


def is_whole(document: Json) -> bool:
    """Tell whether a document is just as `checked_json` made it."""
    rest = {name: value for name, value in document.items() if name != "check"}
    return check_sum(json.dumps(rest)) == document.get("check") and type(rest.get("number")) is int


def check_sum(text: str) -> int:
    """Return the CRC-32 of a text."""
    import zlib  # noqa: PLC0415 - not loaded into shims

    return zlib.crc32(text.encode())


def not_writable(error: OSError) -> ApiError:
    """Return the answer for a state directory that takes no more."""
    message = "The agent could not write its state directory (%s); nothing was changed." % error.strerror
    return ApiError(500, "state_not_writable", message)


class Instance:
    """What the agent knows of one instance: the first part stands in instance.json, the second is observed.

    `operation` serialises requests that change it. Fields are read and written under the agent's lock.
    """

    def __init__(self, key: str, folder: str) -> None:
        self.key = key
        self.folder = folder
        self.operation = threading.Lock()
        self.forgotten = False
        # What is wanted
        self.spec: Json | None = None
        self.generation: int | None = None
        self.run = ""
        self.restarts = 0
        self.streak = 0  # restarts by policy since the last stable run
        self.pending: Pending | None = None
        self.history: List[Json] = []
        self.wanted = "stopped"
        self.intent_boot_id = ""
        self.port_taken = False
        self.verdict: str | None = None  # why we ended it ourselves
        self.number = 0  # counts what is wanted, so that the later of two files is known
        self.kept_number = 0  # the one in instance.json
        self.next_fd = -1
        # What is observed
        self.broken: str | None = None  # a state file that cannot be read
        self.phase = "stopped"
        self.ready = False
        self.process: Identity | None = None
        self.shim: Identity | None = None
        self.shim_fd = -1
        self.started_at: str | None = None
        self.started_monotonic = 0.0
        self.finished_at: str | None = None
        self.exit_code: int | str | None = None
        self.reason = ""
        self.log_start = 0
        self.ask_again_at: float | None = None  # when a shim that was asked for is overdue
        self.stop_told = False
        self.probe: Probe | None = None
        self.line: Line | None = None  # to a shim that this agent has told to begin

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    @property
    def is_live(self) -> bool:
        """Whether something runs, may run or waits to: then nothing else is started in its place."""
        return self.phase in ("starting", "running", "stopping")

    def view(self) -> Json:
        """Return the instance as clients see it."""
        return {
            "id": self.key,
            "status": "running" if self.is_live else "stopped",
            "phase": self.phase,
            "ready": self.ready,
            "pid": self.process.pid if self.process and self.is_live and not self.pending else None,
            "port": (self.spec or {}).get("port"),
            "generation": self.generation,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "exit_code": self.exit_code,
            "restarts": self.restarts,
            "restart_streak": self.streak,
            "restart_history": self.history,
            "reason": self.reason if self.pending is None else reason_for_wait(self.pending),
        }

    def has_leftovers(self) -> bool:
        """Whether the last shim died before it had seen to the whole tree: it removes its FIFO at the end."""
        return os.path.exists(self.path("output"))

    def make_folder(self) -> bool:
        """Have a folder for the files; tell whether it is a new one. Raises OSError."""
        if os.path.isdir(self.folder):
            return False
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        return True

    def document(self) -> Json:
        """Return what instance.json is to hold: later than all before."""
        self.number += 1
        return {
            "key": self.key,
            "number": self.number,
            "spec": self.spec,
            "generation": self.generation,
            "run": self.run,
            "restarts": self.restarts,
            "streak": self.streak,
            "pending": self.pending,
            "restart_history": self.history,
            "wanted": self.wanted,
            "boot_id": self.intent_boot_id,
            "port_taken": self.port_taken,
            "verdict": self.verdict,
        }

    def save(self) -> None:
        """Put what is wanted on disk, durably. Raise ApiError when the disk does not take it."""
        try:
            is_new = self.make_folder()
            document = self.document()
            write_json(self.path("instance.json"), document, durable=True)
            self.kept_number = document["number"]
            if is_new:
                sync_folder(os.path.dirname(self.folder))
        except OSError as error:
            raise not_writable(error) from error

    def announce(self) -> bool:
        """Write what is wanted to the file beside instance.json, where the next agent finds it should this one die.

        The disk may not have it yet: that takes `keep`; then `put` has instance.json say the same. False where there is
        no such file: nothing was done, and `save` does it all. Raise ApiError when the disk does not take it.
        """
        try:
            self.next_fd = os.open(self.path(NEXT_INTENT), os.O_WRONLY)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise not_writable(error) from error
        try:
            # To write in place is all that the disk has to do; the files of a run need some room all the same.
            refuse_full_disk(self.next_fd)
            write_all(self.next_fd, fill_blocks(checked_json(self.document()), os.fstat(self.next_fd).st_size))
        except OSError as error:
            self.take_back()
            raise not_writable(error) from error
        return True

    def keep(self) -> None:
        """Make what was announced proof against a power cut. Raise ApiError when the disk does not take it."""
        try:
            sync_data(self.next_fd)
        except OSError as error:
            self.take_back()
            raise not_writable(error) from error
        self.close_next()

    def take_back(self) -> None:
        """Have nobody find what was announced."""
        with contextlib.suppress(OSError):
            os.pwrite(self.next_fd, b" ", 0)  # in place of a brace
        self.close_next()

    def close_next(self) -> None:
        os.close(self.next_fd)
        self.next_fd = -1

    def put(self) -> None:
        """Have instance.json say what was announced; it counts under either name, so a power cut may undo this."""
        announced = self.number
        try:
            if announced > self.kept_number:
                exchange(self.path(NEXT_INTENT), self.path("instance.json"))
                self.kept_number = announced
        except OSError as error:
            log("instance.put_failed key=%s: %s" % (self.key, error))

    def make_next(self) -> None:
        """Have a file to announce the next intent in, with its name on disk."""
        if os.name == "nt":
            return
        try:
            size = os.path.getsize(self.path("instance.json"))
            write_file(self.path(NEXT_INTENT), fill_blocks(b" " * size, 0), durable=True)
        except OSError as error:  # the next one is saved the long way
            log("instance.no_room_for_next key=%s: %s" % (self.key, error))

    def load(self) -> None:
        """Read what is wanted back from disk; raise Unreadable."""
        document = read_json(self.path("instance.json"))
        if document is None:
            raise Unreadable("instance.json is missing")
        document = self.latest(document)
        self.number = self.kept_number = stored_integer(document, "number") or 0
        try:
            spec = document["spec"]
            if spec is not None:
                check_stored_spec(spec)
            self.generation = int(document["generation"])
            self.run = str(document["run"])
            self.restarts = int(document["restarts"])
            self.wanted = str(document["wanted"])
            self.intent_boot_id = str(document["boot_id"])
            self.port_taken = bool(document["port_taken"])
            self.verdict = document["verdict"]
            # What follows is missing where an agent before 0.2 has written.
            self.streak = int(document.get("streak", 0))
            self.history = [dict(entry) for entry in document.get("restart_history", [])]
            at, reason = document.get("pending") or (None, "")
            self.pending = None if at is None else Pending(float(at), str(reason))
            self.spec = spec
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreadable("instance.json is incomplete") from error

    def latest(self, document: Json) -> Json:
        """Return what an agent that died had still announced, if that is later than `document`."""
        try:
            found = read_json(self.path(NEXT_INTENT)) or {}
        except Unreadable:  # empty, or torn by a power cut: then nothing came of it
            return document
        number = stored_integer(
            document, "number"
        )  # an agent before 0.4 gives none, and knows nothing of the other file
        if number is None or not is_whole(found) or found["number"] <= number:
            return document
        with contextlib.suppress(OSError):
            write_json(self.path("instance.json"), found, durable=True)
        return found

    def reset_observed(self) -> None:
        """Forget the last run before the next one starts."""
        self.broken = None
        self.phase = "starting"
        self.ready = False
        self.process = self.shim = None
        self.started_at = self.finished_at = None
        self.started_monotonic = time.monotonic()
        self.exit_code = None
        self.reason = ""
        self.stop_told = False
        self.probe = None
        self.log_start = log_size(self.folder)


def check_stored_spec(spec: Json) -> None:
    """Raise Unreadable when a stored deploy is none that `checked_spec` could have let through."""
    if check_fields({k: v for k, v in spec.items() if k != "cwd"}, DEPLOY_FIELDS):
        raise Unreadable("instance.json holds values that no deploy could have stored")
    wrong = check_restart(spec["restart"]) or check_fields(spec.get("limits") or {}, LIMIT_FIELDS)
    if wrong or "command" not in spec or check_fields(spec["probes"], PROBE_FIELDS):
        raise Unreadable("instance.json holds no complete deploy")


def stored_integer(record: Json, name: str) -> int | None:
    """Return a number of a state file, None where it is null; raise Unreadable for anything else."""
    value = record.get(name)
    if value is not None and type(value) is not int:
        raise Unreadable("%s in it is no number" % name)
    return value


def stored_exit_code(ended: Json) -> int | str | None:
    """Return the exit code of an exit record; raise Unreadable when it is none."""
    return UNKNOWN if ended.get("exit_code") == UNKNOWN else stored_integer(ended, "exit_code")


def reason_for_exit(code: int | str, port_note: str) -> Tuple[str, str]:
    """Return (phase, reason) for a process that ended by itself."""
    if code == UNKNOWN:
        return "failed", "The process ended unseen, because the shim that watched it had died." + port_note
    if code == 0:
        return "succeeded", "Exited with code 0."
    text = "Exited with code %s." % code
    if code == 127:
        text = "Exited with code 127: the command, or one that it calls, was not found."
    elif code == 126:
        text = "Exited with code 126: the command could not be executed."
    elif isinstance(code, int) and code > 128:
        text = "Ended by signal %s (exit code %d)." % (signal_name(code - 128), code)
    return "failed", text + port_note


def reason_for_wait(pending: Pending) -> str:
    """Return the sentence for an instance that waits to be started again; true at the moment it is read."""
    seconds = max(1, math.ceil(pending.at - time.monotonic()))
    return "Restarts in %d s after: %s" % (seconds, pending.reason)


def reason_for_stop(code: int | str | None, ended: Json) -> str:
    """Return the sentence for an instance that was stopped on request."""
    if ended.get("killed_after_grace"):
        return "Stopped on request; it did not end within its grace after SIGTERM and was killed."
    if code == UNKNOWN:
        return "Stopped on request; its exit code was not seen, because its shim had died."
    return "Stopped on request."


def shim_lock_is_held(folder: str) -> bool:
    """Tell whether a shim of this instance lives, whatever the records say."""
    return os.name != "nt" and lock_is_held(os.path.join(folder, "shim.lock"))


def lock_is_held(path: str) -> bool:
    """Tell whether some process has locked this file."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


# --- Probes: is it ready? -----------------------------------------------------------------------------


class Probe:
    """Asks one instance again and again whether it is ready, without ever blocking the watcher."""

    def __init__(self, instance: Instance, selector: selectors.BaseSelector, was_ready: bool) -> None:
        spec = instance.spec or {}
        probes: Json = spec.get("probes") or {}
        self.instance = instance
        self.selector = selector
        self.port: int = spec.get("port") or 0
        self.kind: str = probes.get("type") or ("tcp" if self.port else "none")
        self.host: str = probes.get("host") or "127.0.0.1"
        self.url_path: str = probes.get("path") or "/"
        self.expected: int | None = probes.get("expected_status")
        self.startup_seconds: float = probes.get("startup_seconds") or STARTUP_SECONDS
        self.period: float | None = probes.get("period_seconds")
        self.timeout: float = probes.get("timeout_seconds") or PROBE_TIMEOUT
        self.threshold: int = probes.get("failure_threshold") or 3
        self.was_ready = was_ready
        self.failures = 0
        self.connection: socket.socket | None = None
        self.request = b""
        self.answer = b""
        self.deadline = 0.0
        self.next_at = 0.0
        self.refused = False

    def begin(self, now: float) -> None:
        """Open the connection; the outcome comes by `on_event` or `tick`."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.connection = socket.socket(family, socket.SOCK_STREAM)
        self.connection.setblocking(False)
        self.deadline = now + self.timeout
        self.answer = b""
        self.refused = False
        name = "[%s]" % self.host if ":" in self.host else self.host
        request = "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: infini-agent\r\nConnection: close\r\n\r\n"
        self.request = (request % (self.url_path, name, self.port)).encode()
        code = self.connection.connect_ex((self.host, self.port))
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            self.refused = code == errno.ECONNREFUSED
            self.end()
            return
        self.selector.register(self.connection, selectors.EVENT_WRITE, self.on_event)

    def end(self) -> None:
        """Close the connection, if there is one."""
        if self.connection is not None:
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(self.connection)
            self.connection.close()
            self.connection = None

    def on_event(self) -> bool | None:
        """Go one step on; return the outcome once there is one."""
        connection = self.connection
        if connection is None:
            return None
        try:
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.refused = code == errno.ECONNREFUSED
                return False
            if self.kind == "tcp":
                # A connection from a port to itself succeeds although nobody listens.
                return connection.getsockname() != connection.getpeername()
            return self.exchange(connection)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return False

    def exchange(self, connection: socket.socket) -> bool | None:
        """Send the request, then read up to the end of the status line."""
        if self.request:
            self.request = self.request[connection.send(self.request) :]
            if not self.request:
                self.selector.modify(connection, selectors.EVENT_READ, self.on_event)
            return None
        data = connection.recv(1024)
        self.answer += data
        if data and b"\n" not in self.answer and len(self.answer) < 1024:
            return None
        match = re.match(rb"HTTP/1\.[01] (\d{3})\b", self.answer)
        if not match:
            return False
        status = int(match.group(1))
        return status == self.expected if self.expected else 200 <= status < 400

    def plan(self, now: float, passed: bool) -> None:
        """Decide when to ask next: often in the first moments, after a failure, and else each period."""
        if self.period is not None:
            self.next_at = now + self.period
        elif self.was_ready:
            self.next_at = now + (5.0 if passed else 1.0)
        else:
            age = now - self.instance.started_monotonic
            self.next_at = now + min(1.0, max(0.1, age / 4))


def port_is_taken(port: int) -> bool:
    """Tell whether some process listens on `port` now."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as attempt:
            if os.name != "nt":
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                attempt.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return True
    return False


def listening_inodes(port: int) -> set[str]:
    """Return the socket inodes that listen on `port` (Linux)."""
    found = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(name, encoding="ascii") as file:
            for line in file:
                fields = line.split()
                if len(fields) > 9 and fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    found.add(fields[9])
    return found


def tree_listens_on(port: int, members: List[Identity]) -> bool:
    """Tell whether a process of the tree holds the socket that listens on `port`."""
    wanted = {"socket:[%s]" % inode for inode in listening_inodes(port)}
    for member in members:
        folder = "/proc/%d/fd" % member.pid
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    if os.readlink(os.path.join(folder, name)) in wanted:
                        return True
    return False


# --- Host figures -------------------------------------------------------------------------------------


class Host:
    """Figures of this machine. Each fails alone: it is null then, and `errors` says why."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.last: Tuple[float, float, float] | None = None
        self.cpu: float | None = None
        self.last_network: Tuple[float, Dict[str, Tuple[int, int]]] | None = None
        self.network: Tuple[int | None, int | None] = (None, None)

    def figures(self) -> Json:
        """Return all figures as the report shows them."""
        result: Json = {}
        errors: Dict[str, str] = {}
        groups: List[Tuple[Tuple[str, ...], Callable[[], Tuple[Any, ...]]]] = [
            (("cpu_percent",), self.cpu_percent),
            (("cpu_count",), lambda: (os.cpu_count(),)),
            (("memory_total_bytes", "memory_used_bytes", "memory_percent"), memory_figures),
            (("disk_total_bytes", "disk_used_bytes", "disk_percent"), disk_figures),
            (("load_1m", "load_5m", "load_15m"), lambda: tuple(round(x, 2) for x in os.getloadavg())),
            (("uptime_seconds",), uptime_figures),
            (("network_in_bytes_per_second", "network_out_bytes_per_second"), self.network_rates),
        ]
        for names, read in groups:
            try:
                values = read()
            except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
                values = (None,) * len(names)
                errors.update({name: "It could not be read: %s." % error for name in names})
            result.update(zip(names, values))  # noqa: B905 - `strict` came with Python 3.10
        result["errors"] = errors
        return result

    def cpu_percent(self) -> Tuple[float | None]:
        """Return the share of time the processors were busy since the last sample, None for the first."""
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(text) for text in file.readline().split()[1:9]]
        now, total, idle = time.monotonic(), float(sum(ticks)), float(ticks[3] + ticks[4])
        with self.lock:
            if self.last is None:
                self.last = (now, total, idle)
            elif now - self.last[0] >= 0.5 and total > self.last[1]:
                busy = 1 - (idle - self.last[2]) / (total - self.last[1])
                self.cpu = round(min(100.0, max(0.0, 100 * busy)), 1)
                self.last = (now, total, idle)
            return (self.cpu,)

    def network_rates(self) -> Tuple[int | None, int | None]:
        """Return bytes per second in and out since the last sample, None for the first.

        A card that came, or whose counters began anew, counts from the next sample on.
        """
        now, counters = time.monotonic(), network_counters()
        with self.lock:
            if self.last_network is None:
                self.last_network = (now, counters)
            elif now - self.last_network[0] >= 0.5:
                began, before = self.last_network
                both = [(before[name], after) for name, after in counters.items() if name in before]
                grown = [sum(max(0, after[way] - old[way]) for old, after in both) for way in (0, 1)]
                self.network = (int(grown[0] / (now - began)), int(grown[1] / (now - began)))
                self.last_network = (now, counters)
            return self.network


def network_counters() -> Dict[str, Tuple[int, int]]:
    """Return bytes received and sent by each real network card; where there is none, by all but the loopback.

    Bridges, bonds and the like carry over again what went through a card.
    """
    counters: Dict[str, Tuple[int, int]] = {}
    with open("/proc/net/dev", encoding="ascii") as file:
        for line in file.readlines()[2:]:
            name, _, rest = line.partition(":")
            cells = rest.split()
            counters[name.strip()] = (int(cells[0]), int(cells[8]))
    counters.pop("lo", None)
    cards = {name: both for name, both in counters.items() if os.path.exists("/sys/class/net/%s/device" % name)}
    return cards or counters


def memory_figures() -> Tuple[int, int, float]:
    """Return total, used and percent; what can be freed at once does not count as used."""
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    total = int(lines["MemTotal"].split()[0]) * 1024
    used = total - int(lines["MemAvailable"].split()[0]) * 1024
    return total, used, round(100 * used / total, 1)


def disk_figures() -> Tuple[int, int, float]:
    """Return total, used and percent of the root file system, the percent as df counts it."""
    disk = os.statvfs("/")
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    usable = used + disk.f_bavail * disk.f_frsize
    return disk.f_blocks * disk.f_frsize, used, round(100 * used / usable, 1)


def uptime_figures() -> Tuple[int]:
    """Return for how many seconds the machine is up."""
    with open("/proc/uptime", encoding="ascii") as file:
        return (int(float(file.read().split()[0])),)


# --- Devices: asking a vendor's tool ------------------------------------------------------------------
#
# A reader per vendor asks the vendor's tool and returns devices. Exit statuses of these tools mislead, so a
# reading has succeeded when it gave at least one device. What a tool does not give is None, never zero.

DEVICE_TIMEOUT = 5.0
DEVICE_PERIOD = 10.0
DEVICE_LOOK = 60.0  # how often to look for tools while there are none
TOOL_OUTPUT_LIMIT = 4 * 1024 * 1024
TOOL_LINE_LIMIT = 2000  # no line of a real answer is as long; keeps the patterns below from running for minutes
REAP_WITHIN = 0.2
PCI_FOLDER = "/sys/bus/pci/devices"
INTEL_PCI, KUNLUNXIN_PCI = "0x8086", "0x2057"


class ToolFailed(Exception):
    """The tool gave nothing of use; the message is a sentence for people."""


class OtherVendor(Exception):
    """A tool of the same name, but for the devices of another vendor."""


class Tool:
    """A vendor's tool during one reading: all that is asked shares one deadline."""

    def __init__(self, path: str, seconds: float, deadline: float, library: str = "") -> None:
        self.name = os.path.basename(path)
        self.path = path
        self.seconds = seconds
        self.deadline = deadline
        self.environment = dict(os.environ, LC_ALL="C")
        if library and os.path.isdir(library):
            known = os.environ.get("LD_LIBRARY_PATH")
            self.environment["LD_LIBRARY_PATH"] = library + (":" + known if known else "")
        self.said = ""
        self.trouble = ""
        self.unkillable: List[Any] = []

    def ask(self, *arguments: str) -> str:
        """Return what the tool prints on stdout, whatever its exit status; raise ToolFailed when it is no answer."""
        if time.monotonic() >= self.deadline:
            raise ToolFailed("%s did not answer all questions within %g s." % (self.name, self.seconds))
        try:
            process = self.start(arguments)
        except OSError as error:
            raise ToolFailed("%s cannot be run: %s." % (self.name, error.strerror)) from error
        output, errors = bytearray(), bytearray()
        try:
            why = collect({process.stdout: output, process.stderr: errors}, process.pid, self.deadline)
        finally:
            self.end(process)
        if why == "time":
            raise ToolFailed("%s did not answer within %g s and was stopped." % (self.name, self.seconds))
        if why == "size":
            raise ToolFailed("%s printed more than %d bytes." % (self.name, TOOL_OUTPUT_LIMIT))
        text = readable(output)
        self.said = " ".join((text + "\n" + readable(errors)).split())
        if process.returncode:
            self.said = (self.said + " (exit status %d)" % process.returncode).strip()
        return text

    def ask_also(self, *arguments: str) -> str | None:
        """Ask what the devices can be shown without: None when there is no answer, and `trouble` says why."""
        said = self.said
        try:
            return self.ask(*arguments)
        except ToolFailed as error:
            self.trouble = str(error)
            return None
        finally:
            self.said = said

    def start(self, arguments: Tuple[str, ...]) -> Any:
        import subprocess  # noqa: PLC0415 - not loaded into shims

        return subprocess.Popen(
            [self.path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=self.environment,
            start_new_session=True,
        )

    def end(self, process: Any) -> None:
        """Kill the tool's process group and take its exit status; one that survives is kept in `unkillable`.

        Nobody has taken the status before, so the group's number still is the tool's own.
        """
        import subprocess  # noqa: PLC0415

        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.stderr.close()
        try:
            process.wait(REAP_WITHIN)
        except subprocess.TimeoutExpired:
            self.unkillable.append(process)

    def no_device(self) -> str:
        """Say for people that no answer held a device, with the beginning of what the tool said instead."""
        said = re.sub(r"[-=+|*]{2,}", "", self.said).strip()
        return "%s gave no device: %s" % (self.name, shorten(said, 300) or "it printed nothing.")


def collect(pipes: Dict[Any, bytearray], pid: int, deadline: float) -> str:
    """Read both streams until the process has ended; return what cut it short: "time", "size" or nothing."""
    with selectors.DefaultSelector() as selector:
        for pipe, data in pipes.items():
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, data)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return "time"
            ready = selector.select(min(left, 0.1))
            if not ready and has_exited(pid):
                return ""  # a process it left behind still holds the streams
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
                if sum(map(len, pipes.values())) > TOOL_OUTPUT_LIMIT:
                    return "size"
    while not has_exited(pid):
        if time.monotonic() >= deadline:
            return "time"
        time.sleep(0.005)
    return ""


def has_exited(pid: int) -> bool:
    """Tell whether our child has ended, and leave its exit status for later."""
    if not hasattr(os, "waitid"):  # macOS with an older Python; there the end of its output has to do
        return True
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# --- Devices: words and numbers -----------------------------------------------------------------------

ABSENT = {"", "-", "--", "/", "na", "n/a", "nan", "none", "null", "unknown", "err!", "error", "undefined"}
BUS_ID = re.compile(r"\b([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-9a-fA-F])\b")
Values = Dict[str, Any]
Processes = Dict[Any, List[Tuple[Any, Any]]]  # (pid, memory) by whatever names a device in the tool's list


def readable(data: bytearray) -> str:
    """Return a tool's output as text, without colours and control characters."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", data.decode("utf-8", "replace"))
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text)


def shorten(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def lines_of(text: str | None) -> Iterator[str]:
    return (line for line in (text or "").split("\n") if line.strip() and len(line) <= TOOL_LINE_LIMIT)


def word(value: Any) -> str:
    """Return a value as text, empty when the tool says in one of many ways that there is none."""
    text = str(value).strip() if isinstance(value, (str, int, float)) else ""
    bracketed = text[:1] == "[" and text[-1:] == "]"
    absent = text.lower() in ABSENT or bracketed or text.lower().startswith(("n/a", "requested functionality"))
    return "" if absent else shorten(text)


def number(value: Any, low: float, high: float) -> float | None:
    """Return the number that `value` begins with; None for hexadecimal fill values and what cannot be true."""
    match = re.match(r"([-+]?\d{1,15}(?:\.\d{1,15})?)(?![\dxX.]|[eE][-+]?\d)", word(value))
    found = float(match.group(1)) if match else None
    return round(found, 2) if found is not None and low <= found <= high else None


def whole(value: Any) -> int | None:
    found = number(value, 0, 32767)
    return None if found is None else int(found)


def size(value: Any) -> int | None:
    """Return bytes; MiB where no unit is written. The tools count in 1024s whatever they call the unit."""
    found = number(value, 0, 2**53)
    unit = re.match(r"[\d.]+\s*([KMGT]?)i?B", word(value), re.IGNORECASE)
    scale = 1024 ** " KMGT".index(unit.group(1).upper() or " ") if unit else 1024**2
    return int(found * scale) if found is not None and found * scale < 2**50 else None


def bus_id(value: Any) -> str:
    """Return the PCI address in `value` as the kernel writes it, empty when there is none."""
    match = BUS_ID.search(str(value))
    return ("%s:%s:%s.%s" % (match.group(1)[-4:], *match.group(2, 3, 4))).lower() if match else ""


def named(names: Any, cells: Any) -> Values:
    return dict(zip(names, cells))  # noqa: B905 - Python 3.8 has no `strict`


def pick(values: Values, keys: Dict[str, str]) -> Values:
    """Return {name: value} for {name: "key|other key"}: of several keys the first that has a value."""
    return {
        name: next((values[key] for key in wanted.split("|") if word(values.get(key))), None)
        for name, wanted in keys.items()
    }


def flat(document: Any, above: str = "") -> Values:
    """Return the texts and numbers in nested objects by path; {"value": 97, "unit": "%"} is one text."""
    found: Values = {}
    for key, value in (document if isinstance(document, dict) else {}).items():
        path = above + key.strip()
        if isinstance(value, dict) and "value" in value:
            found[path] = "%s %s" % (value["value"], value.get("unit", ""))
        elif isinstance(value, dict):
            found.update(flat(value, path + "/"))
        elif word(value):
            found[path] = value
    return found


def json_in(text: str | None) -> Any:
    """Return the first JSON object or list of objects in `text`: some tools print warnings around it."""
    for count, match in enumerate(re.finditer(r"\{|\[(?=\s*[{\]])", text or "")):
        if count == 20:
            break
        with contextlib.suppress(ValueError, RecursionError):
            return json.JSONDecoder().raw_decode(text or "", match.start())[0]
    return None


def objects(document: Any, key: str = "") -> List[Json]:
    """Return the objects in a list, or in the list under `key`; none where a word stands in the list's place."""
    document = document.get(key) if key and isinstance(document, dict) else document
    return [entry for entry in document if isinstance(entry, dict)] if isinstance(document, list) else []


def csv_rows(text: str | None, names: Any) -> List[Values]:
    """Return the rows with as many cells as there are names; nothing is quoted, and headers are left out."""
    rows = []
    for line in lines_of(text):
        cells = [cell.strip() for cell in line.split(",")]
        row = named(names, cells)
        if len(cells) == len(names) and whole(row.get("index", "0")) is not None:
            rows.append(row)
    return rows


def query(tool: Tool, fields: Dict[str, str]) -> List[Values]:
    """Ask for {name: field} as CSV, and again without a field that this version of the tool does not know."""
    for _ in range(4):
        text = tool.ask("--query-gpu=" + ",".join(fields.values()), "--format=csv,noheader,nounits")
        rows = csv_rows(text, fields)
        refused = re.search(r'"([a-z_.]+)" is not a valid field', text)
        if rows or not refused or refused.group(1) not in fields.values():
            return rows
        fields = {name: field for name, field in fields.items() if field != refused.group(1)}
    return []


def sections(text: str, start: str) -> List[Tuple[str, List[Tuple[str, str]]]]:
    """Read indented `key : value` text: what `start` matches begins a block of (path/of/the key, value)."""
    found: List[Tuple[str, List[Tuple[str, str]]]] = []
    above: List[Tuple[int, str]] = []
    for line in lines_of(text):
        begins = re.match(start, line)
        if begins:
            found.append((begins.group(1), []))
            above = []
        elif found:
            key, colon, value = line.partition(" : ")
            indent = len(line) - len(line.lstrip())
            above = [entry for entry in above if entry[0] < indent] + [(indent, key.strip())]
            if colon:
                found[-1][1].append(("/".join(name for _, name in above), value.strip()))
    return found


def cells_of(line: str) -> List[str]:
    """Return the cells of a table's row, none for rules and text outside."""
    line = line.strip()
    if not line.startswith("|") or not set(line) - set("|+-= "):
        return []
    return [cell.strip() for cell in line.strip("|").split("|")]


def table_pairs(text: str | None) -> List[Tuple[List[str], List[str]]]:
    """Return the two rows that each card has in tables like nvidia-smi's; the first is the one with a PCI address."""
    pairs: List[Tuple[List[str], List[str]]] = []
    complete = True
    for line in lines_of(text):
        cells = cells_of(line)
        if cells and BUS_ID.search(line):
            pairs.append((cells, [""] * len(cells)))
        elif cells and not complete:
            pairs[-1][1][:] = cells
        complete = not (cells and BUS_ID.search(line))
    return pairs


def table_figures(first: List[str], second: List[str]) -> Values:
    """Return the figures in a card's two rows; versions differ in the order of cells, not in how each is written."""
    rest = " | ".join(second)
    use = re.search(r"([\d.]+)\s*%", first[-1]) or re.search(r"([\d.]+)\s*%", second[-1])
    memory = re.search(r"(\d+)\s*(?:MiB)?\s*/\s*(\d+)\s*MiB", rest)
    heat = re.search(r"(-?\d+)\s*C\b", rest)
    power = re.search(r"([\d.]+)\s*W\s*/", rest)
    found = {"bus": bus_id(first), "use": use and use.group(1), "heat": heat and heat.group(1)}
    used, total = memory.groups() if memory else (None, None)
    return dict(found, power=power and power.group(1), used=used, total=total)


def table_processes(text: str | None, before_pid: str = "") -> Processes | None:
    """Return the processes below such a table by the card's index; None where there is no list of processes."""
    found: Processes | None = None
    row = re.compile(r"\|\s*(\d+)\s+" + before_pid + r"(\d+)\s.*\s(\d+|N/A|-)\s*(?:MiB)?\s*\|$")
    for line in lines_of(text):
        if re.match(r"\|\s*(Compute )?Process(es)?:", line):
            found = {}
        match = row.match(line.strip())
        if match and found is not None:
            found.setdefault(match.group(1), []).append((match.group(2), match.group(3)))
    return found


# --- Devices: one document each -----------------------------------------------------------------------


def device(vendor: str, index: Any, **given: Any) -> Json:
    """Return the document of a device from what its tool printed; what is not given is unknown.

    `processes` is a Processes, of which those under `process_key`, else under the index, are the device's.
    """
    entry = VENDORS[vendor]
    index = whole(index) or 0
    total, used = size(given.get("total")) or None, size(given.get("used"))
    visible = given.get("visible", str(index))
    bus = bus_id(given.get("bus"))
    health, reason = given.get("health") or error_health(given.get("errors"))
    processes = given.get("processes")
    return {
        "vendor": vendor,
        "index": index,
        "uuid": word(given.get("uuid")) or "%s-%s" % (vendor, bus or index),
        "parent_uuid": None,
        "bus_id": bus or None,
        "name": word(given.get("name")) or None,
        "memory_total_bytes": total,
        "memory_used_bytes": None if total is not None and (used or 0) > total else used,
        "utilization_percent": number(given.get("use"), 0, 100),
        "temperature_celsius": number(given.get("heat"), -60, 200),  # 255 and 65535 are fill values
        "power_watts": number(given.get("power"), 0, 20000),
        "health": health,
        "health_reason": reason,
        "processes": process_list(processes, given.get("process_key", str(index))),
        "slots": 0 if visible is None else 1,
        "visible_variable": entry.variable,
        "visible_value": visible,
        "visible_also": list(entry.also),
        "environment": dict(entry.environment),
        "verified": entry.verified,
    }


def process_list(found: Processes | None, *keys: Any) -> List[Json] | None:
    """Return one entry for each PID, with the largest figure where a tool lists one twice; None when not known."""
    if found is None:
        return None
    memory: Dict[int, Any] = {}
    for pid, used in (entry for key in keys for entry in found.get(key, [])):
        if str(pid).isdigit() and 0 < int(pid) < 2**31:
            figures = [figure for figure in (memory.get(int(pid)), size(used)) if figure is not None]
            memory[int(pid)] = max(figures, default=None)
    return [{"pid": pid, "memory_used_bytes": memory[pid]} for pid in sorted(memory)]


def error_health(count: Any) -> Tuple[str | None, str]:
    """Return the health that a count of memory errors stands for."""
    errors = number(count, 0, 2**40)
    if errors is None:
        return None, ""
    return ("unhealthy", "Uncorrected memory errors: %d." % errors) if errors else ("ok", "")


# --- Devices: NVIDIA ----------------------------------------------------------------------------------

CSV_FIELDS = {
    "index": "index",
    "uuid": "uuid",
    "name": "name",
    "bus": "pci.bus_id",
    "total": "memory.total",
    "used": "memory.used",
    "use": "utilization.gpu",
    "heat": "temperature.gpu",
}
NVIDIA_FIELDS = dict(
    CSV_FIELDS, power="power.draw", mig="mig.mode.current", errors="ecc.errors.uncorrected.volatile.total"
)
APP_FIELDS = "--query-compute-apps=gpu_uuid,pid,process_name,used_gpu_memory"


def read_nvidia(tool: Tool) -> List[Json]:
    rows = query(tool, NVIDIA_FIELDS)
    apps = nvidia_processes(tool.ask_also(APP_FIELDS, "--format=csv,noheader,nounits")) if rows else None
    # Asked alone: drivers that do not know the field refuse everything else with it.
    advice = tool.ask_also("--query-gpu=uuid,gpu_recovery_action", "--format=csv,noheader") if rows else None
    actions = {row["uuid"]: row["action"] for row in csv_rows(advice, ("uuid", "action"))}
    with_mig = any(row.get("mig") == "Enabled" for row in rows)
    listed = mig_list(tool.ask_also("-L")) if with_mig else {}
    details = mig_details(tool.ask_also("-q", "-x")) if with_mig else {}
    devices: List[Json] = []
    for row in rows:
        uuid = row["uuid"]
        health = nvidia_health(row, actions.get(uuid, ""))
        card = device("nvidia", health=health, processes=apps, process_key=uuid, **row)
        if row.get("mig") == "Enabled":
            devices += mig_devices(card, listed.get(uuid, []), details.get(uuid, {}), apps)
        else:
            devices.append(card)
    return devices


def nvidia_health(row: Values, action: str) -> Tuple[str | None, str]:
    for cell in row.values():
        if re.search(r"gpu (is lost|requires reset)", cell, re.IGNORECASE):
            return "unhealthy", "nvidia-smi says: %s." % cell.strip("[]")
    if word(action):  # "None" is the healthy answer here, and absent for `word`
        return "unhealthy", "The driver asks for: %s." % action
    counted = error_health(row.get("errors"))
    return ("ok", "") if counted[0] is None and action == "None" else counted


def nvidia_processes(text: str | None) -> Processes | None:
    """Names may hold commas, so the columns are counted from both ends. Nothing printed means none."""
    found: Processes = {}
    for line in lines_of(text):
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) >= 4 and cells[1].isdigit():
            found.setdefault(cells[0], []).append((cells[1], cells[-1]))
    return None if text is None or (text.strip() and not found) else found


def mig_list(text: str | None) -> Dict[str, List[Tuple[str, str, str]]]:
    """Return (number on its card, profile, uuid) of each MIG instance by the card's uuid, from `nvidia-smi -L`."""
    found: Dict[str, List[Tuple[str, str, str]]] = {}
    card = ""
    for line in lines_of(text):
        begins = re.match(r"GPU \d+: .*\(UUID: (GPU-\S+)\)", line)
        card = begins.group(1) if begins else card
        match = re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-\S+)\)", line)
        if match:
            found.setdefault(card, []).append((match.group(2), match.group(1), match.group(3)))
    return found


def mig_details(text: str | None) -> Dict[str, Json]:
    """Return, by the card's uuid, {number: the instance's memory and ids} and "processes" by ids."""
    from xml.etree import ElementTree  # noqa: PLC0415 - only where there is MIG

    found: Dict[str, Json] = {}
    with contextlib.suppress(ElementTree.ParseError):
        for gpu in ElementTree.fromstring(text or "").iter("gpu"):
            card: Json = {"processes": None if gpu.find("processes") is None else {}}
            for part in gpu.iter("mig_device"):
                memory = [part.findtext("fb_memory_usage/" + key) for key in ("total", "used")]
                card[part.findtext("index", "")] = (*memory, mig_ids(part))
            for entry in gpu.findall("processes/process_info"):
                process = (entry.findtext("pid"), entry.findtext("used_memory"))
                card["processes"].setdefault(mig_ids(entry), []).append(process)
            found[gpu.findtext("uuid", "")] = card
    return found


def mig_ids(element: Any) -> Tuple[Any, Any]:
    return element.findtext("gpu_instance_id"), element.findtext("compute_instance_id")


def mig_devices(card: Json, instances: List[Tuple[str, str, str]], details: Json, apps: Any) -> List[Json]:
    """Return a device for each MIG instance in place of the card, which takes no work itself in this mode.

    Rows rather than slots of the card: instances differ in size, and each is named by its own uuid. The card's
    power is nobody's in particular and left out. A card without a known instance is shown, but cannot be claimed.
    """
    devices = []
    for number_on_card, profile, uuid in instances:
        total, used, ids = details.get(number_on_card, (None, None, None))
        processes = details.get("processes")
        if apps and uuid in apps:  # some drivers name the instance there, others only the card
            processes = dict(processes or {}, **{uuid: apps[uuid]})
        changed = {
            "uuid": uuid,
            "visible_value": uuid,
            "parent_uuid": card["uuid"],
            "name": shorten("%s MIG %s" % (card["name"], profile)),
            "memory_total_bytes": size(total),
            "memory_used_bytes": size(used),
            "utilization_percent": None,
            "power_watts": None,
            "processes": process_list(processes, ids, uuid) if ids or apps and uuid in apps else None,
        }
        devices.append(dict(card, **changed))
    return devices or [dict(card, slots=0, visible_value=None)]


# --- Devices: AMD and Hygon ---------------------------------------------------------------------------

AMD_KEYS = {
    "bus": "bus/bdf",
    "name": "asic/market_name",
    "total": "mem_usage/total_vram|vram/size",
    "used": "mem_usage/used_vram",
    "use": "usage/gfx_activity",
    "heat": "temperature/edge|temperature/hotspot|temperature/mem",
    "power": "power/socket_power",
    "errors": "ecc/total_uncorrectable_count",
}
SENSOR = "temperature (sensor %s) (c)"
SMI_KEYS = {
    "bus": "pci bus",
    "name": "card series|device name",
    "total": "vram total memory (b)|vram total memory (mib)",
    "used": "vram total used memory (b)|vram total used memory (mib)",
    "use": "gpu use (%)|dcu use (%)|hcu use (%)",
    "heat": "|".join(SENSOR % name for name in ("edge", "junction", "core", "memory", "mem")),
    "power": "average graphics package power (w)|current socket graphics package power (w)",
}
SMI_OPTIONS = (
    "--showid --showuniqueid --showproductname --showbus --showmeminfo vram --showuse --showtemp --showpower --json"
)


def read_amd_smi(tool: Tool) -> List[Json]:
    cards = amd_cards(tool.ask("static", "--asic", "--bus", "--vram", "--driver", "--json"))
    if not cards:
        return []
    metrics = amd_cards(tool.ask_also("metric", "-u", "-p", "-t", "-m", "-e", "--json"))
    processes = amd_processes(tool.ask_also("process", "--json"))
    devices = []
    for index, card in cards.items():
        values = dict(flat(card), **flat(metrics.get(index)))
        uuid = amd_identity(values.get("asic/asic_serial"))
        devices.append(device("amd", index, uuid=uuid, processes=processes, **pick(values, AMD_KEYS)))
    return devices


def amd_cards(text: str | None) -> Dict[str, Json]:
    """Return the objects of an amd-smi answer by index; from ROCm 7 on the list lies under `gpu_data`."""
    entries = objects(json_in(text), "gpu_data")
    return {str(entry["gpu"]): entry for entry in entries if whole(entry.get("gpu")) is not None}


def amd_identity(serial: Any) -> str:
    """Return the identity from the number that amd-smi calls serial and rocm-smi unique id: both name a card alike."""
    found = re.match(r"0x([0-9a-f]{6,})$", word(serial).lower())
    return "amd-" + found.group(1) if found and found.group(1).strip("0f") else ""


def amd_processes(text: str | None) -> Processes | None:
    """An idle card has a sentence in the place of each process."""
    cards = amd_cards(text)
    found: Processes = {}
    for index, card in cards.items():
        for info in objects([entry.get("process_info") for entry in objects(card, "process_list")]):
            used = pick(flat(info), {"used": "memory_usage/vram_mem|mem_usage"})["used"]
            found.setdefault(index, []).append((info.get("pid"), used))
    return found if cards else None


def smi_cards(text: str) -> List[Values]:
    """Return the figures by lower-case key of each card in rocm-smi's or hy-smi's JSON.

    The tool's numbers may have gaps, and the variables count without: the index is the place in the order.
    """
    document = json_in(text)
    found = []
    for name, entry in (document if isinstance(document, dict) else {}).items():
        if re.match(r"card\d+$", name) and isinstance(entry, dict):
            card = {key.lower(): value for key, value in flat(entry).items()}
            in_bytes = {key: "%s B" % value for key, value in card.items() if key.endswith("memory (b)")}
            found.append((int(name[4:]), dict(card, **in_bytes)))
    return [card for _, card in sorted(found, key=lambda entry: entry[0])]


def read_rocm_smi(tool: Tool) -> List[Json]:
    cards = smi_cards(tool.ask(*SMI_OPTIONS.split()))
    if any("haiguang" in str(card.get("card vendor")).lower() or "dcu use (%)" in card for card in cards):
        raise OtherVendor  # Hygon's toolkit brings a rocm-smi of its own
    return [
        device("amd", index, uuid=amd_identity(card.get("unique id")), **pick(card, SMI_KEYS))
        for index, card in enumerate(cards)
    ]


def read_hygon(tool: Tool) -> List[Json]:
    cards = smi_cards(tool.ask("--showserial", *SMI_OPTIONS.split()))
    processes = hygon_processes(tool.ask_also("--showpids")) if cards else None
    keys = dict(SMI_KEYS, uuid="unique id|serial number")
    devices = []
    for index, card in enumerate(cards):
        values = pick(card, keys)
        bus = bus_id(values["bus"])
        devices.append(device("hygon", index, processes=processes if bus else None, process_key=bus, **values))
    return devices


def hygon_processes(text: str | None) -> Processes | None:
    """A process on several cards has one figure for all of them, which cannot be told apart."""
    found: Processes = {}
    pattern = r"PID: (\d+)\s+PCI BUS: \[([^\]]*)\](?:\s+VRAM USED\(MiB\): (\S+))?"
    for pid, buses, used in re.findall(pattern, text or ""):
        for bus in buses.split(","):
            found.setdefault(bus_id(bus), []).append((pid, None if "," in buses else used))
    return found or None  # how the tool says that there are none is not known


# --- Devices: Intel and Kunlunxin, whose tools share a name -------------------------------------------

INTEL_FIELDS = dict(CSV_FIELDS, power="power.draw")
INTEL_KEYS = {"index": "device_id", "uuid": "uuid", "name": "device_name", "bus": "pci_bdf_address"}
INTEL_COLUMNS = {
    "use": "all gpu engines|gpu utilization",
    "power": "gpu power",
    "heat": "core temp",
    "used": "memory used",
}
INTEL_MEMORY: Dict[str, str] = {}  # by uuid: version 1 tells it to one slow question per card
KUNLUNXIN_KEYS = {
    "uuid": "XPU UUID",
    "name": "Product Name",
    "total": "Memory Usage/Total",
    "used": "Memory Usage/Used",
    "use": "Utilization/Xpu",
    "heat": "Temperature/XPU Current Temp",
    "power": "Power Readings/Power Draw",
    "errors": "ECC Errors/Volatile/DRAM Uncorrectable",
}


def accelerator_makers() -> Set[str]:
    """Return the PCI vendors of display controllers and accelerators here; empty where that cannot be told."""
    found = set()
    with contextlib.suppress(OSError):
        for entry in os.listdir(PCI_FOLDER):
            with contextlib.suppress(OSError):
                with open(os.path.join(PCI_FOLDER, entry, "class")) as file:
                    kind = file.read(4)
                with open(os.path.join(PCI_FOLDER, entry, "vendor")) as file:
                    found |= {file.read().strip()} if kind in ("0x03", "0x12") else set()
    return found


def read_intel(tool: Tool) -> List[Json]:
    makers = accelerator_makers()
    if KUNLUNXIN_PCI in makers and INTEL_PCI not in makers:
        raise OtherVendor
    cards = query(tool, INTEL_FIELDS) or intel_older(tool)
    processes = intel_processes(tool.ask_also("ps", "-j")) if cards else None
    for card in cards:
        if not word(card.get("total")) and card["uuid"] not in INTEL_MEMORY:
            answer = flat(json_in(tool.ask_also("discovery", "-d", card["index"], "-j")))
            if "memory_physical_size_byte" in answer:
                INTEL_MEMORY[card["uuid"]] = "%s B" % answer["memory_physical_size_byte"]
        card["total"] = word(card.get("total")) or INTEL_MEMORY.get(card["uuid"])
    return [device("intel", processes=processes, **card) for card in cards]


def intel_older(tool: Tool) -> List[Values]:
    """Return version 1's answers under version 2's names."""
    text = tool.ask("discovery", "-j")
    if re.search(r"XPUSMI LOG|KUNLUN|XPU-RT", text):
        raise OtherVendor
    cards = [pick(flat(card), INTEL_KEYS) for card in objects(json_in(text), "device_list")]
    cards = [dict(card, index=str(card["index"])) for card in cards if whole(card["index"]) is not None]
    dump = tool.ask_also("dump", "-d", "-1", "-m", "0,1,3,5,18", "-i", "1", "-n", "1") if cards else None
    figures = intel_dump(dump)
    return [dict(card, **figures.get(card["index"], {})) for card in cards]


def intel_dump(text: str | None) -> Dict[str, Values]:
    """Return figures by device; the columns go by their titles, as their numbers change between versions."""
    names: List[str] = []
    found = {}
    for line in lines_of(text):
        cells = [cell.strip() for cell in line.split(",")]
        if "DeviceId" in cells:
            names = [intel_column(cell.lower()) for cell in cells]
        elif len(cells) == len(names):
            row = named(names, cells)
            found[row.pop("deviceid")] = {name: row[name] for name in INTEL_COLUMNS if name in row}
    return found


def intel_column(title: str) -> str:
    return next((name for name, parts in INTEL_COLUMNS.items() if re.search(parts, title)), title)


def intel_processes(text: str | None) -> Processes | None:
    """Memory is in kB, and the tool lists itself."""
    document = json_in(text)
    found: Processes = {}
    for entry in objects(document, "device_util_by_proc_list"):
        if entry.get("process_name") != "xpu-smi":
            used = "%s kB" % entry.get("mem_size")
            found.setdefault(str(entry.get("device_id")), []).append((entry.get("process_id"), used))
    return found if isinstance(document, dict) and "device_util_by_proc_list" in document else None


def read_kunlunxin(tool: Tool) -> List[Json]:
    makers = accelerator_makers()
    if INTEL_PCI in makers and KUNLUNXIN_PCI not in makers:
        raise OtherVendor
    try:
        text = tool.ask("-q")
    except ToolFailed:
        if KUNLUNXIN_PCI in makers:
            raise
        raise OtherVendor from None  # the fault is told under the other name
    if "XPUSMI LOG" not in text and KUNLUNXIN_PCI not in makers:
        raise OtherVendor
    blocks = sections(text, r"XPU ([0-9a-fA-F]{4,8}:\S+)\s*$")
    return [kunlunxin_device(place, bus, block) for place, (bus, block) in enumerate(blocks)]


def kunlunxin_device(place: int, bus: str, block: List[Tuple[str, str]]) -> Json:
    values = dict(block)
    minor = whole(values.get("Minor Number"))
    listed = [(value, None) for key, value in block if re.match(r"Processes/.*Process ID$", key)]
    processes = {bus: listed} if listed or values.get("Processes") == "None" else None
    index = place if minor is None else minor
    figures = pick(values, KUNLUNXIN_KEYS)
    return device("kunlunxin", index, bus=bus, processes=processes, process_key=bus, **figures)


def read_kunlunxin_older(tool: Tool) -> List[Json]:
    """The tool named with an underscore prints tables, each under a row of titles."""
    titles: List[str] = []
    cards: List[Values] = []
    processes: Processes | None = None
    for line in lines_of(tool.ask()):
        cells = cells_of(line)
        row = named(titles, cells) if len(cells) == len(titles) else {}
        if cells[:1] == ["DevID"]:
            titles = cells
            processes = {} if "PID" in titles else processes
        elif "PID" in row and processes is not None:
            processes.setdefault(row["DevID"], []).append((row["PID"], row.get("Memory")))
        elif "PCI Addr" in row and whole(row["DevID"]) is not None:
            used, _, total = (cell.strip() for cell in row.get("Memory", "").partition("/"))
            memory = {"used": used, "total": total}
            keys = {"index": "DevID", "bus": "PCI Addr", "name": "Model", "use": "UseRate"}
            cards.append(dict(pick(row, keys), **memory))
    return [device("kunlunxin", processes=processes, **card) for card in cards]


# --- Devices: Ascend ----------------------------------------------------------------------------------


def read_ascend(tool: Tool) -> List[Json]:
    text = tool.ask("info")
    chips = ascend_chips(text)
    logic = ascend_logic_ids(tool.ask_also("info", "-m")) if chips else {}
    processes = ascend_processes(text)
    devices = []
    for place, (key, chip) in enumerate(sorted(chips.items())):
        # Without its logic id a chip can be shown but not given to anybody: a guess might be a neighbour's.
        visible = logic.get(key)
        # Both chips of a board may share an address, hence the chip's number behind it.
        chip["uuid"] = "ascend-%s-%d" % (bus_id(chip["bus"]) or key[0], key[1])
        index = visible or str(place)
        devices.append(device("ascend", index, visible=visible, processes=processes, process_key=key, **chip))
    return devices


def ascend_chips(text: str) -> Dict[Tuple[int, int], Values]:
    """Return the chips in `npu-smi info` by (NPU, chip): two rows of three cells for each."""
    chips: Dict[Tuple[int, int], Values] = {}
    first: List[str] = []
    for line in lines_of(text):
        cells = cells_of(line)
        if len(cells) != 3 or not re.match(r"\d+\b", cells[0]):
            first = []
        elif not first:
            first = cells
        else:
            chips.setdefault((int(first[0].split()[0]), int(cells[0].split()[0])), ascend_chip(first, cells))
            first = []
    return chips


def ascend_chip(first: List[str], second: List[str]) -> Values:
    name = first[0].partition(" ")[2].strip()
    power, heat = [*first[2].split(), "", ""][:2]
    # DDR, then HBM where there is such a column; a chip has memory in one of them.
    memory = [pair for pair in re.findall(r"(\d+)\s*/\s*(\d+)", second[2]) if int(pair[1])]
    used, total = memory[-1] if memory else ("", "")
    health = ascend_health(word(first[1]))
    name = name if name.startswith("Ascend") else "Ascend " + name
    figures = {"use": second[2].partition(" ")[0], "used": used, "total": total, "power": power, "heat": heat}
    return dict(figures, bus=second[1], name=name, health=health)


def ascend_health(said: str) -> Tuple[str | None, str]:
    if said in ("", "OK"):
        return ("ok" if said else None), ""
    # A warning is the least of four grades; the chip goes on working.
    return ("ok" if said == "Warning" else "unhealthy"), "npu-smi says: %s." % said


def ascend_logic_ids(text: str | None) -> Dict[Tuple[int, int], str]:
    """Return what ASCEND_RT_VISIBLE_DEVICES takes, by (NPU, chip); the newest chips have only a physical id."""
    titles: List[str] = []
    found = {}
    for line in lines_of(text):
        cells = re.split(r"\s{2,}", line.strip())
        row = named(titles, cells)
        npu, chip = whole(row.get("NPU ID")), whole(row.get("Chip ID"))
        visible = row.get("Chip Logic ID", row.get("Chip Phy-ID"))
        if "NPU ID" in cells:
            titles = cells
        elif npu is not None and chip is not None and whole(visible) is not None:
            found[npu, chip] = str(visible)
    return found


def ascend_processes(text: str) -> Processes | None:
    """Return the processes by (NPU, chip); the newest tool names the NPU only."""
    found: Processes | None = None
    for line in lines_of(text):
        cells = cells_of(line)
        if "Process id" in cells:
            found = {}
        elif found is not None and len(cells) >= 4 and re.match(r"\d+(\s+\d+)?$", cells[0]):
            ids = [int(part) for part in cells[0].split()] + [0]
            found.setdefault((ids[0], ids[1]), []).append((cells[1], cells[3]))
    return found


# --- Devices: vendors with a table like nvidia-smi's --------------------------------------------------

GAUDI_FIELDS = {
    "index": "index",
    "visible": "module_id",
    "uuid": "uuid",
    "name": "name",
    "bus": "bus_id",
    "total": "memory.total",
    "used": "memory.used",
    "use": "utilization.aip",
    "heat": "temperature.aip",
    "power": "power.draw",
}


def read_cambricon(tool: Tool) -> List[Json]:
    text = tool.ask()
    processes = table_processes(text, r"\S+\s+")
    devices = []
    for first, second in table_pairs(text):
        index, _, *words = first[0].split() + [""]
        health, reason = error_health((first[-1].split() + ["", ""])[1])
        if health == "unhealthy":  # whether these errors were corrected is not said
            health, reason = None, "cnmon counts memory errors."
        if whole(index) is not None:
            name = " ".join(words[:-2])
            figures = dict(table_figures(first, second), name=name, health=(health, reason), processes=processes)
            devices.append(device("cambricon", index, **figures))
    return devices


def read_metax(tool: Tool) -> List[Json]:
    text = tool.ask()
    processes = table_processes(text)
    devices = []
    for first, second in table_pairs(text):
        board, _, name = first[0].partition(" ")
        # The rebadged tool has the board in the first cell and the index in the second.
        index = (first[1] if len(first) == 4 else board).split(" ")[0]
        state = word(second[-1])
        health = ("ok" if state else None), ""
        if state not in ("", "Available"):
            health = "unhealthy", "%s says: %s." % (tool.name, state)
        if whole(index) is not None:
            name = re.sub(r"\s+(On|Off)$", "", name)
            figures = dict(table_figures(first, second), name=name, health=health, processes=processes)
            devices.append(device("metax", index, **figures))
    return devices


def read_iluvatar(tool: Tool) -> List[Json]:
    rows = query(tool, CSV_FIELDS)
    # The field of the power has three names by version; the table shows it in all, and the processes as well.
    table = tool.ask_also() if rows else None
    cards = {figures["bus"]: figures for figures in (table_figures(*pair) for pair in table_pairs(table))}
    processes = table_processes(table)
    for row in rows:
        row["power"] = cards.get(bus_id(row.get("bus")), {}).get("power")
    return [device("iluvatar", processes=processes, **row) for row in rows]


def read_gaudi(tool: Tool) -> List[Json]:
    rows = csv_rows(tool.ask("-Q", ",".join(GAUDI_FIELDS.values()), "-f", "csv,noheader"), GAUDI_FIELDS)
    processes = table_processes(tool.ask_also()) if rows else None
    for row in rows:
        row["visible"] = word(row["visible"]) or None
    return [device("gaudi", processes=processes, **row) for row in rows]


# --- Devices: Moore Threads and Enflame ---------------------------------------------------------------

MTHREADS_KEYS = {
    "index": "Index",
    "uuid": "GPU UUID|Serial Number",
    "name": "Product Name",
    "bus": "PCI/Bus ID",
    "total": "FB Memory Usage/Total",
    "used": "FB Memory Usage/Used",
    "use": "Utilization/Gpu",
    "heat": "Temperature/GPU Current Temp",
    "power": "Power Readings/Power Draw",
}
ENFLAME_KEYS = {
    "uuid": "Device Info/Dev UUID|Device Info/Dev SN",
    "name": "Device Info/Dev Name",
    "total": "Device Mem Info/Total Size|Device Mem Info/Mem Size",
    "used": "Device Mem Info/Used Size|Device Mem Info/Mem Usage",
    "use": "Device Usage Info/GCU Usage",
    "heat": "Temperature Info/GCU Temp",
    "power": "Power Info/Cur Power",
}


def read_mthreads(tool: Tool) -> List[Json]:
    cards = [pick(flat(card), MTHREADS_KEYS) for card in objects(json_in(tool.ask("-q", "--json")), "GPU")]
    return [device("mthreads", **card) for card in cards if whole(card["index"]) is not None]


def read_enflame(tool: Tool) -> List[Json]:
    devices = []
    text = tool.ask("-q", "-d", "DEVICE,POWER,TEMP,MEMORY,USAGE,PCIE,ERROR")
    for index, block in sections(text, r"DEV ID (\d+)\s*$"):
        values = dict(block)
        pci = [values.get("PCIe Info/" + key, "") for key in ("Domain", "Bus", "Dev", "Func")]
        said = {"True": ("ok", ""), "False": ("unhealthy", "efsmi says: not healthy.")}
        health = said.get(values.get("Device Info/Health", ""))
        figures = dict(pick(values, ENFLAME_KEYS), bus="%s:%s:%s.%s" % tuple(pci), health=health)
        devices.append(device("enflame", index, **figures))
    return devices


# --- Devices: all vendors -----------------------------------------------------------------------------


class Vendor(NamedTuple):
    """What is the vendor's own: its tools in the order of preference, and how a process is given its devices."""

    tools: Tuple[Tuple[str, Callable[[Tool], List[Json]]], ...]
    variable: str  # takes the `visible_value` of each device, with commas between
    also: Tuple[str, ...] = ()  # more variables that want the same
    environment: Tuple[Tuple[str, str], ...] = ()  # what makes the variable mean these devices
    folder: str = ""  # where the tool may lie beside PATH
    library: str = ""
    verified: bool = False  # read from real hardware, not from documents alone


VENDORS = {
    "nvidia": Vendor(
        (("nvidia-smi", read_nvidia),),
        "CUDA_VISIBLE_DEVICES",
        environment=(("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),),
        verified=True,
    ),
    "amd": Vendor(
        (("amd-smi", read_amd_smi), ("rocm-smi", read_rocm_smi)), "HIP_VISIBLE_DEVICES", folder="/opt/rocm/bin"
    ),
    "intel": Vendor((("xpu-smi", read_intel),), "ZE_AFFINITY_MASK"),
    "gaudi": Vendor((("hl-smi", read_gaudi),), "HABANA_VISIBLE_MODULES"),
    "ascend": Vendor((("npu-smi", read_ascend),), "ASCEND_RT_VISIBLE_DEVICES", folder="/usr/local/sbin"),
    "cambricon": Vendor((("cnmon", read_cambricon),), "MLU_VISIBLE_DEVICES"),
    "kunlunxin": Vendor((("xpu-smi", read_kunlunxin), ("xpu_smi", read_kunlunxin_older)), "XPU_VISIBLE_DEVICES"),
    "metax": Vendor(
        (("mx-smi", read_metax), ("ht-smi", read_metax)),
        "CUDA_VISIBLE_DEVICES",
        also=("MACA_VISIBLE_DEVICES",),
        folder="/opt/mxdriver/bin",
    ),
    "mthreads": Vendor((("mthreads-gmi", read_mthreads),), "MUSA_VISIBLE_DEVICES"),
    "iluvatar": Vendor(
        (("ixsmi", read_iluvatar),),
        "CUDA_VISIBLE_DEVICES",
        folder="/usr/local/corex/bin",
        library="/usr/local/corex/lib",
    ),
    "hygon": Vendor((("hy-smi", read_hygon),), "HIP_VISIBLE_DEVICES", folder="/opt/hyhal/bin"),
    "enflame": Vendor((("efsmi", read_enflame),), "TOPS_VISIBLE_DEVICES"),
}

Found = List[Tuple[str, Callable[[Tool], List[Json]]]]
busy_vendors: Set[str] = set()


def find_tools(path: str | None) -> Dict[str, Found]:
    """Return the tools that are there, by vendor; `path` in place of PATH leaves out the vendors' own folders."""
    folders = (os.environ.get("PATH", "") if path is None else path).split(os.pathsep)
    found: Dict[str, Found] = {}
    for vendor, entry in VENDORS.items():
        own = [entry.folder] if path is None and entry.folder else []
        for name, reader in entry.tools:
            files = (os.path.join(folder, name) for folder in folders + own if os.path.isabs(folder))
            file = next((file for file in files if os.path.isfile(file) and os.access(file, os.X_OK)), None)
            if file:
                found.setdefault(vendor, []).append((file, reader))
    return found


def read_vendor(vendor: str, tools: Found, timeout: float, unkillable: List[Any]) -> Tuple[List[Json], str]:
    """Return devices and what went wrong, from the first tool that has devices; nothing if all are another vendor's."""
    deadline = time.monotonic() + timeout
    failure = ""
    for path, reader in tools:
        tool = Tool(path, timeout, deadline, VENDORS[vendor].library)
        tool.unkillable = unkillable
        try:
            devices = reader(tool)
            if devices:
                return devices, tool.trouble
            failure = failure or tool.no_device()
        except OtherVendor:
            continue
        except ToolFailed as error:
            failure = failure or str(error)
        except Exception as error:  # noqa: BLE001 - whatever a tool prints, the agent goes on
            failure = failure or "%s cannot be understood (%s)." % (tool.name, type(error).__name__)
    return [], failure


def vendor_thread(vendor: str, tools: Found, timeout: float, answers: Any) -> None:
    """Deliver one vendor's reading, then stay as long as a process of it does: a stuck tool is not started again."""
    unkillable: List[Any] = []
    reading = read_vendor(vendor, tools, timeout, unkillable)
    if not unkillable:
        busy_vendors.discard(vendor)
    answers.put((vendor, *reading))
    for process in unkillable:
        process.wait()
    if unkillable:
        busy_vendors.discard(vendor)


def read_devices(timeout: float = DEVICE_TIMEOUT, path: str | None = None) -> Tuple[List[Json], Dict[str, str]]:
    """Ask all tools at once; return the devices, and a sentence for each vendor whose tool failed.

    A vendor may have both: devices, and a sentence about figures that are missing. One without a tool has neither.
    """
    import queue  # noqa: PLC0415 - not loaded into shims

    if os.name == "nt":  # process groups and pipes work differently there, and nothing of this was ever run
        return [], {}
    answers: Any = queue.SimpleQueue()
    found = find_tools(path)
    errors = {vendor: "Its tool is stuck since an earlier reading." for vendor in found if vendor in busy_vendors}
    waiting = set(found) - set(errors)
    busy_vendors.update(waiting)
    for vendor in waiting:
        arguments = (vendor, found[vendor], timeout, answers)
        threading.Thread(target=vendor_thread, args=arguments, name="devices-" + vendor, daemon=True).start()
    devices: Dict[Tuple[str, str], Json] = {}
    deadline = time.monotonic() + timeout + 2 * REAP_WITHIN
    while waiting:
        try:
            vendor, read, trouble = answers.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            errors.update({vendor: "Its tool could not be stopped in time." for vendor in waiting})
            break
        waiting.discard(vendor)
        errors.update({vendor: trouble} if trouble else {})
        for entry in read:
            first = devices.setdefault((vendor, entry["uuid"]), entry)  # a tool may list a device twice
            if first["index"] != entry["index"]:  # or two parts of a card, with one serial number for both
                entry["uuid"] += "-%d" % entry["index"]
                devices.setdefault((vendor, entry["uuid"]), entry)
    return sorted(devices.values(), key=lambda entry: (entry["vendor"], entry["index"])), errors


def command_of(pid: int) -> str | None:
    """Return the short name that the kernel has for a process, None when it is gone."""
    try:
        return shorten(read_proc("/proc/%d/comm" % pid).decode("utf-8", "replace").strip()) or None
    except OSError:
        return None


def tell_whose(devices: List[Json], mark: str) -> None:
    """Add to each process on a device its command's name and the instance that it belongs to, None for a stranger's."""
    told: Dict[int, Json] = {}
    for process in (process for device in devices for process in device["processes"] or []):
        pid = process["pid"]
        if pid not in told:
            told[pid] = {"command": command_of(pid), "instance": instance_of(pid, mark)}
        process.update(told[pid])


class DeviceWatch:
    """Reads the devices every `period` seconds in the background while there is a tool, else looks for one.

    `mark` is that of this agent's instances, by which their processes are told from strangers'.
    """

    def __init__(
        self,
        period: float = DEVICE_PERIOD,
        look: float = DEVICE_LOOK,
        timeout: float = DEVICE_TIMEOUT,
        path: str | None = None,
        mark: str = "",
    ) -> None:
        self.mark = mark
        self.period = period
        self.look = look
        self.timeout = timeout
        self.path = path
        self.latest: Tuple[List[Json], Dict[str, str], str | None] = ([], {}, None)
        self.ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self.run, name="devices", daemon=True).start()

    def stop(self) -> None:
        self.ended.set()

    def snapshot(self) -> Tuple[List[Json], Dict[str, str], str | None]:
        """Return (devices, errors, when they were read) at once; the time is None before the first reading.

        The documents are replaced by the next reading, never changed; the caller does not change them either.
        """
        return self.latest

    def run(self) -> None:
        pause = 0.0
        while not self.ended.wait(pause):
            pause = self.read()

    def read(self) -> float:
        """Read once and return how long to wait before the next time."""
        try:
            if not find_tools(self.path):
                self.latest = ([], {}, iso_now())
                return self.look
            devices, errors = read_devices(self.timeout, self.path)
            tell_whose(devices, self.mark)
            self.latest = (devices, errors, iso_now())
        except Exception as error:  # noqa: BLE001 - this thread must not end
            self.latest = ([], {"agent": "Reading devices failed: %s." % type(error).__name__}, iso_now())
        return self.period


# --- The agent ----------------------------------------------------------------------------------------


class LogWaiters:
    """Requests that wait for output. However many they are, one thread looks, and only while there are any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: List[Tuple[str, Any, threading.Event]] = []
        self.looking = False

    def wait(self, folder: str, state: Any, seconds: float) -> None:
        """Return when the log in `folder` is no longer in `state`, or when the time is over."""
        entry = (folder, state, threading.Event())
        with self.lock:
            if not self.looking:
                threading.Thread(target=self.look, name="log-waiters", daemon=True).start()
                self.looking = True
            self.waiting.append(entry)
        entry[2].wait(seconds)
        with self.lock, contextlib.suppress(ValueError):
            self.waiting.remove(entry)

    def look(self) -> None:
        """Wake those whose log has changed, until nobody waits."""
        while True:
            time.sleep(LOG_LOOK_SECONDS)
            with self.lock:
                waiting = list(self.waiting)
                if not waiting:
                    self.looking = False
                    return
            states = {folder: log_state(folder) for folder, _, _ in waiting}
            for folder, state, event in waiting:
                if states[folder] != state:
                    event.set()


class Agent:
    """Every instance of one state directory, and what can be done with them.

    `lock` guards memory and is held for moments only. An instance's `operation` lock is held for as long
    as a deploy, stop, restart or delete of it takes; take it first, `lock` second.
    """

    def __init__(self, state_dir: str) -> None:
        self.state_dir = state_dir
        self.boot_id = read_boot_id()
        self.started_at = iso_now()
        self.asked_at = 0.0  # when a request last came or was answered
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.instances: Dict[str, Instance] = {}
        self.host = Host()
        self.cgroups = Cgroups()
        self.log_waiters = LogWaiters()
        self.spawner: Any = WindowsSpawner() if os.name == "nt" else Spawner()
        self.mark = self.own_mark()
        self.device_watch = DeviceWatch(path=os.environ.get("INFINI_DEVICE_PATH"), mark=self.mark)
        self.watcher = Watcher(self)

    def own_mark(self) -> str:
        """Return the random name of this state directory, by which our processes are told from others'."""
        path = os.path.join(self.state_dir, "id")
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            text = file.read().strip()
            if re.fullmatch(r"[0-9a-f]{16}", text):
                return text
        text = os.urandom(8).hex()
        write_file(path, text.encode() + b"\n", durable=True)
        return text

    def instances_dir(self) -> str:
        return os.path.join(self.state_dir, "instances")

    def start(self) -> None:
        """Find again what an earlier agent left, then watch it."""
        empty_folder(os.path.join(self.state_dir, "trash"))
        os.makedirs(self.instances_dir(), mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(self.instances_dir())):
            folder = os.path.join(self.instances_dir(), name)
            if KEY_PATTERN.fullmatch(name) and os.path.isdir(folder):
                self.find_again(Instance(name, folder))
        load_renameat2()
        self.watcher.start()
        self.device_watch.start()
        self.spawner.prepare()

    def find_again(self, instance: Instance) -> None:
        """Take an instance from its files; a file that cannot be read makes it failed, with the reason."""
        try:
            instance.load()
        except Unreadable as error:
            instance.broken = "Its state cannot be read: %s. Deploy it again." % error
            instance.wanted = "running"  # as far as anyone knows
        with self.lock:
            self.instances[instance.key] = instance
            self.settle(instance)
        log("instance.found key=%s phase=%s" % (instance.key, instance.phase))

    # Questions

    def find(self, key: str) -> Instance:
        """Return the instance, or raise ApiError 404."""
        instance = self.instances.get(key)
        if instance is None:
            raise ApiError(404, "unknown_instance", "There is no instance %s on this server." % key)
        return instance

    def view(self, instance: Instance) -> Json:
        with self.lock:
            return instance.view()

    def services(self) -> List[Json]:
        with self.lock:
            return [instance.view() for _, instance in sorted(self.instances.items())]

    def report(self) -> Json:
        """Return everything about this server in one document."""
        devices, device_errors, devices_observed_at = self.device_watch.snapshot()
        return {
            "agent": {
                "version": VERSION,
                "protocol": PROTOCOL,
                "boot_id": self.boot_id,
                "pid": os.getpid(),
                "started_at": self.started_at,
                "hostname": socket.gethostname(),
            },
            "host": self.host.figures(),
            "devices": devices,
            "device_errors": device_errors,
            "devices_observed_at": devices_observed_at,
            "services": self.services(),
            "observed_at": iso_now(),
        }

    def status(self, key: str) -> Json:
        """Return the instance with the last lines of its present run."""
        instance = self.find(key)
        document = self.view(instance)
        with contextlib.suppress(OSError):
            _, data = last_lines(instance.folder, instance.log_start, 40, LOG_ANSWER_BYTES)
            text = data.decode("utf-8", "replace")
            document["log_tail"] = (text[:-1] if text.endswith("\n") else text).split("\n") if text else []
        document.setdefault("log_tail", [])
        return document

    def spec(self, key: str) -> Json:
        """Return the fields an instance was deployed with, for whoever takes it over; null where they are lost."""
        instance = self.find(key)
        with self.lock:
            return {"id": key, "generation": instance.generation, "spec": instance.spec}

    def follow_logs(self, key: str, offset: int, limit: int, seconds: float) -> Json:
        """Return a piece of the log once there is one, or an empty one when the time is over."""
        until = time.monotonic() + seconds
        while True:
            folder = self.find(key).folder
            state = log_state(folder)
            answer = self.logs(key, offset, limit, None)
            left = until - time.monotonic()
            if answer["data"] or left <= 0:
                return answer
            self.log_waiters.wait(folder, state, left)

    def logs(self, key: str, offset: int, limit: int, tail: int | None) -> Json:
        """Return a piece of the log; offsets count from the log's first byte, also over rotation."""
        instance = self.find(key)
        try:
            size = log_size(instance.folder)
            if tail is not None:
                start, data = last_lines(instance.folder, 0, tail, LOG_ANSWER_LIMIT)
            else:
                start, data = read_log(instance.folder, min(offset, size), limit)
        except FileNotFoundError:
            raise ApiError(404, "unknown_instance", "There is no instance %s on this server." % key) from None
        if instance.is_live or start + len(data) < size:
            data = cut_at_character(data)
        return {
            "offset": start,
            "next_offset": start + len(data),
            "size": max(size, start + len(data)),
            "data": data.decode("utf-8", "replace"),
        }

    # Operations

    @contextlib.contextmanager
    def operation(self, instance: Instance) -> Iterator[None]:
        """Let one operation at a time work on an instance; other instances go on."""
        with instance.operation:
            if instance.forgotten:
                raise ApiError(409, "being_deleted", "The instance was deleted meanwhile; send it again.")
            yield

    def deploy(self, key: str, body: Json) -> Tuple[int, Json]:
        """Run what `body` says as instance `key`: (201, view) when started now, (200, view) when it runs."""
        spec = checked_spec(body)
        check_limits(spec.get("limits") or {}, self.cgroups)
        generation = body.get("generation")
        with self.lock:
            is_new = key not in self.instances
            instance = self.add(key) if is_new else self.instances[key]
        try:
            with self.operation(instance):
                if instance.generation is not None and generation == instance.generation:
                    return 200, self.view(instance)
                self.refuse_stale(instance, generation)
                if generation is None:
                    generation = (instance.generation or 0) + 1
                self.end_and_wait(instance)
                self.launch(instance, spec, generation, restarts=0, history=[])
                return 201, self.view(instance)
        finally:
            self.drop_if_never_stored(instance, is_new)

    def add(self, key: str) -> Instance:
        """Make a new instance known; call with the lock held."""
        instance = self.instances[key] = Instance(key, os.path.join(self.instances_dir(), key))
        return instance

    def drop_if_never_stored(self, instance: Instance, is_new: bool) -> None:
        """Forget an instance whose very first request failed before anything was on disk."""
        with self.lock:
            if is_new and instance.generation is None and self.instances.get(instance.key) is instance:
                instance.forgotten = True  # for those that wait for its operation lock
                del self.instances[instance.key]

    def refuse_stale(self, instance: Instance, generation: int | None) -> None:
        """Raise ApiError 409 when `generation` is older than what is stored."""
        if generation is None or instance.generation is None or generation >= instance.generation:
            return
        message = "Generation %d is older than generation %d, which this server already has."
        raise ApiError(409, "stale_generation", message % (generation, instance.generation))

    def restart(self, key: str, body: Json) -> Tuple[int, Json]:
        """Stop the instance if it runs and start its stored command again."""
        generation = checked_generation(body)
        instance = self.find(key)
        with self.operation(instance):
            if instance.spec is None:
                raise ApiError(404, "no_command", "No command is stored for %s; deploy it first." % key)
            self.refuse_stale(instance, generation)
            self.end_and_wait(instance)
            new = instance.generation if generation is None else generation
            history = longer_history(instance, "Restarted on request.")
            self.launch(instance, instance.spec, new or 0, instance.restarts + 1, history)
            return 200, self.view(instance)

    def stop(self, key: str, body: Json) -> Tuple[int, Json]:
        """End the instance's tree: (200, view) once it is gone, (202, view) when it takes longer.

        The generation is kept, also of an instance that is not known: a deploy that was asked for earlier
        and arrives later must not start it.
        """
        generation = checked_generation(body)
        with self.lock:
            is_new = generation is not None and key not in self.instances
            instance = self.add(key) if is_new else self.find(key)
        try:
            with self.operation(instance):
                self.refuse_stale(instance, generation)
                gone = self.end(instance, generation)
                return (200 if gone else 202), self.view(instance)
        finally:
            self.drop_if_never_stored(instance, is_new)

    def delete(self, key: str) -> Json:
        """Forget a stopped instance and remove its files; raise ApiError 409 while it runs."""
        instance = self.find(key)
        with self.operation(instance):
            with self.lock:
                if instance.is_live or shim_lock_is_held(instance.folder):
                    raise ApiError(409, "still_running", "Stop %s before you delete it." % key)
                trash = os.path.join(self.state_dir, "trash", os.urandom(8).hex())
                os.makedirs(os.path.dirname(trash), mode=0o700, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(instance.folder, trash)
                instance.forgotten = True
                del self.instances[key]
            empty_folder(trash)
        log("instance.deleted key=%s" % key)
        return {"id": key, "deleted": True}

    def end(self, instance: Instance, generation: int | None = None) -> bool:
        """Stop the instance; True when it is gone, False when it is still going after the time to answer."""
        with self.lock:
            before = instance.wanted, instance.verdict, instance.generation, instance.pending
            instance.wanted, instance.verdict, instance.pending = "stopped", None, None
            instance.generation = before[2] if generation is None else generation
            if before[3] is not None:
                instance.phase, instance.reason = "stopped", "Stopped on request, while it waited to restart."
            after = instance.wanted, instance.verdict, instance.generation, instance.pending
        saved = (instance.spec is not None or not instance.broken) and before != after
        # What runs is told before the disk has the intent: should the agent die now, the next one finds it all the same
        # and goes on stopping, and a power cut ends the process too.
        announced = False
        try:
            if saved:
                announced = instance.announce()
                if not announced:
                    instance.save()
                elif not instance.is_live or before[3] is not None:
                    instance.keep()
        except ApiError:
            with self.lock:
                instance.wanted, instance.verdict, instance.generation, instance.pending = before
                instance.phase = "starting" if instance.pending else instance.phase
            raise
        with self.lock:
            if instance.is_live:
                self.begin_stop(instance, "Stopping on request.")
            else:
                instance.phase, instance.ready = "stopped", False
        if announced:
            self.make_sure(instance)
        self.look_for_quick_end(instance)
        gone = self.wait_until(lambda: not instance.is_live, STOP_ANSWER_WITHIN)
        log_later("instance.stop key=%s gone=%s" % (instance.key, gone))
        return gone

    def make_sure(self, instance: Instance) -> None:
        """See what was announced through: it has begun, so that it is too late, and no reason, to undo it."""
        try:
            if instance.next_fd >= 0:
                instance.keep()
            instance.put()
        except ApiError as error:
            log("instance.keep_failed key=%s: %s" % (instance.key, error.message))

    def look_for_quick_end(self, instance: Instance) -> None:
        """Most trees end at once: see the sign of it before the system has cleared the shim away.

        Only of a shim that was told: one that is yet to begin has left no sign either.
        """
        with self.lock:
            line, instance.line = instance.line, None
        if line is not None:
            gone = line.hear(QUICK_END_WITHIN)
            later(line.close)
            with self.lock:
                if gone and gone["run"] == instance.run and instance.is_live and instance.stop_told:
                    instance.stop_told = False
                    ended = gone["ended"]  # as exit.json has it
                    self.finish(instance, ended["exit_code"], ended["finished_at"], ended)
            return
        until = time.monotonic() + QUICK_END_WITHIN
        while instance.is_live and instance.stop_told and time.monotonic() < until:
            time.sleep(0.0003)
            if not instance.has_leftovers():
                with self.lock:
                    if instance.is_live and instance.stop_told:
                        self.watcher.on_shim_end(instance)
                return

    def end_and_wait(self, instance: Instance) -> None:
        """Stop what runs before something else takes its place; raise ApiError 409 when it does not end."""
        if instance.is_live and not self.end(instance):
            message = "The old process of %s is still stopping; try again." % instance.key
            raise ApiError(409, "still_stopping", message)

    def launch(self, instance: Instance, spec: Json, generation: int, restarts: int, history: List[Json]) -> None:
        """Start a run that somebody asked for, and wait until its process is known."""
        spare = self.spawner.take_spare()
        announced = self.store_start(instance, spec, generation, restarts, history, streak=0, spare=spare)
        begun = spare is not None and self.tell_to_begin(instance, spare)
        if not begun:
            with self.lock:
                self.ask_for_shim(instance, adopt=False)
        self.spawner.want_spare()
        if announced:
            instance.put()
        if spare is not None and begun:
            self.hear_of_start(instance, spare)
        if not os.path.exists(instance.path(NEXT_INTENT)):
            threading.Thread(target=self.make_next, args=(instance,), daemon=True).start()
        self.wait_until(
            lambda: instance.process is not None or not instance.is_live or instance.pending is not None,
            START_ANSWER_WITHIN,
        )
        log_later(
            "instance.start key=%s generation=%d pid=%s"
            % (instance.key, generation, instance.process and instance.process.pid)
        )

    def make_next(self, instance: Instance) -> None:
        """Make the next start and stop short; a first one waits for nobody's sake."""
        with contextlib.suppress(ApiError), self.operation(instance):
            if not os.path.exists(instance.path(NEXT_INTENT)):
                instance.make_next()

    def tell_to_begin(self, instance: Instance, spare: Line) -> bool:
        """Let the spare shim start what it has prepared, now that this is on disk; False when another has to."""
        answer = spare.hear(SPARE_ANSWER_WITHIN)
        if answer is not None and answer["event"] == "error":
            with self.lock:
                self.could_not_start(instance, answer["message"])
            return True
        if answer is not None and answer["event"] == "ready":
            with self.lock:
                instance.ask_again_at = time.monotonic() + SHIM_ANSWER_WITHIN
            if spare.send({"event": "begin"}):
                return True
        # It hangs, has died, or waits for another shim to end: it runs nothing, and will not.
        spare.dismiss(self.boot_id)
        return False

    def hear_of_start(self, instance: Instance, spare: Line) -> None:
        """Take over what the shim says of the process; whatever it leaves unsaid is found in its files."""
        answer = spare.hear(SHIM_ANSWER_WITHIN)
        with self.lock:
            if answer is not None and instance.run == answer["run"] and instance.pending is None:
                self.watcher.on_message(answer)
                instance.line = spare
                return
        spare.close()

    def store_start(
        self,
        instance: Instance,
        spec: Json,
        generation: int,
        restarts: int,
        history: List[Json],
        streak: int,
        spare: Line | None = None,
    ) -> bool:
        """Store the intent to start a run; a spare shim gets everything ready meanwhile. True where it is to be `put`.

        It is on disk before anything runs: whoever dies in between, a new agent finds either a process or an
        intent without one, and starts it then. Raise ApiError, with nothing changed, when the disk refuses.
        """
        taken = bool(spec.get("port")) and port_is_taken(spec["port"])
        with self.lock:
            before = dict(vars(instance))
            instance.spec, instance.generation, instance.restarts = spec, generation, restarts
            instance.history, instance.streak, instance.pending = history, streak, None
            instance.run = os.urandom(8).hex()
            instance.wanted, instance.verdict = "running", None
            instance.intent_boot_id = self.boot_id
            instance.port_taken = taken
            # At once, or a report would show the new generation with the old one's end.
            instance.reset_observed()
        try:
            if spare is not None:
                with contextlib.suppress(OSError):  # what it needs; `save` tells what is wrong
                    instance.make_folder()
                document = {"run": instance.run, "generation": generation, "spec": spec}
                spare.send(dict(self.request(instance, adopt=False), document=document))
            if instance.announce():
                instance.keep()
                return True
            instance.save()
            return False
        except ApiError:
            if spare is not None:
                spare.dismiss(self.boot_id)
            with self.lock:
                vars(instance).update(before)
            raise

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a change that makes `condition` true; return whether it is."""
        with self.changed:
            return self.changed.wait_for(condition, seconds)

    # Observation; all of it under the lock

    def settle(self, instance: Instance) -> None:
        """Bring memory in line with the files, and ask for a shim where one is missing. Repeatable."""
        try:
            process = read_json(instance.path("process.json"))
            ended = read_json(instance.path("exit.json"))
            self.settle_by(instance, process, ended)
        except Unreadable as error:
            if instance.broken is None and instance.intent_boot_id != self.boot_id:
                self.lost_to_reboot(instance)  # a power cut tears what was not synced, and leaves no process
            else:
                instance.broken = instance.broken or "A record of its process cannot be read: %s." % error
                self.fail_broken(instance)
        self.changed.notify_all()

    def settle_by(self, instance: Instance, process: Json | None, ended: Json | None) -> None:
        """Decide by the records: ended, gone with a reboot, running, orphaned, or never started."""
        if instance.broken and process is not None:
            # What is wanted is lost, what runs is not: the shim's own record names the run.
            instance.run, instance.generation = str(process.get("run")), stored_integer(process, "generation")
        if instance.pending is not None:
            self.go_on_waiting(instance, instance.pending, process, ended)
        elif process is not None and process.get("run") == instance.run:
            self.take_process(instance, process)
            if ended is not None and ended.get("run") == instance.run:
                self.settle_ended(instance, ended)
            elif instance.process is None or instance.process.boot_id != self.boot_id:
                self.lost_to_reboot(instance)
            elif is_alive(instance.shim, self.boot_id):
                self.watch(instance)
            else:
                self.ask_for_shim(instance, adopt=True)
        elif instance.broken:
            self.fail_broken(instance)
        elif instance.wanted == "running":
            if instance.intent_boot_id != self.boot_id:
                self.lost_to_reboot(instance)
            else:
                self.ask_for_shim(instance, adopt=False)
        else:
            instance.phase, instance.ask_again_at = "failed" if instance.verdict else "stopped", None
            instance.reason = instance.verdict or ""

    def take_process(self, instance: Instance, record: Json) -> None:
        """Take over what process.json says."""
        instance.process = identity_from(record.get("process"))
        instance.shim = identity_from(record.get("shim"))
        instance.started_at = str(record.get("started_at"))
        instance.log_start = stored_integer(record, "log_start") or 0
        started = record.get("started_monotonic")
        instance.started_monotonic = started if isinstance(started, float) else 0.0

    def settle_ended(self, instance: Instance, ended: Json) -> None:
        """The exit is on record; it counts as ended once the shim has also seen to the rest of the tree."""
        code = stored_exit_code(ended)
        ours = instance.shim is not None and instance.shim.boot_id == self.boot_id
        if os.name != "nt" and ours and not instance.has_leftovers():
            self.finish(instance, code, str(ended.get("finished_at")), ended)
        elif is_alive(instance.shim, self.boot_id):
            self.watch(instance)
        elif ours and instance.has_leftovers():
            self.ask_for_shim(instance, adopt=True)
        else:
            self.finish(instance, code, str(ended.get("finished_at")), ended)

    def watch(self, instance: Instance) -> None:
        """Follow a live process from now on."""
        instance.ask_again_at = None
        if instance.reason == WAITING_FOR_SHIM:
            instance.reason = ""
        if not instance.is_live:
            instance.phase = "starting"
        if instance.wanted == "stopped" or instance.verdict:
            self.begin_stop(instance, instance.verdict or "Stopping on request.")
        elif instance.broken:
            instance.phase, instance.reason = "running", instance.broken
        self.watcher.follow(instance)

    def ask_for_shim(self, instance: Instance, adopt: bool) -> None:
        """Have a shim started that runs the command, or one that takes over from a dead shim."""
        if not instance.is_live:
            instance.phase = "starting"
        instance.ask_again_at = time.monotonic() + SHIM_ANSWER_WITHIN
        try:
            self.spawner.ask(self.request(instance, adopt))
        except OSError as error:
            self.could_not_start(instance, "The agent could not start its spawner: %s." % error)

    def request(self, instance: Instance, adopt: bool) -> Json:
        """Return what a shim is told."""
        mark = "%s/%s" % (self.mark, instance.key)
        return {
            "folder": instance.folder,
            "run": instance.run,
            "mark": mark,
            "cgroup": self.cgroups.folder(mark),
            "adopt": adopt,
        }

    def ask_again_soon(self) -> None:
        """A spawner died, and with it perhaps requests that no shim has answered yet."""
        for instance in self.instances.values():
            if instance.ask_again_at is not None:
                instance.ask_again_at = time.monotonic() + 0.1

    def could_not_start(self, instance: Instance, message: str) -> None:
        """No shim came to be. Nothing runs if it was to start; if it was to adopt, that is tried again."""
        log("instance.shim_failed key=%s: %s" % (instance.key, message))
        if instance.process is not None and instance.process.boot_id == self.boot_id:
            instance.ask_again_at = time.monotonic() + 1
            return
        instance.ask_again_at = None
        instance.verdict = message
        instance.phase, instance.ready, instance.reason = "failed", False, message
        self.plan_restart(instance, None)
        if instance.pending is None:
            instance.wanted = "stopped"
            with contextlib.suppress(ApiError):
                instance.save()
        self.changed.notify_all()

    def begin_stop(self, instance: Instance, reason: str) -> None:
        """Ask the shim to end the tree; where there is no shim alive, one is made first and told then."""
        instance.phase, instance.ready, instance.reason = "stopping", False, reason
        if os.name == "nt":
            with contextlib.suppress(OSError):
                write_file(instance.path("stop"), b"", durable=False)
        elif instance.shim and not instance.stop_told:
            instance.stop_told = self.watcher.signal_shim(instance, signal.SIGTERM)

    def finish(self, instance: Instance, code: Any, finished_at: str | None, ended: Json) -> None:
        """Note the end of a run."""
        self.watcher.leave(instance)
        instance.ready, instance.ask_again_at = False, None
        instance.exit_code, instance.finished_at = code, finished_at
        note = ""
        if instance.port_taken:
            note = " Port %s was already taken when it started." % (instance.spec or {}).get("port")
        if ended.get("out_of_memory"):
            note += " The kernel's out-of-memory killer ended it or a part of it."
        if instance.verdict:
            instance.phase, instance.reason = "failed", instance.verdict
        elif instance.wanted == "stopped":
            instance.phase, instance.reason = "stopped", reason_for_stop(code, ended)
        elif instance.broken:
            instance.phase, instance.reason = "failed", instance.broken
        else:
            instance.phase, instance.reason = reason_for_exit(code, note)
        log_later("instance.ended key=%s phase=%s exit_code=%s" % (instance.key, instance.phase, code))
        self.plan_restart(instance, ended.get("finished_monotonic"))
        self.changed.notify_all()

    # Restarts by policy; all of it under the lock

    def plan_restart(self, instance: Instance, ended_at: Any) -> None:
        """Have what ended by itself started again later, if its policy says so.

        The wait counts from the end of the process, so that the time an agent was away is part of it.
        """
        policy = RestartPolicy.of(instance.spec)
        if instance.wanted != "running" or instance.broken or not policy.wants(instance.phase):
            return
        now = at = time.monotonic()
        if instance.intent_boot_id == self.boot_id:  # after a reboot nothing is waited for
            ended = ended_at if isinstance(ended_at, float) and ended_at <= now else now
            lived = ended - instance.started_monotonic
            if lived >= policy.stable and self.watcher.was_ready(instance):
                instance.streak = 0
            at = ended + policy.delay(instance.streak)
        if policy.most is not None and instance.streak >= policy.most:
            instance.reason += " Its policy allows %d restarts in a row, so it stays ended." % policy.most
            return
        instance.pending = Pending(at, instance.reason)
        instance.phase = "starting"
        log("instance.restart_due key=%s in=%.1f" % (instance.key, at - now))
        with contextlib.suppress(ApiError):
            instance.save()

    def go_on_waiting(self, instance: Instance, pending: Pending, process: Json | None, ended: Json | None) -> None:
        """An earlier agent planned a restart: the wait goes on where it was, and a reboot ends it."""
        now = time.monotonic()
        if process is not None and process.get("run") == instance.run:
            self.take_process(instance, process)
            instance.exit_code = UNKNOWN
            if ended is not None and ended.get("run") == instance.run:
                instance.exit_code = stored_exit_code(ended)
                instance.finished_at = str(ended.get("finished_at"))
        instance.phase, instance.ready = "starting", False
        longest = RestartPolicy.of(instance.spec).ceiling * 1.2
        at = now if instance.intent_boot_id != self.boot_id else min(pending.at, now + longest)
        instance.pending = pending._replace(at=at)

    def start_again(self, instance: Instance, pending: Pending) -> None:
        """Carry out a restart that is due, unless a request is about to decide otherwise."""
        if not instance.operation.acquire(blocking=False):
            return
        try:
            history = longer_history(instance, pending.reason)
            assert instance.spec is not None
            announced = self.store_start(
                instance,
                instance.spec,
                instance.generation or 0,
                instance.restarts + 1,
                history,
                instance.streak + 1,
            )
            if announced:
                instance.put()
            self.ask_for_shim(instance, adopt=False)
            log("instance.restart key=%s restarts=%d" % (instance.key, instance.restarts))
        except ApiError:  # nothing starts that is not on disk: again when there may be room
            instance.pending = Pending(time.monotonic() + 5, pending.reason)
        finally:
            instance.operation.release()

    def lost_to_reboot(self, instance: Instance) -> None:
        """The machine was started anew, so nothing of this run can be left."""
        on_purpose = instance.wanted == "stopped" and not instance.verdict
        instance.phase = "stopped" if on_purpose else "failed"
        instance.ready, instance.ask_again_at = False, None
        instance.exit_code = UNKNOWN
        instance.reason = "The server rebooted while it ran; how it ended was not seen."
        self.plan_restart(instance, None)

    def fail_broken(self, instance: Instance) -> None:
        """Say that the state is damaged; nothing is known to run."""
        instance.pending = None
        instance.phase, instance.ready, instance.ask_again_at = "failed", False, None
        instance.reason = instance.broken or ""
        instance.exit_code = UNKNOWN


def longer_history(instance: Instance, reason: str) -> List[Json]:
    """Return the restart history with the one that is about to happen."""
    entry = {"at": iso_now(), "exit_code": instance.exit_code, "reason": reason}
    return [*instance.history, entry][-RESTART_HISTORY:]


def empty_folder(path: str) -> None:
    """Remove a folder and all in it; what cannot be removed stays for the next time."""
    import shutil  # noqa: PLC0415 - not loaded into shims

    shutil.rmtree(path, ignore_errors=True)


# --- The watcher: one thread that sees exits and asks for readiness -----------------------------------


class Watcher:
    """One background thread: shims' ends by pidfd, messages of the spawner, probes, deadlines."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.selector = selectors.DefaultSelector()
        self.wake_read, self.wake_write = socket.socketpair()
        self.wake_read.setblocking(False)
        self.wake_write.setblocking(False)
        self.selector.register(self.wake_read, selectors.EVENT_READ, self.on_wake)
        self.buffers: Dict[socket.socket, bytes] = {}
        self.fds: List[int] = []  # came with offers of spare shims that are yet to be read
        self.followed: Dict[str, Instance] = {}
        self.thread_id = 0
        agent.spawner.on_new_link = self.on_new_link

    def start(self) -> None:
        threading.Thread(target=self.run, name="watcher", daemon=True).start()

    def run(self) -> None:
        """Go round for as long as the agent lives; a fault in one step is logged and the next one goes on."""
        self.thread_id = threading.get_ident()
        while True:
            try:
                for key, _ in self.selector.select(self.pause()):
                    with self.agent.lock:
                        self.handle(key.data)
                with self.agent.lock:
                    self.tick(time.monotonic())
                self.look_after_spare(time.monotonic())
            except Exception as error:  # noqa: BLE001 - this thread must not end
                log("watcher.fault %s: %s" % (type(error).__name__, error))
                time.sleep(0.2)

    def pause(self) -> float:
        """Return how long to sleep: short while anything starts or stops, and never past a restart."""
        with self.agent.lock:
            instances = list(self.agent.instances.values())
        due = [entry.pending.at for entry in instances if entry.pending]
        active = [entry for entry in instances if not entry.pending]
        longest = 0.5
        if any(entry.phase in ("starting", "stopping") for entry in active):
            longest = 0.1
        elif any(entry.is_live and entry.shim_fd < 0 for entry in active):
            longest = 0.2
        if self.agent.spawner.spare_wanted_since is not None:
            longest = SPARE_SHIM_AFTER
        return min([longest, *(max(0.02, at - time.monotonic()) for at in due)])

    def look_after_spare(self, now: float) -> None:
        """Have the spare shim that was taken replaced in a quiet moment, or it would be in the way of requests."""
        since = self.agent.spawner.spare_wanted_since
        if since is None:
            return
        if now - self.agent.asked_at >= SPARE_SHIM_AFTER or now - since >= SPARE_SHIM_WITHIN:
            self.agent.spawner.ask_for_spare()

    def handle(self, callback: Any) -> None:
        """Pass one event to whom it belongs."""
        owner = getattr(callback, "__self__", None)
        outcome = callback()
        if isinstance(owner, Probe) and outcome is not None:
            self.probed(owner, outcome)

    def on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.wake_read.recv(1024)

    def wake(self) -> None:
        """Have the thread look again; itself does so anyway."""
        if threading.get_ident() == self.thread_id:
            return
        with contextlib.suppress(OSError):
            self.wake_write.send(b"w")

    # The spawner's messages

    def on_new_link(self, link: socket.socket) -> None:
        """Listen to a new spawner."""
        self.buffers[link] = b""
        self.selector.register(link, selectors.EVENT_READ, lambda: self.on_link(link))
        self.wake()

    def on_link(self, link: socket.socket) -> None:
        """Read what spawner and shims say; a closed link means that the spawner ended."""
        data, fds = b"", b""
        with contextlib.suppress(OSError):
            data, sent, _, _ = link.recvmsg(READ_BYTES, socket.CMSG_SPACE(64), getattr(socket, "MSG_CMSG_CLOEXEC", 0))
            fds = b"".join(content for _, _, content in sent)
        for (fd,) in struct.iter_unpack("i", fds):
            self.fds.append(fd)
        if not data:
            self.selector.unregister(link)
            del self.buffers[link]
            link.close()
            self.agent.spawner.lost(link)
            self.agent.ask_again_soon()
            return
        *lines, self.buffers[link] = (self.buffers[link] + data).split(b"\n")
        for line in lines:
            self.on_message(json.loads(line.decode()))

    def on_message(self, message: Json) -> None:
        """Act on one message about a run; one about an earlier run is out of date."""
        if message["event"] == "spare":
            if self.fds:  # else this process may open no more files
                self.agent.spawner.offer(Line(self.fds.pop(0), identity_from(message["shim"])))
            return
        instance = self.agent.instances.get(os.path.basename(message["folder"]))
        if instance is None or instance.run != message["run"] or instance.pending is not None:
            return
        if message["event"] == "started":
            self.agent.take_process(instance, message["process"])
            self.agent.watch(instance)
            self.agent.changed.notify_all()
        elif message["event"] == "error":
            self.agent.could_not_start(instance, message["message"])
        else:
            # Another shim has this instance, or has had it: its files say which.
            instance.ask_again_at = time.monotonic() + 0.2
            instance.reason = instance.reason or WAITING_FOR_SHIM

    # Shims

    def follow(self, instance: Instance) -> None:
        """Notice the end of this instance's shim, and probe it."""
        self.leave(instance)
        self.followed[instance.key] = instance
        if instance.probe is None and instance.spec is not None and not instance.broken:
            instance.probe = Probe(instance, self.selector, self.was_ready(instance))
            if instance.probe.was_ready and instance.phase == "starting":
                instance.phase = "running"
        if instance.shim is not None:
            with contextlib.suppress(ProcessLookupError):
                instance.shim_fd = open_pidfd(instance.shim.pid)
            if not is_alive(instance.shim, self.agent.boot_id):
                self.release_fd(instance)
            elif instance.shim_fd >= 0:
                shim = instance.shim  # a request may have seen its end first, and another run begun since

                def ended() -> None:
                    if instance.shim is shim and instance.shim_fd >= 0:
                        self.on_shim_end(instance)

                self.selector.register(instance.shim_fd, selectors.EVENT_READ, ended)
        self.wake()

    def signal_shim(self, instance: Instance, number: int) -> bool:
        """Signal its shim and no other process: False when that does not run any more."""
        if instance.shim is None or instance.shim_fd < 0:
            return instance.shim is not None and send_signal(instance.shim, number, self.agent.boot_id)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(instance.shim_fd, number)  # type: ignore[attr-defined, unused-ignore]
            return True
        return False

    def leave(self, instance: Instance) -> None:
        """Follow this instance no longer."""
        self.followed.pop(instance.key, None)
        if instance.probe is not None:
            instance.probe.end()
        self.release_fd(instance)

    def release_fd(self, instance: Instance) -> None:
        if instance.shim_fd >= 0:
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(instance.shim_fd)
            os.close(instance.shim_fd)
            instance.shim_fd = -1
        if instance.line is not None:
            instance.line.close()
            instance.line = None

    def on_shim_end(self, instance: Instance) -> None:
        """A shim ended: its records say whether the process did too."""
        self.leave(instance)
        instance.stop_told = False
        self.agent.settle(instance)

    # What is due

    def tick(self, now: float) -> None:
        """Do what time demands, for every instance."""
        for instance in list(self.agent.instances.values()):
            if instance.pending is not None:
                if now >= instance.pending.at:
                    self.agent.start_again(instance, instance.pending)
            elif instance.ask_again_at is not None and now >= instance.ask_again_at:
                instance.ask_again_at = None
                self.agent.spawner.end_if_frozen()
                self.agent.settle(instance)
            elif instance.key in self.followed:
                if instance.shim_fd < 0 and not is_alive(instance.shim, self.agent.boot_id):
                    self.on_shim_end(instance)
                elif instance.phase in ("starting", "running"):
                    self.check_readiness(instance, now)

    def check_readiness(self, instance: Instance, now: float) -> None:
        """Ask again when it is time, and give up past the startup deadline."""
        probe = instance.probe
        if probe is None:
            return
        age = now - instance.started_monotonic
        if probe.kind == "none":
            if age >= SETTLE_SECONDS and not instance.ready:
                self.became_ready(instance)
        elif probe.connection is not None:
            if now >= probe.deadline:
                self.probed(probe, False)
        elif not probe.was_ready and age >= probe.startup_seconds:
            self.give_up(instance, probe)
        elif now >= probe.next_at:
            probe.begin(now)
            if probe.connection is None:
                self.probed(probe, False)

    def probed(self, probe: Probe, passed: bool) -> None:
        """Take in the outcome of one probe."""
        instance = probe.instance
        probe.end()
        if instance.phase not in ("starting", "running"):
            return
        if instance.port_taken:
            passed = self.port_is_ours(instance, probe, passed)
        probe.plan(time.monotonic(), passed)
        if passed:
            probe.failures = 0
            if not instance.ready:
                self.became_ready(instance)
            return
        probe.failures += 1
        if instance.ready and probe.failures >= probe.threshold:
            instance.ready = False
            instance.reason = "It runs, but its %s probe fails." % probe.kind
            self.agent.changed.notify_all()

    def port_is_ours(self, instance: Instance, probe: Probe, passed: bool) -> bool:
        """Where another process had the port at the start, an answer counts only from our own tree."""
        if probe.refused:
            instance.port_taken = False  # the other one is gone
        elif passed:
            mark = "%s/%s" % (self.agent.mark, instance.key)
            if tree_listens_on(probe.port, tree_members(instance.process, mark, self.agent.boot_id)):
                instance.port_taken = False
        if instance.port_taken:
            instance.reason = "Port %d was already taken when it started." % probe.port
            return False
        instance.reason = ""
        return passed

    def became_ready(self, instance: Instance) -> None:
        """Note it, also on disk: after a restart of the agent the startup deadline must not count again."""
        instance.phase, instance.ready, instance.reason = "running", True, ""
        if instance.probe is not None and not instance.probe.was_ready:
            instance.probe.was_ready = True
            with contextlib.suppress(OSError):
                write_file(instance.path("ready"), instance.run.encode(), durable=False)
        self.agent.changed.notify_all()

    def was_ready(self, instance: Instance) -> bool:
        """Tell whether this very run has been ready before."""
        with contextlib.suppress(OSError), open(instance.path("ready"), "rb") as file:
            return file.read() == instance.run.encode()
        return False

    def give_up(self, instance: Instance, probe: Probe) -> None:
        """Stop what did not become ready in time."""
        if instance.wanted != "running":
            return
        note = " Port %d was already taken when it started." % probe.port if instance.port_taken else ""
        message = "It was not ready within %g seconds, so it was stopped.%s" % (probe.startup_seconds, note)
        instance.verdict = message
        with contextlib.suppress(ApiError):
            instance.save()
        self.agent.begin_stop(instance, message)


# --- HTTP ---------------------------------------------------------------------------------------------


class Requests:
    """Answers HTTP requests. Mixed into http.server's handler by `serve`, which alone loads that module."""

    protocol_version = "HTTP/1.1"
    server_version = "infini-agent"
    sys_version = ""
    disable_nagle_algorithm = True
    server: Any
    connection: Any
    request: Any
    rfile: Any
    wfile: Any
    headers: Dict[str, str]
    raw_requestline: bytes
    path: str
    command: str
    close_connection: bool
    after_answer: Callable[[], None] | None = None

    def setup(self) -> None:
        """Begin a connection; the TLS handshake is done here, in the connection's own thread."""
        self.request.settimeout(self.server.client_timeout)
        if self.server.tls is not None:
            wrap = self.server.tls.wrap_socket
            self.request = wrap(self.request, server_side=True, do_handshake_on_connect=False)
        self.connection = self.request
        self.server.allow(self, 2 * self.server.client_timeout)
        try:
            if self.server.tls is not None:
                self.request.do_handshake()
            super().setup()  # type: ignore[misc]
        except BaseException:
            self.server.allow(self, None)
            raise

    def finish(self) -> None:
        self.server.allow(self, None)
        try:
            super().finish()  # type: ignore[misc]
        finally:
            self.connection.close()

    def handle_one_request(self) -> None:
        """Wait for a request: a new client has less time than one that has shown it can speak."""
        try:
            super().handle_one_request()  # type: ignore[misc]
        except OSError:  # a silent client, a broken connection, a failed handshake
            self.close_connection = True
        self.server.allow(self, IDLE_CONNECTION_SECONDS + self.server.client_timeout)
        with contextlib.suppress(OSError):
            self.connection.settimeout(IDLE_CONNECTION_SECONDS)

    def parse_request(self) -> bool:
        """Read the head; from the request line on, the rest of it must come in time.

        http.server's own way reads it as a mail, which takes longer than to answer most of what is asked.
        """
        self.connection.settimeout(self.server.client_timeout)
        self.server.allow(self, 2 * self.server.client_timeout)
        self.requestline = self.raw_requestline.decode("iso-8859-1").rstrip("\r\n")
        self.command, self.headers, self.close_connection = "", {}, True
        words = self.requestline.split()
        if len(words) != 3 or not re.fullmatch(r"HTTP/[0-9]+\.[0-9]+", words[2]):
            self.send_error(400, "The request line is malformed.")
            return False
        self.command, self.path, self.request_version = words
        if self.request_version not in ("HTTP/1.1", "HTTP/1.0"):
            self.send_error(505, "Only HTTP/1.1 is spoken here.")
            return False
        if not self.read_headers():
            return False
        wanted = self.headers.get("connection", "").lower()
        self.close_connection = wanted == "close" or (self.request_version == "HTTP/1.0" and wanted != "keep-alive")
        if self.headers.get("expect", "").lower() == "100-continue" and self.request_version == "HTTP/1.1":
            return bool(self.handle_expect_100())  # type: ignore[attr-defined]
        return True

    def read_headers(self) -> bool:
        """Read the header lines, with their names in lower case; False when they were refused."""
        for _ in range(HEADER_LINES):
            line = self.rfile.readline(HEADER_LINE_BYTES + 1)
            if len(line) > HEADER_LINE_BYTES:
                self.send_error(431, "A header line is too long.")
                return False
            if line in (b"\r\n", b"\n", b""):
                return True
            name, colon, value = line.decode("iso-8859-1").partition(":")
            name, value = name.lower(), value.strip()
            if not colon or not name or name != name.strip():
                self.send_error(400, "A header line is malformed.")
                return False
            # What comes twice is seen as twice: of two lengths none may be believed.
            self.headers[name] = "%s, %s" % (self.headers[name], value) if name in self.headers else value
        self.send_error(431, "There are too many header lines.")
        return False

    def log_message(self, *_: Any) -> None:
        """Requests are not logged: what they did is."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses in our own shape."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        text = message or "The request is malformed."
        self.answer(code, ApiError(code, "bad_request", text.rstrip(".") + ".").document())

    def do_GET(self) -> None:
        """Answer any method: `route` decides."""
        self.server.agent.asked_at = time.monotonic()
        _after_answer.steps = []
        try:
            body = self.checked_body()
            self.server.allow(self, None)
            status, document = self.route(body)
        except ApiError as error:
            status, document = error.status, error.document()
        except Exception as error:  # noqa: BLE001 - a client gets an answer, and never a trace
            log("request.fault %s %s %s: %s" % (self.command, self.url(), type(error).__name__, error))
            document = ApiError(500, "internal_error", "The agent failed at this; its own log says why.").document()
            status = 500
        try:
            self.answer(status, document)
        finally:
            steps, _after_answer.steps = _after_answer.steps, None
            for step in steps:
                step()
        self.server.agent.asked_at = time.monotonic()
        if self.after_answer is not None:
            self.after_answer()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET

    def answer(self, status: int, document: Json) -> None:
        """Send headers and body in one piece."""
        body = json_text(document).encode("utf-8", "replace")
        head = "HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
        head += "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
        head += "Connection: close\r\n" if self.close_connection else ""
        data = (head % (status, STATUS_WORDS.get(status, "Error"), len(body))).encode() + b"\r\n"
        with contextlib.suppress(OSError):
            self.wfile.write(data if self.command == "HEAD" else data + body)
            if self.close_connection:
                self.linger()

    def linger(self) -> None:
        """Read what the client still sends, for a moment: closing at once could destroy our answer."""
        self.connection.settimeout(0.5)
        self.connection.shutdown(socket.SHUT_WR)
        until = time.monotonic() + 2
        while time.monotonic() < until and self.connection.recv(READ_BYTES):
            pass

    def checked_body(self) -> Json:
        """Check the caller, then read the body: raise ApiError 401, 413 or 400."""
        length_text = self.headers.get("content-length", "0")
        length = int(length_text) if re.fullmatch(r"[0-9]{1,18}", length_text) else -1
        has_body = length != 0 or "transfer-encoding" in self.headers
        if self.url() != "/health" and not self.server.token_matches(self.headers.get("authorization", "")):
            self.close_connection = self.close_connection or has_body
            raise ApiError(401, "unauthorized", "Send the agent's token: Authorization: Bearer TOKEN.")
        if "transfer-encoding" in self.headers or length < 0:
            self.close_connection = True
            raise ApiError(400, "length_required", "Send the body's size in one Content-Length header.")
        limit = UPGRADE_BODY_LIMIT if self.url() == "/agent/upgrade" else BODY_LIMIT
        if length > limit:
            self.close_connection = True
            raise ApiError(413, "too_large", "The body is larger than %d bytes." % limit)
        return parse_body(self.rfile.read(length)) if length else {}

    def url(self) -> str:
        """Return the path without query and without the slash at its end."""
        return self.path.split("?", 1)[0].rstrip("/") or "/"

    def route(self, body: Json) -> Tuple[int, Json]:
        """Find who answers this path: raise ApiError 404 or 405."""
        agent: Agent = self.server.agent
        url = self.url()
        parts = url.split("/")[1:]
        method = "GET" if self.command == "HEAD" else self.command
        if url in ("/health", "/services", "/report"):
            self.allow(method, "GET")
            if url == "/health":
                return 200, {"status": "ok", "version": VERSION}
            return 200, agent.report() if url == "/report" else {"services": agent.services()}
        if url == "/agent/upgrade":
            self.allow(method, "POST")
            return self.upgrade(body)
        if parts[0] == "service" and len(parts) in (2, 3):
            key = parts[1]
            if not KEY_PATTERN.fullmatch(key) or key in (".", ".."):
                raise ApiError(400, "bad_id", "An id has 1 to 64 letters, digits, dots, underscores or hyphens.")
            return self.route_service(agent, method, key, parts[2] if len(parts) == 3 else "", body)
        raise ApiError(404, "not_found", "There is no such path.")

    def upgrade(self, body: Json) -> Tuple[int, Json]:
        """Put a new file in place of ours; once that is answered, become it."""
        upgrade: Upgrade = self.server.upgrade
        status, document = upgrade.prepare(body)
        if status == 202:
            self.close_connection = True
            self.after_answer = upgrade.carry_out
        return status, document

    def route_service(self, agent: Agent, method: str, key: str, verb: str, body: Json) -> Tuple[int, Json]:
        """Answer one instance's paths."""
        changes = {"deploy": agent.deploy, "restart": agent.restart, "stop": agent.stop}
        if verb in changes:
            self.allow(method, "POST")
            return changes[verb](key, body)
        if verb == "":
            self.allow(method, "DELETE")
            return 200, agent.delete(key)
        if verb == "status":
            self.allow(method, "GET")
            return 200, agent.status(key)
        if verb == "spec":
            self.allow(method, "GET")
            return 200, agent.spec(key)
        if verb == "logs":
            self.allow(method, "GET")
            query = self.query()
            limit = min(max(4, query.get("limit", LOG_ANSWER_BYTES)), LOG_ANSWER_LIMIT)
            if query.get("wait"):
                return 200, agent.follow_logs(key, query.get("offset", 0), limit, query["wait"])
            return 200, agent.logs(key, query.get("offset", 0), limit, query.get("tail"))
        raise ApiError(404, "not_found", "There is no such path.")

    def allow(self, method: str, allowed: str) -> None:
        if method != allowed:
            raise ApiError(405, "method_not_allowed", "Use %s on this path." % allowed)

    def query(self) -> Dict[str, int]:
        """Return the query of a log request; raise ApiError 400."""
        result: Dict[str, int] = {}
        _, _, text = self.path.partition("?")
        for pair in filter(None, text.split("&")):
            name, _, value = pair.partition("=")
            if name not in ("offset", "limit", "tail", "wait"):
                refuse_if({name: ["There is no such parameter."]})
            if not re.fullmatch(r"[0-9]{1,18}", value):
                refuse_if({name: ["Give an integer, 0 or more."]})
            result[name] = int(value)
        if result.get("wait", 0) > LOG_WAIT_SECONDS or ("wait" in result and "tail" in result):
            refuse_if({"wait": ["Give seconds from 0 to %d, and no tail with it." % LOG_WAIT_SECONDS]})
        return result


STATUS_WORDS = {
    200: "OK", 201: "Created", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    405: "Method Not Allowed", 409: "Conflict", 413: "Payload Too Large", 500: "Internal Server Error",
}  # fmt: skip


def refuse_constant(name: str) -> NoReturn:
    raise ValueError("%s is not JSON" % name)


# Made once: `json.dumps` and `json.loads` make theirs anew each time they are asked for something special.
json_text = json.JSONEncoder(ensure_ascii=False).encode
json_value = json.JSONDecoder(parse_constant=refuse_constant).decode


def parse_body(data: bytes) -> Json:
    """Return the JSON object in `data`; raise ApiError 400."""
    try:
        body = json_value(data.decode())
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_json", "The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise ApiError(400, "bad_json", "The body is not a JSON object.")
    return body


class Connections:
    """The listening socket: one thread per connection, at most CONNECTIONS. Mixed in by `make_server`."""

    allow_reuse_address = os.name != "nt"
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    client_timeout: float
    tls: Any
    token_matches: Callable[[str], bool]
    agent: Agent

    def prepare(self) -> None:
        """Set up what the connections share; called before the first is served."""
        self.slots = threading.BoundedSemaphore(CONNECTIONS)
        self.deadlines: Dict[Any, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, or close it when there are too many."""
        if self.slots.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[misc]
        else:
            self.shutdown_request(request)  # type: ignore[attr-defined]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[misc]
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong in a connection's thread; clients never see it."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            log("connection.fault %s: %s" % (type(error).__name__, error))

    def allow(self, handler: Any, seconds: float | None) -> None:
        """Give a client so long for what it has to send next; None while it waits for us.

        A socket's own timeout is not enough: a client that sends one byte now and then resets it.
        """
        if seconds is None:
            self.deadlines.pop(handler, None)
        else:
            self.deadlines[handler] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Cut off the clients that took too long; called every second or so."""
        for handler, deadline in list(self.deadlines.items()):
            if time.monotonic() > deadline:
                with contextlib.suppress(OSError):
                    handler.connection.shutdown(socket.SHUT_RDWR)


def make_server(options: Any, token: str, tls: Any, handed: int | None) -> Any:
    """Return a listening server, not yet answering; raise OSError when the address cannot be had.

    `handed` is the listening socket of the process that this one takes the place of.
    """
    # Loaded here, so that shims do without: http.server alone is twice the size of all the rest.
    import hashlib  # noqa: PLC0415
    import hmac  # noqa: PLC0415
    import http.server  # noqa: PLC0415
    import socketserver  # noqa: PLC0415

    digest = hashlib.sha256(b"Bearer " + token.encode()).digest()

    def token_matches(header: str) -> bool:
        given = hashlib.sha256(header.encode("utf-8", "replace")).digest()
        return hmac.compare_digest(given, digest)

    settings = {
        "address_family": socket.AF_INET6 if ":" in options.host else socket.AF_INET,
        "client_timeout": options.client_timeout,
        "tls": tls,
        "token_matches": staticmethod(token_matches),
    }
    server_type: Any = type("Server", (Connections, socketserver.ThreadingTCPServer), settings)
    handler_type = type("Handler", (Requests, http.server.BaseHTTPRequestHandler), {})
    server = server_type((options.host, options.port), handler_type, bind_and_activate=False)
    if handed is None:
        server.server_bind()
        server.server_activate()
    else:
        server.socket.close()
        server.socket = socket.socket(fileno=handed)
        server.socket.set_inheritable(False)
        server.server_address = server.socket.getsockname()
    server.prepare()
    return server


# --- Upgrade in place -----------------------------------------------------------------------------------

UPGRADE_FIELDS: Dict[str, Check] = {
    "sha256": (
        lambda value: is_text(value) and bool(re.fullmatch(r"[0-9a-fA-F]{64}", value)),
        "Give the SHA-256 of the source in hexadecimal.",
    ),
    "source": (
        lambda value: is_text(value) and 0 < len(value.encode()) <= BODY_LIMIT,
        "Give the text of the new file, at most 1 MiB.",
    ),
}


class Handed(NamedTuple):
    """What a process hands to the one that takes its place: file descriptors, or None."""

    listen: int | None
    done: int | None

    @classmethod
    def take(cls) -> Handed:
        """Take it out of the environment, so that no command inherits it."""
        text = os.environ.pop("INFINI_UPGRADE", "")
        match = re.fullmatch(r"(\d+) (\d*)", text)
        if not match:
            return cls(None, None)
        done = int(match.group(2)) if match.group(2) else None
        if done is not None:
            os.set_inheritable(done, False)
        return cls(int(match.group(1)), done)

    def pass_on(self) -> None:
        """Put it where `take` finds it; the descriptors stay open over the coming exec."""
        assert self.listen is not None
        os.set_inheritable(self.listen, True)
        if self.done is not None:
            os.set_inheritable(self.done, True)
        os.environ["INFINI_UPGRADE"] = "%d %s" % (self.listen, "" if self.done is None else self.done)

    def tell_started(self) -> None:
        """Tell the guard that this process has started; whether it answers, the guard asks."""
        if self.done is not None:
            with contextlib.suppress(OSError):
                os.write(self.done, b"ok")
            os.close(self.done)


class Upgrade:
    """Replaces the agent's own file and process, with a guard that brings the old file back if need be."""

    def __init__(self, server: Any, arguments: List[str], state_dir: str, tls: bool) -> None:
        self.server = server
        self.arguments = arguments
        self.state_dir = state_dir
        self.tls = tls
        self.lock = threading.Lock()
        self.file = re.sub(r"\.previous$", "", os.path.realpath(__file__))
        self.digest = self.read_digest()
        self.done = -1

    def read_digest(self) -> str:
        """Return the digest of the file that runs; empty where it cannot be read."""
        import hashlib  # noqa: PLC0415 - not loaded into shims

        with contextlib.suppress(OSError), open(self.file, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
        return ""

    def prepare(self, body: Json) -> Tuple[int, Json]:
        """Check the new file, put it in place and start the guard: (202, its version). Raise ApiError.

        What runs already is answered with 200, so that the request can be repeated.
        """
        source = checked_source(body)
        if body["sha256"].lower() == self.digest:
            return 200, {"version": VERSION}
        if os.name == "nt":
            raise ApiError(409, "not_upgradable", "On Windows the agent cannot take its own place.")
        if not self.lock.acquire(blocking=False):
            raise ApiError(409, "upgrade_running", "Another upgrade is under way.")
        try:
            version = self.put_in_place(source)
        except OSError as error:
            self.lock.release()
            message = "The agent may not replace its file %s: %s." % (self.file, error.strerror or error)
            raise ApiError(409, "not_upgradable", message) from error
        except BaseException:
            self.lock.release()
            raise
        log("upgrade.begins from=%s to=%s" % (VERSION, version))
        return 202, {"version": version}

    def put_in_place(self, source: bytes) -> str:
        """Try the new file out, keep the old one beside it, start the guard, and replace; return the version."""
        new, previous = self.file + ".new", self.file + ".previous"
        try:
            copy_as(source, self.file, new)
            version = version_of(new)
            with open(self.file, "rb") as file:
                copy_as(file.read(), self.file, previous)
            self.start_guard(previous, version)
            try:
                os.replace(new, self.file)
                sync_folder(os.path.dirname(self.file))
            except OSError:
                self.dismiss_guard()
                raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(new)
        return version

    def start_guard(self, previous: str, version: str) -> None:
        """Start the guard, from the old file: it waits for word from the new process."""
        import subprocess  # noqa: PLC0415 - not loaded into shims

        told, self.done = os.pipe()
        listen = self.server.fileno()
        host, port = self.server.server_address[:2]
        plan = {
            "process": identify(os.getpid(), self.server.agent.boot_id),
            "file": self.file,
            "previous": previous,
            "arguments": self.arguments,
            "lock": os.path.join(self.state_dir, "agent.lock"),
            "supervised": os.getppid() == 1 and bool(os.environ.get("INVOCATION_ID")),
            "listen": listen,
            "told": told,
            "address": [host, port, self.tls],
            "version": version,
        }
        try:
            subprocess.run(
                [sys.executable, previous, "--guard", json.dumps(plan)],
                stdin=subprocess.DEVNULL,
                pass_fds=[told, listen],
                start_new_session=True,
                timeout=10,
                check=True,
            )
        except subprocess.SubprocessError as error:
            os.close(self.done)
            raise OSError("its guard did not start: %s" % error) from error
        except OSError:
            os.close(self.done)
            raise
        finally:
            os.close(told)

    def dismiss_guard(self) -> None:
        """Tell the guard that nothing was changed, or that all is as it was."""
        with contextlib.suppress(OSError):
            os.write(self.done, b"no")
        os.close(self.done)

    def carry_out(self) -> None:
        """Become the new file: same process, same listening socket. Returns only when that fails."""
        agent: Agent = self.server.agent
        with agent.lock:  # nobody asks for a shim from here on
            agent.spawner.close()
            Handed(self.server.fileno(), self.done).pass_on()
            try:
                os.execv(sys.executable, [sys.executable, os.path.abspath(__file__), *self.arguments])
            except OSError as error:
                log("upgrade.failed the new file could not be executed: %s" % error)
            os.environ.pop("INFINI_UPGRADE", None)
            os.set_inheritable(self.server.fileno(), False)
            with contextlib.suppress(OSError):
                bring_back(self.file)
            self.dismiss_guard()
        self.lock.release()


def checked_source(body: Json) -> bytes:
    """Return the new file of an upgrade body; raise ApiError 400 when it is not what its digest says."""
    import hashlib  # noqa: PLC0415 - not loaded into shims

    wrong = check_fields(body, UPGRADE_FIELDS)
    wrong.update({name: [UPGRADE_FIELDS[name][1]] for name in UPGRADE_FIELDS if body.get(name) is None})
    refuse_if(wrong)
    source: bytes = body["source"].encode()
    if hashlib.sha256(source).hexdigest() != body["sha256"].lower():
        refuse_if({"sha256": ["The source has another digest."]})
    try:
        compile(source, "infini_agent.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        refuse_if({"source": ["It does not compile: %s." % error]})
    return source


def version_of(path: str) -> str:
    """Run the file with --version and return what it says; raise ApiError 400 when it does not start."""
    import subprocess  # noqa: PLC0415 - not loaded into shims

    command = [sys.executable, "-I", path, "--version"]
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        refuse_if({"source": ["It did not tell its version within 20 seconds."]})
    match = re.fullmatch(r"infini-agent (\S+)\s*", result.stdout.decode("utf-8", "replace"))
    if result.returncode or not match:
        words = result.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
        refuse_if({"source": ["It does not start on this server: %s." % (words or "it tells no version")]})
    assert match is not None
    return match.group(1)


def copy_as(data: bytes, model: str, path: str) -> None:
    """Write `data` to `path` with the mode and, where that is allowed, the owner of the file `model`."""
    like = os.stat(model)
    write_file(path, data, durable=True)
    os.chmod(path, stat.S_IMODE(like.st_mode))
    with contextlib.suppress(OSError):
        os.chown(path, like.st_uid, like.st_gid)


def bring_back(file: str) -> None:
    """Make the agent's previous file its present one again."""
    with open(file + ".previous", "rb") as previous:
        copy_as(previous.read(), file, file + ".new")
    os.replace(file + ".new", file)


def guard_main(plan: Json) -> None:
    """See that the new agent answers within UPGRADE_WITHIN seconds; else end it and start the old one."""
    if os.fork():
        os._exit(0)  # whoever started us need not wait, and leaves no zombie
    if new_agent_answers(plan, time.monotonic() + UPGRADE_WITHIN):
        return
    log("upgrade.failed the new agent did not answer in time; the previous file comes back")
    file = plan["file"]
    try:
        bring_back(file)
    except OSError as error:
        file = plan["previous"]
        log("upgrade.failed the previous file could not be put back, it runs from where it is: %s" % error)
    agent = identity_from(plan["process"])
    assert agent is not None
    until = time.monotonic() + 5
    while send_signal(agent, signal.SIGKILL, agent.boot_id) and time.monotonic() < until:
        time.sleep(0.05)
    if plan["supervised"]:
        # Its service manager starts the agent again, and needs the address for that.
        os.close(plan["listen"])
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if lock_is_held(plan["lock"]):
                return
            time.sleep(0.2)
    else:
        Handed(plan["listen"], None).pass_on()
    os.execv(sys.executable, [sys.executable, file, *plan["arguments"]])


def new_agent_answers(plan: Json, until: float) -> bool:
    """Wait for the word that the new process has started, then for its answer."""
    readable, _, _ = select.select([plan["told"]], [], [], UPGRADE_WITHIN)
    word = os.read(plan["told"], 2) if readable else b""
    if word == b"no":
        return True  # it did not come to that
    while word == b"ok" and time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            if asked_version(*plan["address"]) == plan["version"]:
                return True
        time.sleep(0.1)
    return False


def asked_version(host: str, port: int, tls: bool) -> Any:
    """Return the version that the agent at this address tells; raise OSError or ValueError."""
    import http.client  # noqa: PLC0415 - only the guard asks

    if tls:
        import ssl  # noqa: PLC0415

        # No secret is sent, and whoever answers on our own socket is our own process.
        context = ssl._create_unverified_context()  # noqa: S323
        connection: Any = http.client.HTTPSConnection(host, port, timeout=2, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            return json.loads(connection.getresponse().read()).get("version")
        except (http.client.HTTPException, AttributeError) as error:
            raise ValueError(str(error)) from error


# --- Start --------------------------------------------------------------------------------------------


def fail(message: str) -> NoReturn:
    """End with one line that says what to do."""
    sys.stderr.write("infini-agent: %s\n" % message)
    sys.stderr.flush()
    os._exit(2)


def parse_options(arguments: List[str]) -> Any:
    """Read the command line."""
    import argparse  # noqa: PLC0415 - not loaded into shims

    parser = argparse.ArgumentParser(prog="infini-agent", description="Runs Infini's instances on this server.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8888, help="port to listen on (8888); 0 takes a free one")
    parser.add_argument("--state-dir", required=True, help="directory for the state of instances")
    parser.add_argument("--token-file", help="file that holds the token (<state-dir>/token, made when missing)")
    parser.add_argument("--tls-cert", help="certificate chain, PEM")
    parser.add_argument("--tls-key", help="its private key, PEM")
    parser.add_argument("--allow-plain-http", action="store_true", help="listen beyond loopback without TLS")
    parser.add_argument("--client-timeout", type=float, default=15.0, help="seconds a client may be silent (15)")
    parser.add_argument("--version", action="version", version="infini-agent %s" % VERSION)
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        fail("--port must be from 0 to 65535.")
    if bool(options.tls_cert) != bool(options.tls_key):
        fail("give --tls-cert and --tls-key together.")
    return options


def check_exposure(options: Any) -> None:
    """Refuse to send the token in the clear over a network, unless told to."""
    loopback = options.host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", options.host)
    if not (loopback or options.tls_cert or options.allow_plain_http):
        fail(
            "%s is not a loopback address: give --tls-cert and --tls-key, "
            "or accept unencrypted traffic with --allow-plain-http." % options.host
        )


def prepare_state_dir(path: str) -> str:
    """Make the state directory ours alone and take its lock; return its real path."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        path = os.path.realpath(path)
        os.chmod(path, 0o700)
        write_file(os.path.join(path, "writable"), b"", durable=False)
        os.unlink(os.path.join(path, "writable"))
        lock = os.open(os.path.join(path, "agent.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        fail("cannot write the state directory %s: %s; name another with --state-dir." % (path, error.strerror))
    if os.name != "nt":
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            fail("another agent already uses the state directory %s; stop it first." % path)
    return path


def load_token(state_dir: str, token_file: str | None) -> str:
    """Return the token; make one of 256 bits where the state directory has none yet."""
    path = token_file or os.path.join(state_dir, "token")
    try:
        if not token_file and not os.path.exists(path):
            write_file(path, os.urandom(32).hex().encode() + b"\n", durable=True)
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    except (OSError, ValueError) as error:
        fail("cannot read the token file %s: %s." % (path, getattr(error, "strerror", "it is not text")))
    if len(token) < 16:
        fail("the token in %s is shorter than 16 characters; put a long random one there." % path)
    return token


def load_tls(options: Any) -> Any:
    """Return the TLS context of the options, None for plain HTTP."""
    if not options.tls_cert:
        return None
    import ssl  # noqa: PLC0415 - not loaded into shims

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ValueError) as error:
        fail("cannot use --tls-cert and --tls-key: %s." % error)
    return context


def main(arguments: List[str]) -> None:
    """Run the agent until it is told to end; instances go on without it."""
    if arguments[:1] == ["--spawner"]:
        return spawner_main(int(arguments[1]))
    if arguments[:1] == ["--shim"]:
        return windows_shim_main(json.loads(arguments[1]))
    if arguments[:1] == ["--guard"]:
        return guard_main(json.loads(arguments[1]))
    handed = Handed.take()
    options = parse_options(arguments)
    check_exposure(options)
    tls = load_tls(options)
    state_dir = prepare_state_dir(options.state_dir)
    token = load_token(state_dir, options.token_file)
    try:
        server = make_server(options, token, tls, handed.listen)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fail("cannot listen on %s port %d: %s." % (options.host, options.port, reason))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    server.agent = Agent(state_dir)
    server.agent.start()
    server.upgrade = Upgrade(server, arguments, state_dir, tls is not None)
    name = "[%s]" % options.host if ":" in options.host else options.host
    with contextlib.suppress(OSError):  # after an upgrade nobody may be there to read it
        print("listening on %s://%s:%d" % ("https" if tls else "http", name, server.server_address[1]), flush=True)
    handed.tell_started()
    server.serve_forever(poll_interval=1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
