"""`run` against a real sshd: what a command gets, what comes back, and that nothing is left of a stopped one."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from infini.errors import Invalid
from inventory.ssh import scripts
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import run
from inventory.ssh.errors import SshConnectionLost
from tests.real_agent import is_running, wait_until
from tests.real_sshd import RealSshd


def test_output_error_and_exit_status_come_back_apart(access: SshAccess) -> None:
    result = run(access, "echo out; echo err >&2; exit 3")
    assert (result.output, result.error, result.exit_status, result.success) == ("out\n", "err\n", 3, False)
    assert not result.signal and not result.timed_out and not result.cancelled and not result.truncated_bytes
    assert result.started_at <= result.finished_at and result.started_at.tzinfo
    assert run(access, "true").success


def test_it_is_a_login_shell_in_a_session_of_its_own(access: SshAccess) -> None:
    told = run(access, 'shopt -q login_shell && echo login; echo $$ $(cut -d" " -f5,6 /proc/$$/stat)').output.split()
    assert told[0] == "login" and told[1] == told[2] == told[3]


def test_what_the_accounts_own_shell_is_given_is_a_line_that_csh_takes_too() -> None:
    for line in (scripts.start("0" * 32), scripts.end(12, "0" * 32, 3)):
        assert not set(line) & set("\n!") and line.startswith("exec /bin/sh ") and line.count("'") in (0, 2)


def test_a_command_ended_by_a_signal_tells_which(access: SshAccess) -> None:
    result = run(access, "kill -TERM $$")
    assert (result.signal, result.exit_status, result.success) == ("TERM", None, False)


ODD_VALUES = {
    "QUOTES": 'it\'s "so" `x`',
    "SCRIPT": "$(touch /tmp/never) ${HOME} $HOME; exit 9 # & | > <",
    "LINES": "one\ntwo\n\nfour\n",
    "WIDE": "你好, wörld 🚀 \\n \\x41 %s !!",
    "EMPTY": "",
    "BLANKS": "  lead and trail\t ",
    "BYTES": "".join(map(chr, range(1, 32))),
}


def test_the_environment_arrives_as_it_was_given(access: SshAccess) -> None:
    names = " ".join(ODD_VALUES)
    command = f'for name in {names}; do printf "%s\\0" "${{!name}}"; done'
    assert run(access, command, environment=ODD_VALUES).output.split("\0")[:-1] == list(ODD_VALUES.values())


def test_the_environment_shows_in_no_process_list(access: SshAccess) -> None:
    result = run(access, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", environment={"SECRET": "canary-77"})
    assert result.success and "canary-77" not in result.output


@pytest.mark.parametrize("name", ["A-B", "1A", "A B", "A=B", "", "A\n", "Ä", "$(id)"])
def test_what_is_no_name_of_a_variable_is_refused_before_anything_runs(access: SshAccess, name: str) -> None:
    with pytest.raises(Invalid):
        run(access, "true", environment={name: "x"})


def test_a_nul_character_is_refused(access: SshAccess) -> None:
    with pytest.raises(Invalid):
        run(access, "echo \0")


@pytest.mark.parametrize("size", [64 * 1024, 400 * 1024])
def test_a_long_command_runs_whole_and_leaves_no_file(access: SshAccess, size: int) -> None:
    line = "true '\"$x\"' # 你好\n"
    before = set(os.listdir("/tmp"))
    result = run(access, line * (size // len(line)) + "echo end $#; exit 5")
    assert (result.output, result.error, result.exit_status) == ("end 0\n", "", 5)
    assert not {name for name in set(os.listdir("/tmp")) - before if name.startswith("tmp.")}


@pytest.mark.parametrize("size", [0, 11, 3 * 1024 * 1024])
def test_input_is_read_to_its_end(access: SshAccess, size: int) -> None:
    assert run(access, "wc -c", stdin=b"x" * size).output.strip() == str(size)


def test_input_nobody_reads_holds_nothing_up(access: SshAccess) -> None:
    began = time.monotonic()
    assert run(access, "echo done", stdin=b"x" * 5_000_000).output == "done\n"
    assert time.monotonic() - began < 5


def test_characters_split_between_two_pieces_arrive_whole(access: SshAccess) -> None:
    pieces: list[bytes] = []
    script = r"printf '\xe4\xbd'; sleep 0.2; printf '\xa0'; printf '\xf0\x9f'; sleep 0.2; printf '\x9a\x80'"
    result = run(access, script, on_output=lambda _stream, piece: pieces.append(piece))
    assert result.output == "你🚀" and len(pieces) >= 3 and b"".join(pieces).decode() == "你🚀"


def test_what_is_no_text_is_replaced(access: SshAccess) -> None:
    assert run(access, r"printf 'a\xff\xfeb'").output == "a\ufffd\ufffdb"


def test_a_huge_output_is_drained_in_flat_memory_and_kept_as_head_and_tail(access: SshAccess) -> None:
    run(access, "true")
    process = psutil.Process()
    before = most = process.memory_info().rss
    total = 0

    def watch(_stream: str, piece: bytes) -> None:
        nonlocal most, total
        total += len(piece)
        if total % 50 == 0:
            most = max(most, process.memory_info().rss)

    command = "echo FIRST; head -c 1073741824 /dev/zero; echo LAST"
    result = run(access, command, output_max_bytes=64 * 1024, on_output=watch, timeout_seconds=120)
    assert result.success and total == 1073741824 + len("FIRST\nLAST\n")
    assert result.output.startswith("FIRST\n") and result.output.endswith("LAST\n")
    assert f"[... {result.truncated_bytes} bytes cut ...]" in result.output
    assert result.truncated_bytes == total - 64 * 1024
    assert max(most, process.memory_info().rss) - before < 20 * 1024 * 1024


def test_a_cut_goes_through_no_character(access: SshAccess) -> None:
    result = run(access, "for i in $(seq 1000); do printf 你; done", output_max_bytes=100)
    assert "\ufffd" not in result.output and result.truncated_bytes == 2900 and result.output.count("你") == 32


def test_a_slow_reader_of_the_output_slows_the_command_down(access: SshAccess) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    started = threading.Event()

    def slowly(_stream: str, _piece: bytes) -> None:
        if not started.is_set():
            started.set()
            time.sleep(1)

    assert run(access, "head -c 60000000 /dev/zero", on_output=slowly, output_max_bytes=10).success
    assert process.memory_info().rss - before < 20 * 1024 * 1024


# Its child ignores TERM, another runs in a session of its own, a third was left by a parent that ended.
STUBBORN = """
trap '' TERM
echo $$ >{folder}/pids
bash -c 'trap "" TERM; echo $$ >>{folder}/pids; while :; do sleep 300; done' &
setsid bash -c 'echo $$ >>{folder}/pids; exec sleep 300' &
(setsid bash -c 'echo $$ >>{folder}/pids; trap "" TERM; while :; do sleep 301; done' & )
echo started
wait
sleep 302
"""


def pids_in(folder: Path, count: int) -> list[int]:
    return wait_until(lambda: p if len(p := (folder / "pids").read_text().split()) >= count else None) and [
        int(pid) for pid in (folder / "pids").read_text().split()
    ]


def test_a_command_past_its_time_is_ended_with_all_it_started(access: SshAccess, tmp_path: Path) -> None:
    result = run(access, STUBBORN.format(folder=tmp_path), timeout_seconds=1)
    assert result.timed_out and not result.cancelled and not result.success and result.output == "started\n"
    pids = pids_in(tmp_path, 4)
    assert not [pid for pid in pids if is_running(pid)]


def test_a_cancelled_command_is_ended_with_all_it_started(access: SshAccess, tmp_path: Path) -> None:
    cancelled = threading.Event()

    def cancel(_stream: str, piece: bytes) -> None:
        if b"started" in piece:
            pids_in(tmp_path, 4)
            cancelled.set()

    result = run(access, STUBBORN.format(folder=tmp_path), on_output=cancel, cancelled=cancelled)
    assert result.cancelled and not result.timed_out and not result.success
    assert not [pid for pid in pids_in(tmp_path, 4) if is_running(pid)]


def test_a_command_is_ended_where_one_session_is_all_there_is(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd(max_sessions=1) as own:
        result = run(access_to(own), "echo $$; sleep 300", timeout_seconds=0.5)
        assert result.timed_out and not is_running(int(result.output))


def test_a_command_that_obeys_is_ended_at_once_and_says_its_last_words(access: SshAccess) -> None:
    began = time.monotonic()
    result = run(access, "trap 'echo bye; exit 7' TERM; echo on; sleep 100 & wait", timeout_seconds=0.5)
    assert result.timed_out and result.output == "on\nbye\n" and result.exit_status == 7
    assert time.monotonic() - began < 3


def test_nothing_runs_on_when_whoever_takes_the_output_fails(access: SshAccess) -> None:
    pids: list[int] = []

    def fail(_stream: str, piece: bytes) -> None:
        pids.append(int(piece))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(access, "echo $$; sleep 300", on_output=fail)
    assert len(pids) == 1 and not is_running(pids[0])


def test_a_command_cancelled_before_it_began_does_not_run_on(access: SshAccess, tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    result = run(access, f"echo $$ >{tmp_path}/pid; sleep 100", cancelled=cancelled)
    assert result.cancelled
    if (tmp_path / "pid").exists():
        assert not is_running(int((tmp_path / "pid").read_text()))


def test_what_a_command_leaves_in_the_background_goes_on_and_is_not_waited_for(
    access: SshAccess, tmp_path: Path
) -> None:
    began = time.monotonic()
    result = run(access, f"sleep 30 & echo $! >{tmp_path}/pid; echo done")
    assert result.success and result.output == "done\n" and time.monotonic() - began < 5
    pid = int((tmp_path / "pid").read_text())
    assert is_running(pid)
    psutil.Process(pid).kill()


def test_output_that_comes_with_the_end_is_taken_however_often_one_looks(
    access: SshAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end may come between a look in vain and the question whether it ended."""
    monkeypatch.setattr("inventory.ssh.commands._LOOK_SECONDS", 0.0)
    told = [run(access, "echo hi", cancelled=threading.Event()).output for _ in range(10)]
    assert told == ["hi\n"] * 10


