"""The demo model behind the gateway, through the official client."""

import os
import subprocess
import sys
from collections.abc import Iterator

import openai
import pytest

from tests.chat.site import ROOT, Site

pytestmark = pytest.mark.live


@pytest.fixture
def demo_port() -> Iterator[int]:
    """A demo model on a port of its own choice, which it prints."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "agent/demo_model.py"), "--port", "0", "--rate", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield _printed_port(process)
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


def _printed_port(process: subprocess.Popen) -> int:
    assert process.stdout
    for line in process.stdout:
        if "http://127.0.0.1:" in line:
            return int(line.split("http://127.0.0.1:")[1].split("/")[0].split()[0].rstrip(".,"))
    raise AssertionError("the demo model ended at its start")


def test_a_question_to_the_demo_model(site: Site, demo_port: int) -> None:
    service_id = site.service([demo_port], served_model="")
    client = openai.OpenAI(
        base_url=f"{site.url}/api/services/{service_id}", api_key=site.person("viewer")["key"], max_retries=0
    )
    stream = client.chat.completions.create(
        model="", stream=True, max_tokens=20, messages=[{"role": "user", "content": "What is a service?"}]
    )
    text = "".join(part.choices[0].delta.content or "" for part in stream if part.choices)
    assert text
    rows = site.history(service_id)
    assert (rows[-1]["content"], rows[-1]["state"], rows[-1]["model"]) == (text, "complete", "infini-demo")
