"""Runs the site's programs: restarts what dies or stands still, and ends all of it for certain.

Each program leads a session of its own, so a Ctrl-C reaches only the supervisor and a whole program, with
what it forked, is one process group to kill. Instances are in none of these groups: they outlive the agent.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from infini.console import Console

GRACE_SECONDS = 3.0  # from asking programs to end until they are killed; all are gone within 5 s
STALL_CHECK_SECONDS = 10.0
STALL_GRACE_SECONDS = 60.0  # a program just started may take so long to catch up
START_ATTEMPTS = 3  # deaths of one program before the site was ready, then it is given up
CANNOT_START = 2


@dataclass(frozen=True)
class Program:
    """One thing to keep running. ``stalled`` says whether it stands still; ``ends_last`` ends after the others."""

    name: str
    argv: list[str]
    env: dict[str, str]
    cwd: Path
    stalled: Callable[[], bool] | None = None
    ends_last: bool = False


class Backoff:
    """How long to wait before the next start: 1 s, doubling to 30 s, and 1 s again after 60 s of running."""

    FIRST, MOST, STABLE = 1.0, 30.0, 60.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def after(self, ran_seconds: float) -> float:
        if ran_seconds >= self.STABLE:
            self._next = self.FIRST
        delay, self._next = self._next, min(self._next * 2, self.MOST)
        return delay


class Child:
    """A program and its present process."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: subprocess.Popen[bytes] | None = None
        self.reader: threading.Thread | None = None
        self.backoff = Backoff()
        self.started_at = 0.0
        self.start_at: float | None = 0.0  # when it is due to start; None while it runs
        self.deaths = 0
        self.asked = False

    def start(self, console: Console) -> int:
        """Start the process and follow its output; returns its process group."""
        program = self.program
        self.process = subprocess.Popen(
            program.argv,
            env=program.env,
            cwd=program.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.reader = console.follow(program.name, self.process.stdout)  # type: ignore[arg-type]
        self.started_at, self.start_at = time.monotonic(), None
        return self.process.pid

    def terminate(self) -> None:
        """Ask the leader alone, and once: it knows best how to end what it forked, and a second time can hang it."""
        if self.process and not self.asked and self.process.poll() is None:
            self.asked = True
            self.process.terminate()

    def kill(self) -> None:
        """Kill the whole group, also what a dead leader left in it."""
        if self.process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def runs_for(self) -> float:
        """Seconds since the start, 0 when it does not run."""
        alive = self.process is not None and self.start_at is None and self.process.returncode is None
        return time.monotonic() - self.started_at if alive else 0.0


class Supervisor:
    """Keeps programs running until a signal, or until somebody calls ``end``.

    ``on_end`` is called after most programs were asked to end and before those that end last are; it has a second.
    """

    def __init__(
        self,
        programs: list[Program],
        console: Console,
        *,
        on_end: Callable[[], None] = lambda: None,
        grace: float = GRACE_SECONDS,
        stall_every: float = STALL_CHECK_SECONDS,
        stall_grace: float = STALL_GRACE_SECONDS,
    ) -> None:
        self.children = [Child(program) for program in programs]
        self.console = console
        self.ready = False
        self._on_end, self._grace = on_end, grace
        self._stall_every, self._stall_grace = stall_every, stall_grace
        self._stalled: set[str] = set()
        self._exit_code = 0
        self._ending = threading.Event()
        self._asked_at = 0.0
        self._at_once = False
        self._guard: subprocess.Popen[str] | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    @property
    def ending(self) -> bool:
        return self._ending.is_set()

    def end(self, exit_code: int = 0) -> None:
        """Have ``run`` end everything and return ``exit_code``; callable from any thread."""
        if not self.ending:
            self._exit_code = exit_code
        self._ending.set()
        self._wake()

    def steady(self, seconds: float) -> bool:
        """Whether every program has run for so long."""
        return all(child.runs_for() >= seconds for child in self.children)

    def run(self, beside: Callable[["Supervisor"], None] | None = None) -> int:
        """Start everything and stay until the end; ``beside`` runs in a thread meanwhile. Main thread only."""
        with self._signals():
            self._spawn_thread(self._watch_for_stalls)
            if beside:
                self._spawn_thread(lambda: beside(self))
            try:
                while not self.ending:
                    self._look_after_all()
                    self._sleep(self._seconds_until_next_start())
            finally:
                self._end_all()
        return self._exit_code

    # Living

    def _look_after_all(self) -> None:
        self._keep_guard()
        for child in self.children:
            self._look_after(child)

    def _look_after(self, child: Child) -> None:
        if child.start_at is not None:
            if time.monotonic() >= child.start_at and not self.ending:
                self._start(child)
            return
        assert child.process is not None
        name = child.program.name
        if name in self._stalled and child.process.poll() is None:
            self.console.say(f"{name} stands still although work is due; it is killed and started again")
            child.kill()
            child.process.wait()
        self._stalled.discard(name)
        if child.process.poll() is not None:
            self._bury(child)

    def _start(self, child: Child) -> None:
        try:
            self._tell_guard(f"+{child.start(self.console)}")
        except OSError as error:
            self._plan_next_start(child, f"could not be started ({error})")

    def _bury(self, child: Child) -> None:
        """Clear away what a dead program left and plan its next start."""
        assert child.process is not None
        child.kill()
        self._tell_guard(f"-{child.process.pid}")
        self._plan_next_start(child, _ending_in_words(child.process.returncode))

    def _plan_next_start(self, child: Child, how: str) -> None:
        child.deaths += 1
        if not self.ready and child.deaths >= START_ATTEMPTS:
            self._give_up(child, how)
            return
        delay = child.backoff.after(time.monotonic() - child.started_at)
        child.start_at = time.monotonic() + delay
        self.console.say(f"{child.program.name} {how}; it starts again in {delay:g} s")

    def _give_up(self, child: Child, how: str) -> None:
        if child.reader:
            child.reader.join(0.5)
        lines = "\n".join(f"    {line}" for line in self.console.tail(child.program.name))
        self.console.say(
            f"Infini cannot start: {child.program.name} {how}, {child.deaths} times. Its last lines:\n{lines}"
        )
        child.start_at = float("inf")
        self.end(CANNOT_START)

    def _watch_for_stalls(self) -> None:
        """Ask the checks now and then. A check may hang or fail; the supervisor goes on without it."""
        while not self._ending.wait(self._stall_every):
            for child in self.children:
                check = child.program.stalled
                if check is None or child.runs_for() < self._stall_grace:
                    continue
                try:
                    stalled = check()
                except Exception as error:  # noqa: BLE001  (whatever is wrong with a check, it must not end the watch)
                    self.console.say(f"cannot tell whether {child.program.name} stands still: {error}")
                    continue
                if stalled and child.runs_for() >= self._stall_grace:
                    self._stalled.add(child.program.name)
                    self._wake()

    # Ending

    def _end_all(self) -> None:
        """Ask, wait, kill. A second interrupt kills at once."""
        self._ending.set()
        deadline = time.monotonic() + self._grace
        for child in self.children:
            if not child.program.ends_last:
                child.terminate()
        hook = self._spawn_thread(self._on_end)
        while hook.is_alive() and time.monotonic() < deadline - self._grace + 1 and not self._at_once:
            hook.join(0.05)
        for child in self.children:
            child.terminate()
        while not self._at_once and time.monotonic() < deadline and self._alive():
            self._sleep(max(0.0, min(0.1, deadline - time.monotonic())))
        for child in self._alive():
            self.console.say(f"{child.program.name} did not end when asked and is killed")
        for child in self.children:
            child.kill()
            if child.process:
                child.process.wait()
            if child.reader:
                child.reader.join(0.1)
        self._dismiss_guard()

    def _alive(self) -> list[Child]:
        return [child for child in self.children if child.process and child.process.poll() is None]

    # The guard

    def _keep_guard(self) -> None:
        """Start the guard, again should it die, and tell it what there is."""
        if self._guard and self._guard.poll() is None:
            return
        argv = [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))]
        self._guard = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True, cwd="/"
        )
        for child in self.children:
            if child.process and child.start_at is None:
                self._tell_guard(f"+{child.process.pid}")

    def _tell_guard(self, line: str) -> None:
        assert self._guard is not None and self._guard.stdin is not None
        with contextlib.suppress(OSError):  # a dead guard is started again in a moment and told all
            self._guard.stdin.write(line + "\n")
            self._guard.stdin.flush()

    def _dismiss_guard(self) -> None:
        """Everything is gone: so may the guard. It kills what is noted still, which is dead."""
        if self._guard is None or self._guard.stdin is None:
            return
        for child in self.children:
            if child.process and child.start_at is None:
                self._tell_guard(f"-{child.process.pid}")
        with contextlib.suppress(OSError):
            self._guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(0.2)

    # Signals and waiting

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn signals into bytes on a pipe, so that one wait sees all that can happen."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: object) -> None:
        """The first ends, a Ctrl-C after it kills. One may arrive twice at once: `timeout` sends it so."""
        now = time.monotonic()
        if self.ending:
            self._at_once = number == signal.SIGINT and now - self._asked_at > 0.3
        else:
            self._asked_at = now
            self._ending.set()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def _sleep(self, seconds: float) -> None:
        if select.select([self._wake_read], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _seconds_until_next_start(self) -> float:
        """A second at most: a lost wake-up then costs no more."""
        due = [child.start_at - time.monotonic() for child in self.children if child.start_at is not None]
        return max(0.0, min([1.0, *due]))

    def _spawn_thread(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread


def _ending_in_words(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
