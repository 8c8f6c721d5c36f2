"""The log: offsets, rotation, characters cut in two, and floods."""

from __future__ import annotations

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
