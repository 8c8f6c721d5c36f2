"""A service on a real accelerator, from the site: skipped on a machine that has none."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.site import RealSite
from tests.live.test_journey import SERVE, Deploy, client_of, deploy
from tests.real_agent import wait_until
from tests.real_nvidia import TAKE_MEMORY, TAKEN_BYTES, nvidia

pytestmark = [pytest.mark.live, nvidia, pytest.mark.timeout(180)]
__all__ = ["deploy"]


@pytest.fixture
def site(new_site: Callable[..., RealSite]) -> Iterator[RealSite]:
    """One whose agent looks where tools lie on this machine."""
    running = new_site(INFINI_DEVICE_PATH=os.environ["PATH"]).start()
    yield running
    running.stop()


def test_a_service_has_its_device_and_the_site_tells_whose_it_is(
    site: RealSite, deploy: Deploy, tmp_path: Path
) -> None:
    [device] = wait_until(lambda: site.json("GET", "/api/devices"), 60)
    assert (device["vendor"], device["verified"], device["free"]) == ("nvidia", True, True)

    engine = tmp_path / "engine.py"
    engine.write_text(TAKE_MEMORY)
    service = deploy(f"{shlex.quote(sys.executable)} {engine} & {SERVE}", devices=1)
    assert service["deploy_status"] == "deployed", service

    def taken() -> dict[str, Any] | None:
        [now] = site.json("GET", "/api/devices")
        return now if now["processes"] and now["memory_used_bytes"] >= TAKEN_BYTES else None

    now = wait_until(taken, 60, "the engine's memory is seen")
    assert not now["free"] and [holder["service"] for holder in now["instances"]] == [service["name"]]
    assert [process["instance"] for process in now["processes"]] == [now["instances"][0]["key"]]
    answer = client_of(site, service).chat.completions.create(
        model=service["name"], messages=[{"role": "user", "content": "What is an agent?"}], max_tokens=20
    )
    assert answer.choices[0].message.content

    site.request("POST", f"/api/services/{service['id']}/stop")
    wait_until(lambda: not site.json("GET", "/api/devices")[0]["processes"], 60, "the device is left")
