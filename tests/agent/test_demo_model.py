"""The demo model as a real process, spoken to over HTTP as any client would."""

from __future__ import annotations

import ast
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

SCRIPT = Path(__file__).resolve().parents[2] / "agent" / "demo_model.py"
NOTICE = "This is Infini's demo model: a tiny n-gram model of the project's documents, not a real assistant."
HELLO = [{"role": "user", "content": "How do I deploy a service?"}]


class Demo:
    """A running demo model and its log."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line + log.read_text()
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def log(self) -> str:
        return self._log.read_text()

    def wait_for_log(self, text: str, seconds: float = 5) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if text in self.log():
                return self.log()
            time.sleep(0.01)
        raise AssertionError(f"{text!r} never came:\n{self.log()}")

    def client(self, key: str = "unused") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def post(self, path: str = "/v1/chat/completions", **options: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=10, **options)

    def ask(self, **body: Any) -> dict[str, Any]:
        answer = self.post(json={"messages": HELLO, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def text(self, **body: Any) -> str:
        return self.ask(**body)["choices"][0]["message"]["content"]


@contextlib.contextmanager
def running(folder: Path, *arguments: str, script: Path = SCRIPT) -> Iterator[Demo]:
    log = folder / f"demo-{time.monotonic_ns()}.log"
    command = [sys.executable, str(script), "--port", "0", *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield Demo(process, log)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """An unpaced model that stands alone, so that it knows its built-in text and nothing else."""
    folder = tmp_path_factory.mktemp("fast")
    with running(folder, "--rate", "0", script=Path(shutil.copy(SCRIPT, folder))) as demo:
        yield demo


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running(tmp_path_factory.mktemp("paced"), "--rate", "100") as demo:
        yield demo


def events(answer: requests.Response) -> list[Any]:
    """The payloads of a stream of server-sent events, with the shape of each event checked."""
    *blocks, rest = answer.text.split("\n\n")
    assert rest == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    payloads = [block[len("data: ") :] for block in blocks]
    assert payloads.pop() == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def error_of(answer: requests.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error


# What it is


def test_says_what_it_is(fast: Demo) -> None:
    for content in ("Who are you?", "zzz qqq", "", "如何部署服务？"):
        text = fast.text(messages=[{"role": "user", "content": content}])
        assert text.startswith(NOTICE)
        assert len(text) > len(NOTICE) + 10
    [model] = requests.get(f"{fast.url}/v1/models", timeout=5).json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("infini-demo", "model", "infini-demo")


def test_health(fast: Demo) -> None:
    answer = requests.get(f"{fast.url}/health", timeout=5)
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert requests.head(f"{fast.url}/health", timeout=5).status_code == 200


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Which placeholders are there?", "placeholders"),
        ("What may an administrator do?", "administrator"),
        ("Tell me about memory", "emory"),
        ("加速卡有什么？", "加速卡"),
    ],
)
def test_answer_turns_around_the_question(fast: Demo, question: str, word: str) -> None:
    text = fast.text(messages=[{"role": "user", "content": question}])
    assert word in text.removeprefix(NOTICE)


def test_corpus_is_learnt(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "zoo.md").write_text(
        "# Zoo\n\nThe giraffe of the **northern** zoo eats [green](http://x) leaves at noon.\n\n"
        "```\ngiraffe --never-this\n```\n\n| giraffe | nor this |\n"
    )
    with running(tmp_path, "--rate", "0", "--corpus", str(tmp_path / "docs")) as demo:
        text = demo.text(messages=[{"role": "user", "content": "giraffe?"}], temperature=0)
    assert " The giraffe of the northern zoo eats green leaves at noon." in text
    assert "this" not in text.removeprefix(NOTICE)


def test_default_corpus_is_the_project(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "README.md").write_text("Walruses sing in the northern sea at dawn.\n")
    (tmp_path / "docs" / "deep" / "more.md").write_text("Pelicans fly over the southern bay at dusk.\n")
    script = Path(shutil.copy(SCRIPT, tmp_path / "agent"))
    with running(tmp_path, "--rate", "0", script=script) as demo:
        for word in ("Walruses", "Pelicans"):
            assert word in demo.text(messages=[{"role": "user", "content": word}])


# The answer


def test_whole_answer(fast: Demo) -> None:
    answer = fast.ask()
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "infini-demo"
    [choice] = answer["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    usage = answer["usage"]
    assert usage["prompt_tokens"] == 7
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_stream_has_role_words_reason_usage(fast: Demo) -> None:
    body = {"messages": HELLO, "stream": True, "seed": 5, "stream_options": {"include_usage": True}}
    answer = fast.post(json=body)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache"
    *chunks, usage = events(answer)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    words = [chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1]]
    assert "".join(words) == fast.text(seed=5)
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(words)


def test_stream_without_usage(fast: Demo) -> None:
    for chunk in events(fast.post(json={"messages": HELLO, "stream": True})):
        assert "usage" not in chunk
        assert len(chunk["choices"]) == 1


def test_text_completions(fast: Demo) -> None:
    body = {"prompt": "An agent keeps", "seed": 1}
    whole = fast.post("/v1/completions", json=body).json()
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"].startswith(NOTICE)
    assert whole["usage"]["prompt_tokens"] == 3
    chunks = events(fast.post("/v1/completions", json={**body, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_official_client(fast: Demo) -> None:
    client = fast.client()
    assert [model.id for model in client.models.list()] == ["infini-demo"]
    whole = client.chat.completions.create(model="infini-demo", messages=HELLO, seed=3)
    stream = client.chat.completions.create(
        model="infini-demo", messages=HELLO, seed=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert client.completions.create(model="infini-demo", prompt="A server").choices[0].text


def test_seed_repeats_and_chance_varies(fast: Demo) -> None:
    assert fast.text(seed=7) == fast.text(seed=7)
    assert len({fast.text(seed=seed) for seed in range(8)}) > 1
    assert len({fast.text() for _ in range(8)}) > 1
    assert fast.text(temperature=0) == fast.text(temperature=0)
    assert fast.text(seed=7, top_p=0.01) == fast.text(seed=7, top_p=0.01)


def test_max_tokens(fast: Demo) -> None:
    answer = fast.ask(max_tokens=5)
    assert answer["choices"][0]["message"]["content"] == "This is Infini's demo model"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert fast.ask(max_completion_tokens=2)["usage"]["completion_tokens"] == 2
    assert fast.ask(min_tokens=900, max_tokens=1000)["usage"]["completion_tokens"] >= 900
    whole = fast.ask(seed=1)
    exact = fast.ask(seed=1, max_tokens=whole["usage"]["completion_tokens"])
    assert exact["choices"] == whole["choices"]


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("model:", "This is Infini's demo "),
        ("demo model: a", "This is Infini's "),
        (["nothing of it", "n-gram"], "This is Infini's demo model: a tiny "),
        (["a tiny n", "tiny"], "This is Infini's demo model: a "),
    ],
)
def test_stop_strings(fast: Demo, stop: Any, text: str) -> None:
    """Also across tokens, and in a stream nothing of the stop string has gone out before."""
    answer = fast.ask(stop=stop)
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["choices"][0]["finish_reason"] == "stop"
    chunks = events(fast.post(json={"messages": HELLO, "stop": stop, "stream": True}))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


def test_stop_string_that_never_comes_loses_nothing(fast: Demo) -> None:
    assert fast.text(seed=2, stop=[".\n", "This is Infini's demo of"]) == fast.text(seed=2)


def test_text_parts_and_history(fast: Demo) -> None:
    parts = [{"type": "text", "text": "How do I"}, {"type": "text", "text": "deploy a service?"}]
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None},
        {"role": "user", "content": parts},
    ]
    answer = fast.ask(messages=messages)
    assert answer["usage"]["prompt_tokens"] == 3 + 1 + 7


# Time


def stamped_words(demo: Demo, **body: Any) -> list[float]:
    """When each word of a stream came, in seconds after the request."""
    began = time.monotonic()
    stamps = []
    with demo.post(json={"messages": HELLO, "stream": True, **body}, stream=True) as answer:
        for line in answer.iter_lines(chunk_size=1):
            if b'"content":"' in line and b'"content":""' not in line:
                stamps.append(time.monotonic() - began)
    return stamps


def test_words_come_one_by_one(paced: Demo) -> None:
    stamps = stamped_words(paced, max_tokens=21)
    assert len(stamps) == 21
    gaps = [later - earlier for earlier, later in zip(stamps, stamps[1:], strict=False)]
    assert stamps[0] < 1
    assert stamps[-1] - stamps[0] > 0.12
    assert sum(gap > 0.004 for gap in gaps) > 8, "words must come spread out, not in one piece"


def test_whole_answer_takes_its_time_too(paced: Demo) -> None:
    began = time.monotonic()
    paced.ask(max_tokens=21)
    assert time.monotonic() - began > 0.12


def test_first_delay(tmp_path: Path) -> None:
    with running(tmp_path, "--rate", "0", "--first-delay", "0.3") as demo:
        stamps = stamped_words(demo)
    assert stamps[0] >= 0.3
    assert stamps[-1] - stamps[0] < 0.3


def test_streams_run_side_by_side(paced: Demo) -> None:
    with paced.post(json={"messages": HELLO, "stream": True, "min_tokens": 1000}, stream=True) as answer:
        lines = answer.iter_lines(chunk_size=1)
        next(lines)
        assert len(stamped_words(paced, max_tokens=3)) == 3
        assert next(line for line in lines if line)


# The client leaves


@pytest.mark.parametrize("stream", [True, False])
def test_disconnect_ends_generation(tmp_path: Path, stream: bool) -> None:
    with running(tmp_path, "--rate", "50") as demo:
        body = json.dumps({"messages": HELLO, "stream": stream, "min_tokens": 5000, "max_tokens": 5000})
        with socket.create_connection(("127.0.0.1", demo.port), timeout=5) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall((head + body).encode())
            if stream:
                while b"Infini" not in connection.recv(4096):
                    pass
        log = demo.wait_for_log("generation cancelled after ")
        words = int(log.split("generation cancelled after ")[1].split()[0])
        assert words < 250
        assert "Traceback" not in log
        assert "deploy a service" not in log, "prompts are not logged"


def test_disconnect_during_the_first_delay(tmp_path: Path) -> None:
    with running(tmp_path, "--first-delay", "60") as demo:
        with contextlib.suppress(requests.Timeout):
            requests.post(f"{demo.url}/v1/chat/completions", json={"messages": HELLO}, timeout=(5, 0.2))
        demo.wait_for_log("generation cancelled after 0 words")


# Bad input


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": HELLO, "max_tokens": 0}, "max_tokens"),
        ({"messages": HELLO, "max_tokens": "9"}, "max_tokens"),
        ({"messages": HELLO, "max_tokens": True}, "max_tokens"),
        ({"messages": HELLO, "temperature": 3}, "temperature"),
        ({"messages": HELLO, "temperature": float("nan")}, "temperature"),
        ({"messages": HELLO, "top_p": -1}, "top_p"),
        ({"messages": HELLO, "seed": 1.5}, "seed"),
        ({"messages": HELLO, "n": 2}, "n"),
        ({"messages": HELLO, "stop": [""]}, "stop"),
        ({"messages": HELLO, "stop": 1}, "stop"),
        ({"messages": HELLO, "stream": "yes"}, "stream"),
        ({"messages": HELLO, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": HELLO, "stream": True, "stream_options": []}, "stream_options"),
        ({"messages": HELLO, "model": 1}, "model"),
    ],
)
def test_bad_fields(fast: Demo, body: dict[str, Any], param: str) -> None:
    answer = fast.post(data=json.dumps(body))
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 100_000])
def test_bad_bodies(fast: Demo, data: bytes) -> None:
    answer = fast.post(data=data)
    assert answer.status_code == 400
    error_of(answer)


@pytest.mark.parametrize("prompt", [None, 3, ["a", "b"], [1, 2]])
def test_bad_prompts(fast: Demo, prompt: Any) -> None:
    answer = fast.post("/v1/completions", json={"prompt": prompt})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "prompt"


def test_nulls_mean_default(fast: Demo) -> None:
    fast.ask(max_tokens=None, temperature=None, stop=None, seed=None, stream=None, stream_options=None)


def test_lone_surrogates_are_survived(fast: Demo) -> None:
    answer = fast.post(data=b'{"model": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}]}')
    assert answer.status_code == 404
    answer = fast.post(data=b'{"seed": 1, "messages": [{"role": "user", "content": "\\ud800"}]}')
    assert answer.status_code == 200


def test_unknown_model(fast: Demo) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        fast.client().chat.completions.create(model="gpt-4", messages=HELLO)
    assert caught.value.code == "model_not_found"


def test_unknown_paths_and_methods(fast: Demo) -> None:
    call: Callable[..., requests.Response] = requests.request
    assert error_of(fast.post("/v1/nothing"))["code"] == "not_found"
    answer = call("GET", f"{fast.url}/v1/chat/completions", timeout=5)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    error_of(answer)
    answer = call("DELETE", f"{fast.url}/v1/models", timeout=5)
    assert answer.status_code == 501
    error_of(answer)


def test_too_large(fast: Demo) -> None:
    answer = fast.post(json={"messages": [{"role": "user", "content": "x" * (2 << 20)}]})
    assert answer.status_code == 413
    error_of(answer)


def test_chunked_body_is_refused_in_words(fast: Demo) -> None:
    answer = fast.post(data=iter([b"{}"]))
    assert answer.status_code == 411
    error_of(answer)


def test_connection_serves_on_after_an_error(fast: Demo) -> None:
    with requests.Session() as session:
        assert session.post(f"{fast.url}/v1/nothing", json={"a": 1}, timeout=5).status_code == 404
        assert session.post(f"{fast.url}/v1/chat/completions", data=b"{", timeout=5).status_code == 400
        body = {"messages": HELLO, "stream": True}
        assert events(session.post(f"{fast.url}/v1/chat/completions", json=body, timeout=5))
        assert session.get(f"{fast.url}/health", timeout=5).status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [b"nonsense\r\n\r\n", b"POST /v1 HTTP/1.1\r\nContent-Length: -1\r\n\r\n"],
)
def test_raw_nonsense_is_answered(fast: Demo, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", fast.port), timeout=5) as connection:
        connection.sendall(request_bytes)
        with connection.makefile("rb") as answer:
            assert b'"error"' in answer.read()


def test_http_1_0_client_gets_no_chunks(fast: Demo) -> None:
    body = json.dumps({"messages": HELLO, "stream": True})
    with socket.create_connection(("127.0.0.1", fast.port), timeout=5) as connection:
        head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall((head + body).encode())
        with connection.makefile("rb") as file:
            head_bytes, _, text = file.read().partition(b"\r\n\r\n")
    assert b"chunked" not in head_bytes
    assert text.startswith(b"data: {")
    assert text.endswith(b"data: [DONE]\n\n")


def test_api_key_and_model_name(tmp_path: Path) -> None:
    with running(tmp_path, "--rate", "0", "--api-key", "s3cret", "--model", "tiny") as demo:
        assert requests.get(f"{demo.url}/health", timeout=5).status_code == 200
        answer = requests.get(f"{demo.url}/v1/models", timeout=5)
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            demo.client("wrong").models.list()
        client = demo.client("s3cret")
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.chat.completions.create(model="tiny", messages=HELLO).model == "tiny"
        assert "s3cret" not in demo.log()


# The process


def test_sigterm_exits_at_once_with_0(tmp_path: Path) -> None:
    with running(tmp_path, "--rate", "1") as demo:
        with demo.post(json={"messages": HELLO, "stream": True}, stream=True) as answer:
            next(answer.iter_lines(chunk_size=1))
            began = time.monotonic()
            demo.process.send_signal(signal.SIGTERM)
            assert demo.process.wait(timeout=5) == 0
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("arguments", [["--rate", "-1"], ["--corpus", "/no/such/file"], ["--port", "70000"]])
def test_bad_command_line(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=5, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_port_in_use_is_one_line(fast: Demo) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--port", str(fast.port)],
        capture_output=True,
        text=True,
        timeout=5,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(fast.port) in done.stderr


def test_starts_fast_and_stays_small(tmp_path: Path) -> None:
    """With as much text as it reads at most, and after some answers."""
    corpus = tmp_path / "long.md"
    line = "Server number {} in rack {} runs model {} since day {}."
    numbers = (line.format(n, n % 97, n % 31, n * 7) for n in range(11_000))
    corpus.write_text("\n\n".join(numbers))
    with running(tmp_path, "--rate", "0", "--corpus", str(corpus)) as large:
        large.text(min_tokens=1000, max_tokens=2000)
        if sys.platform == "linux":
            status = Path(f"/proc/{large.process.pid}/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0])
            assert peak < 64 * 1024
    began = time.monotonic()
    with running(tmp_path) as usual:
        seconds = time.monotonic() - began
        usual.text(max_tokens=5)
        if sys.platform == "linux":
            status = Path(f"/proc/{usual.process.pid}/status").read_text()
            assert int(status.split("VmHWM:")[1].split()[0]) < 40 * 1024
    assert seconds < 1.5, "0.2 s is usual; the rest is room for a busy machine"


def test_one_file_of_standard_library_for_old_pythons() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).split(".")[0])
    assert imported <= set(sys.stdlib_module_names)