def test_output_that_flows_on_after_the_end_is_taken(access: SshAccess) -> None:
    result = run(access, "(for i in 1 2 3 4 5; do echo $i; sleep 0.1; done) & exit 0")
    assert result.output.split() == ["1", "2", "3", "4", "5"]


def test_a_connection_cut_in_mid_run_is_told_as_unknown(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd() as own:
        access = access_to(own)

        def cut(_stream: str, piece: bytes) -> None:
            if b"started" in piece:
                own.kill_connections()

        with pytest.raises(SshConnectionLost, match=r"gpu-1 .*unknown"):
            run(access, "echo started; sleep 5", on_output=cut)
        assert run(access, "echo again").output == "again\n"


def test_an_account_that_may_run_nothing_says_so_itself(access_to: Callable[..., SshAccess]) -> None:
    with RealSshd("ForceCommand echo only this; exit 4") as own:
        result = run(access_to(own), "echo never")
    assert (result.output, result.exit_status) == ("only this\n", 4)


FORCED = """#!/bin/sh
case "$SSH_ORIGINAL_COMMAND" in
  *" -s "*) eval "$SSH_ORIGINAL_COMMAND" ;;
  *) head -c 9000 /dev/zero; exec sleep 5 ;;
esac
"""


def test_stopping_what_never_told_its_process_harms_nobody(access_to: Callable[..., SshAccess], tmp_path: Path) -> None:
    """Session 0 is that of kernel threads, and in a container of everybody from outside."""
    assert " none " in scripts.end(0, "0" * 32, 3)
    (tmp_path / "forced").write_text(FORCED)
    (tmp_path / "forced").chmod(0o755)
    with RealSshd(f"ForceCommand {tmp_path}/forced") as own:
        began = time.monotonic()
        result = run(access_to(own), "never", timeout_seconds=0.7, output_max_bytes=100)
        assert result.timed_out and not result.error and time.monotonic() - began < 4
