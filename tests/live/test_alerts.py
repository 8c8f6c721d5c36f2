"""Alerts on the real site: the monitor sees, the worker tells, also after the worker was killed."""

import sys
import uuid

import pytest

from tests.live.site import RealSite, wait_until
from tests.receivers import HttpReceiver, http_receiver

pytestmark = pytest.mark.live


def told(receiver: HttpReceiver, state: str, name: str) -> bool:
    return any(p.json["state"] == state and p.json["subject"]["name"].startswith(name) for p in receiver.posts)


def test_a_failing_service_is_told_and_so_is_its_end(site: RealSite) -> None:
    name = f"alarm-{uuid.uuid4().hex[:6]}"
    [local] = [server for server in site.json("GET", "/api/servers") if server["name"] == "local"]
    with http_receiver() as receiver:
        target = site.json("POST", "/api/alert-targets", json={"name": name, "address": receiver.url, "secret": "k"})
        body = {"name": name, "server_ids": [local["id"]], "deploy_command": f"{sys.executable} -c 'exit(3)'"}
        service = site.json("POST", "/api/services", json=body)
        site.kill9("worker")
        wait_until(lambda: told(receiver, "open", name), 60, "the failure to be told")
        [alert] = [a for a in site.json("GET", "/api/alerts?state=open") if a["subject"]["name"].startswith(name)]
        assert alert["kind"] == "instance_failed"

        site.request("DELETE", f"/api/services/{service['id']}")
        wait_until(lambda: told(receiver, "recovered", name), 60, "its end to be told")
        site.json("DELETE", f"/api/alert-targets/{target['id']}")
