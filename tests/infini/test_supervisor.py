"""The supervisor with real processes: what dies comes back, and nothing is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infini.console import Console, LogFile
from infini.supervisor import Backoff

ROOT = Path(__file__).resolve().parents[2]

RUNNER = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from infini.console import Console
from infini.supervisor import Program, Supervisor

work = Path({work!r})
programs = [
    Program(name, [sys.executable, "-c", code], dict(os.environ), work, stalled=stalled)
    for name, code, stalled in eval({programs!r})
]
console = Console(work, [p.name for p in programs])
site = Supervisor(programs, console, grace={grace}, stall_every=0.2, stall_grace=0.5)
site.ready = {ready}
code = site.run(lambda s: console.say("running"))
console.close()
sys.exit(code)
"""

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('stubborn', flush=True); time.sleep(600)"
)
FORKS = """
import os, time
for _ in range(2):
    if os.fork() == 0:
        break
os.write(1, b'up\\n')
time.sleep(600)
"""
LEAVES = """
import os, time
if os.fork() == 0:
    os.setsid()
    print('left', os.getpid(), flush=True)
time.sleep(600)
"""


class Running:
    """A supervisor as a process of its own; ``programs`` is the text of a list of (name, code, stalled)."""

    def __init__(self, work: Path, programs: str, *, grace: float = 3.0, ready: bool = True) -> None:
        code = RUNNER.format(root=str(ROOT), work=str(work), programs=programs, grace=grace, ready=ready)
        self.work = work
        self.output = work / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen([sys.executable, "-c", code], stdout=output)

    def text(self) -> str:
        return self.output.read_text()

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def programs(self) -> list[psutil.Process]:
        return [child for child in self.tree() if "guard.py" not in " ".join(child.cmdline())]

    def wait_for(self, text: str, times: int = 1, seconds: float = 20) -> str:
        wait_until(lambda: self.text().count(text) >= times, seconds, lambda: f"no {text!r} in {self.text()!r}")
        return self.text()


def wait_until(holds: Callable[[], bool], seconds: float = 10, what: Callable[[], str] = lambda: "") -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what()
        time.sleep(0.02)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(programs: list[tuple[str, str]] | str, **options: object) -> Running:
        text = programs if isinstance(programs, str) else repr([(name, code, None) for name, code in programs])
        started.append(Running(tmp_path, text, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            left = running.tree()
            running.process.kill()
            running.process.wait()
            for process in left:
                if lives(process):
                    process.kill()


def test_what_dies_is_started_again_and_lines_carry_names(supervise: Callable[..., Running]) -> None:
    running = supervise([("web", SLEEPS), ("worker", SLEEPS)])
    running.wait_for("| up", times=2)
    web = min(running.programs(), key=lambda p: p.pid)
    web.kill()
    text = running.wait_for("| up", times=3)
    assert "web    | up\n" in text and "worker | up\n" in text
    assert "web was ended by SIGKILL; it starts again in 1 s" in text
    assert (running.work / "web.log").read_text() == "up\nup\n"
    assert len(running.programs()) == 2


def test_a_dead_leader_takes_its_group_along(supervise: Callable[..., Running]) -> None:
    running = supervise([("worker", FORKS)])
    running.wait_for("| up", times=3)
    before = running.programs()
    leader = min(before, key=lambda p: p.pid)
    leader.kill()
    running.wait_for("| up", times=6)
    assert not [process for process in before if lives(process)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_all_ends_within_five_seconds_though_one_ignores_it(supervise: Callable[..., Running], number: int) -> None:
    running = supervise([("web", SLEEPS), ("worker", STUBBORN)])
    running.wait_for("| up")
    running.wait_for("| stubborn")
    tree = running.tree()
    begun = time.monotonic()
    running.process.send_signal(number)
    assert running.process.wait(10) == 0
    assert time.monotonic() - begun < 5
    assert not [process for process in tree if lives(process)]
    assert "worker did not end when asked and is killed" in running.text()
    assert "web did not end" not in running.text()


def test_a_second_interrupt_kills_at_once(supervise: Callable[..., Running]) -> None:
    running = supervise([("worker", STUBBORN)], grace=30)
    running.wait_for("| stubborn")
    tree = running.tree()
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    begun = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(10) == 0
    assert time.monotonic() - begun < 1.5
    assert not [process for process in tree if lives(process)]


def test_one_interrupt_sent_twice_at_once_is_one(supervise: Callable[..., Running]) -> None:
    tidy = "lambda *_: (time.sleep(1), print('tidy'), sys.exit())"
    slow = f"import signal, sys, time; signal.signal(signal.SIGTERM, {tidy});"
    running = supervise([("worker", slow + SLEEPS)])
    running.wait_for("| up")
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGINT)
    running.process.wait(10)
    assert "worker | tidy" in running.text()


def test_nothing_is_left_when_the_supervisor_is_killed(supervise: Callable[..., Running]) -> None:
    running = supervise([("web", SLEEPS), ("worker", FORKS), ("monitor", STUBBORN)])
    running.wait_for("| up", times=4)
    running.wait_for("| stubborn")
    tree = running.tree()
    assert len(tree) == 6  # three programs, two forks, the guard
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not [p for p in tree if lives(p)], 5, lambda: f"left: {[p for p in tree if lives(p)]}")


def test_a_killed_guard_is_replaced_and_guards(supervise: Callable[..., Running]) -> None:
    running = supervise([("worker", FORKS)])
    running.wait_for("| up", times=3)
    guard = next(p for p in running.tree() if "guard.py" in " ".join(p.cmdline()))
    guard.kill()
    wait_until(lambda: any(p != guard and lives(p) and "guard.py" in " ".join(p.cmdline()) for p in running.tree()))
    time.sleep(0.2)
    tree = running.tree()
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not [p for p in tree if lives(p)], 5)


