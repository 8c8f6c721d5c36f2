"""How busy servers are, over their agents; what cannot be had says why."""

import socket
import time

import pytest
from rest_framework.test import APIClient

from inventory import resources
from inventory.models import Server
from tests.real_agent import RealAgent, wait_until

pytestmark = pytest.mark.django_db(transaction=True)


def test_figures_of_a_real_agent(api: APIClient) -> None:
    with RealAgent() as agent:
        server = Server.objects.create(name="one", host_ip="127.0.0.1", agent_port=agent.port, agent_token=agent.token)
        path = f"/api/servers/{server.pk}/resources"
        answer = wait_until(lambda: (got := api.get(path).json())["cpu_percent"] is not None and got)
    assert set(answer) == {
        "server_id", "cpu_percent", "memory_percent", "disk_percent", "accelerators", "errors", "source", "observed_at",
    }  # fmt: skip
    assert all(0 <= answer[name] <= 100 for name in ("cpu_percent", "memory_percent", "disk_percent"))
    assert (answer["errors"], answer["source"]) == ({}, "agent")


def test_what_cannot_be_had_says_why_and_holds_up_nobody(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "ANSWER_WITHIN_SECONDS", 2.0)
    bare = Server.objects.create(name="bare", host_ip="127.0.0.1")
    with RealAgent() as agent, socket.create_server(("127.0.0.1", 0), backlog=5) as silent:
        good = Server.objects.create(name="good", host_ip="127.0.0.1", agent_port=agent.port, agent_token=agent.token)
        port = silent.getsockname()[1]
        hangs = Server.objects.create(name="hangs", host_ip="127.0.0.1", agent_port=port, agent_token="t")
        began = time.monotonic()
        answers = {a["server_id"]: a for a in api.post("/api/servers/resources", {}, format="json").json()}
    assert time.monotonic() - began < 4
    assert answers[good.pk]["memory_percent"] > 0
    assert "no agent access" in answers[bare.pk]["errors"]["cpu_percent"]
    assert "did not answer within 2 s" in answers[hangs.pk]["errors"]["memory_percent"]
    assert answers[hangs.pk]["memory_percent"] is None and answers[hangs.pk]["observed_at"] is None


def test_only_those_asked_for(api: APIClient) -> None:
    servers = [Server.objects.create(name=f"s{n}", host_ip="127.0.0.1") for n in range(3)]
    ids = [servers[0].pk, servers[2].pk, 999_999]
    answers = api.post("/api/servers/resources", {"server_ids": ids}, format="json").json()
    assert [a["server_id"] for a in answers] == ids[:2]
    assert api.post("/api/servers/resources", {"server_ids": "all"}, format="json").status_code == 400
