"""The log: offsets, rotation, characters cut in two, and floods."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real_agent import RealAgent, wait_until


def read(agent: RealAgent, key: str, query: str) -> dict:
    status, answer = agent.request("GET", f"/service/{key}/logs?{query}")
    assert status == 200, answer
    return answer


def test_reading_on_by_offset(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "seq 1 1000")
    shared.wait_for_phase(key, "succeeded")
    expected = "".join(f"{number}\n" for number in range(1, 1001))
    text, offset = "", 0
    while True:
        answer = read(shared, key, f"offset={offset}&limit=700")
        assert answer["offset"] == offset
        assert answer["size"] == len(expected)
        if not answer["data"]:
            break
        text += answer["data"]
        offset = answer["next_offset"]
    assert text == expected
    assert read(shared, key, "offset=999999")["next_offset"] == len(expected)


def test_tail(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "printf 'one\\ntwo\\nthree'")
    shared.wait_for_phase(key, "succeeded")
    assert read(shared, key, "tail=2") == {"offset": 4, "next_offset": 13, "size": 13, "data": "two\nthree"}
    assert read(shared, key, "tail=0")["data"] == ""
    assert read(shared, key, "tail=99")["data"] == "one\ntwo\nthree"


def test_a_piece_ends_between_characters(shared: RealAgent, key: str) -> None:
    text = "aé漢😀" * 50
    shared.deploy(key, 'printf %s "$TEXT"', env={"TEXT": text})
    shared.wait_for_phase(key, "succeeded")
    for limit in (4, 5, 6, 7, 64):
        found, offset = "", 0
        while offset < len(text.encode()):
            answer = read(shared, key, f"offset={offset}&limit={limit}")
            assert answer["next_offset"] > offset
            found, offset = found + answer["data"], answer["next_offset"]
        assert found == text


def test_a_character_that_is_still_being_written_is_waited_for(shared: RealAgent, key: str) -> None:
    shared.deploy(key, r"printf 'a\xe6\xbc'; sleep 600")
    wait_until(lambda: read(shared, key, "")["size"] == 3)
    answer = read(shared, key, "offset=0")
    assert (answer["data"], answer["next_offset"]) == ("a", 1)
    assert read(shared, key, "offset=1")["data"] == ""
    shared.request("POST", f"/service/{key}/stop")
    assert read(shared, key, "offset=1") == {"offset": 1, "next_offset": 3, "size": 3, "data": "\ufffd"}


def test_binary_output_is_replaced_not_refused(shared: RealAgent, key: str) -> None:
    shared.deploy(key, r"printf '\xff\x00ok\n'")
    shared.wait_for_phase(key, "succeeded")
    assert read(shared, key, "")["data"] == "\ufffd\0ok\n"


def test_a_flood_is_rotated_and_offsets_stay_valid(agent: RealAgent) -> None:
    lines = 500_000
    agent.deploy("a", f"seq -f 'line %096.0f' 1 {lines}")
    agent.wait_for_phase("a", "succeeded", seconds=30)
    width = len("line ") + 96 + 1
    size = read(agent, "a", "tail=1")["size"]
    assert size == lines * width
    stored = sum(path.stat().st_size for path in (agent.state_dir / "instances" / "a").glob("log.*"))
    assert 20_000_000 < stored < 32_000_000
    number = lines - 1000
    answer = read(agent, "a", f"offset={(number - 1) * width}&limit={width}")
    assert answer["data"] == f"line {number:096d}\n"
    gone = read(agent, "a", "offset=0&limit=1000")
    assert gone["offset"] == size - stored
    assert gone["next_offset"] == gone["offset"] + 1000
    across = read(agent, "a", f"offset={size - stored}&limit=1000000")
    assert across["next_offset"] - across["offset"] == 1_000_000
    assert agent.status("a")["log_tail"] == [f"line {n:096d}" for n in range(lines - 39, lines + 1)]


def test_an_endless_flood_can_be_stopped(agent: RealAgent) -> None:
    agent.deploy("a", "yes this is far too much output")
    wait_until(lambda: read(agent, "a", "tail=1")["size"] > 1_000_000)
    status, answer = agent.request("POST", "/service/a/stop")
    assert (status, answer["phase"]) == (200, "stopped")


# Following


def test_following_answers_when_there_is_more(shared: RealAgent, key: str, tmp_path: Path) -> None:
    shared.deploy(key, f"echo one; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo two; sleep 600")
    first = read(shared, key, "offset=0&wait=10")
    assert (first["data"], first["next_offset"]) == ("one\n", 4)
    began = time.monotonic()
    assert read(shared, key, "offset=0&wait=10")["data"] == "one\n"
    assert time.monotonic() - began < 0.5, "what is there is answered at once"
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(read, shared, key, "offset=4&wait=10")
        time.sleep(0.5)
        assert not following.done()
        began = time.monotonic()
        (tmp_path / "go").touch()
        assert following.result() == {"offset": 4, "next_offset": 8, "size": 8, "data": "two\n"}
        assert time.monotonic() - began < 1


def test_following_ends_when_the_time_is_over(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "sleep 600")
    began = time.monotonic()
    assert read(shared, key, "offset=0&wait=1") == {"offset": 0, "next_offset": 0, "size": 0, "data": ""}
    assert 1 <= time.monotonic() - began < 2


def test_following_goes_on_into_the_next_run(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "echo first")
    shared.wait_for_phase(key, "succeeded")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(read, shared, key, "offset=6&wait=10")
        time.sleep(0.3)
        shared.deploy(key, "echo second")
        assert following.result()["data"] == "second\n"


def test_following_what_is_deleted_is_404(shared: RealAgent, key: str) -> None:
    shared.deploy(key, "true")
    shared.wait_for_phase(key, "succeeded")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(shared.request, "GET", f"/service/{key}/logs?offset=0&wait=10")
        time.sleep(0.3)
        assert shared.request("DELETE", f"/service/{key}")[0] == 200
        assert following.result()[0] == 404


@pytest.mark.parametrize("query", ["wait=26", "wait=-1", "wait=0.5", "wait=1&tail=3"])
def test_following_is_checked(shared: RealAgent, key: str, query: str) -> None:
    shared.deploy(key, "true")
    assert shared.request("GET", f"/service/{key}/logs?{query}")[0] == 400


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_many_who_follow_cost_next_to_nothing(agent: RealAgent) -> None:
    for number in range(20):
        agent.deploy(f"i{number}", "exec sleep 600")
    wait_until(lambda: all(entry["ready"] for entry in agent.request("GET", "/services")[1]["services"]))
    threads = Path(f"/proc/{agent.pid}/task")

    def idle() -> float:
        before = cpu_seconds(agent.pid)
        time.sleep(2)
        return (cpu_seconds(agent.pid) - before) / 2

    alone = idle()
    with ThreadPoolExecutor(20) as pool:
        following = [pool.submit(read, agent, f"i{number}", "offset=0&wait=4") for number in range(20)]
        wait_until(lambda: len(list(threads.iterdir())) >= 22)
        with_them = idle()
        assert not any(entry.done() for entry in following)
    print(f"idle {100 * alone:.1f} % of a core, with 20 who follow {100 * with_them:.1f} %")
    assert with_them - alone < 0.03
    wait_until(lambda: len(list(threads.iterdir())) <= 3, 5, "nobody looks when nobody waits")