def test_what_left_its_session_outlives_the_supervisor(supervise: Callable[..., Running]) -> None:
    running = supervise([("agent", LEAVES)])
    text = running.wait_for("left ")
    instance = psutil.Process(int(text.split("left ")[1].split()[0]))
    try:
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert lives(instance)
    finally:
        instance.kill()


def test_what_stands_still_is_killed_and_started_again(supervise: Callable[..., Running]) -> None:
    flag = "(work / 'stalled')"
    unlink = f"(lambda: {flag}.exists() and ({flag}.unlink() or True))"
    running = supervise(f"[('worker', {STUBBORN!r}, {unlink}), ('web', {SLEEPS!r}, None)]")
    running.wait_for("| stubborn")
    (running.work / "stalled").touch()
    text = running.wait_for("| stubborn", times=2)
    assert "worker stands still although work is due; it is killed and started again" in text
    assert text.count("web    | up") == 1


def test_a_check_that_hangs_or_fails_stops_nothing(supervise: Callable[..., Running]) -> None:
    programs = f"[('web', {SLEEPS!r}, (lambda: 1 / 0)), ('worker', {SLEEPS!r}, (lambda: __import__('time').sleep(60)))]"
    running = supervise(programs)
    running.wait_for("cannot tell whether web stands still: division by zero")
    running.process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    assert running.process.wait(10) == 0
    assert time.monotonic() - begun < 2


def test_a_program_that_cannot_start_ends_all_with_its_last_lines(supervise: Callable[..., Running]) -> None:
    running = supervise([("web", "import sys; sys.exit('no such table')"), ("worker", SLEEPS)], ready=False)
    assert running.process.wait(20) == 2
    assert (
        "Infini cannot start: web ended with exit code 1, 3 times. Its last lines:\n    no such table" in running.text()
    )


def test_backoff_doubles_to_thirty_seconds_and_forgets_after_a_stable_minute() -> None:
    backoff = Backoff()
    assert [backoff.after(1) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert [backoff.after(60), backoff.after(1)] == [1, 2]


def test_a_terminal_that_takes_nothing_stops_no_program(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    console = Console(tmp_path, ["web"], descriptor=writing)
    program = subprocess.Popen([sys.executable, "-c", "for i in range(40000): print('x' * 50)"], stdout=subprocess.PIPE)
    assert program.stdout is not None
    console.follow("web", program.stdout).join(20)  # type: ignore[arg-type]
    assert program.wait(20) == 0
    assert (tmp_path / "web.log").stat().st_size == 40000 * 51
    begun = time.monotonic()
    console.close()
    assert time.monotonic() - begun < 2
    os.close(reading)
    os.close(writing)


def test_lines_wait_while_we_speak_alone(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    console = Console(tmp_path, ["web"], descriptor=writing)
    with console.alone():
        console.say("one ", end="")
        console._take("web", b"GET /\n")
        console.say("two")
    console.close()
    assert os.read(reading, 1000) == b"one two\nweb | GET /\n"
    os.close(reading)
    os.close(writing)


def test_log_files_are_cut_at_their_size(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "web.log", max_bytes=100)
    for number in range(30):
        log.write(f"line {number:03}\n".encode())
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["web.log", "web.log.1"]
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 100
    assert (tmp_path / "web.log").read_text().endswith("line 029\n")


def test_supervisor_and_guard_import_nothing_of_django() -> None:
    code = "import sys, infini.supervisor; sys.exit(any(name.startswith('django') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT).returncode == 0
