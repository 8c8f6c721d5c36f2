"""Random faults on a real site and real agents; then everything wanted runs once, and nobody else was touched.

`make chaos` does 200 of them, the test suite 30. INFINI_CHAOS_SEED repeats a run.
"""

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest

from tests.live.site import RealSite
from tests.real_agent import RealAgent, is_running, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]

FAULTS = int(os.environ.get("INFINI_CHAOS_FAULTS", "30"))
SEED = int(os.environ.get("INFINI_CHAOS_SEED", str(random.randrange(10**6))))
SERVICES = 7
ROLLING = 2  # so many of them get new revisions all the time


class Fleet:
    """Three agents with seven services on each, and the faults that may befall them."""

    def __init__(self, site: RealSite, agents: list[RealAgent], dice: random.Random) -> None:
        self.site, self.agents, self.dice = site, agents, dice
        self.kills = self.revisions = 0
        self.done: Counter[str] = Counter()
        self.servers = [
            site.json("POST", "/api/servers", json=self._server(number, agent)) for number, agent in enumerate(agents)
        ]
        self.services = [self._deploy(number) for number in range(SERVICES)]

    def _server(self, number: int, agent: RealAgent) -> dict[str, Any]:
        return {"name": f"chaos-{number}", "host_ip": "127.0.0.1", "agent_port": agent.port, "agent_token": agent.token}

    def _deploy(self, number: int) -> int:
        body = {
            "name": f"chaos-{number}",
            "server_ids": [server["id"] for server in self.servers],
            "deploy_command": "exec sleep 100000",
            "restart": "always",
            "max_unavailable": 1 if number < ROLLING else None,
        }
        return int(self.site.json("POST", "/api/services", json=body)["id"])

    def settled(self) -> bool:
        """By what the agents say now: what the site last heard may be older than the last fault.

        What an agent refused, as with a wrong token, is not tried again without a person, who is played here.
        """
        asked = self.site.json("POST", "/api/services/refresh-status")
        mine = [s for s in asked if s["id"] in self.services]
        for service in mine:
            if service["deploy_status"] == "online" and service["id"] in self.services[:ROLLING]:
                self.site.request("POST", f"/api/services/{service['id']}/deploy")
        # What is to go has gone as well: the old ones of rolling updates, and new ones that were called off.
        leaving = [i for s in mine for i in s["instances"] if i["wanted"] != "running"]
        return not leaving and all(s["deploy_status"] == "deployed" for s in mine)

    def instances(self) -> list[dict[str, Any]]:
        """What the agents themselves say."""
        keys = {i["key"] for s in self.site.json("GET", "/api/services") for i in s["instances"]}
        listed = [i for agent in self.agents for i in agent.request("GET", "/services")[1]["services"]]
        return [i for i in listed if i["id"] in keys]

    def befall(self) -> None:
        # The site's own programs come back later each time, up to half a minute. The rest goes on without them
        # meanwhile, and they die less often than the rest.
        programs = [kill for kill in (self.worker, self.monitor) if self.site.process_ids(kill.__name__)]
        fault = self.dice.choice(
            [*3 * [self.process], *3 * [self.shim], *3 * [self.agent], *2 * [self.cut], *2 * [self.wrong_token]]
            + [*programs, *2 * [self.rollout]]
        )
        self.done[fault.__name__] += 1
        fault()

    def process(self) -> None:
        instance = self._one()
        if instance is None:
            return
        key, pid = instance["id"], instance["pid"]
        counted = key not in self.rolled_keys()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills += counted
            wait_until(lambda: self._pid_of(key) != pid, 15, f"the death of {pid} is seen")

    def shim(self) -> None:
        instance = self._one()
        if instance is None:
            return
        with suppress(psutil.NoSuchProcess):  # it ended since the agent was asked: then there is no shim to kill
            parent = psutil.Process(instance["pid"]).parent()
            if parent and "--spawner" in " ".join(parent.cmdline()):
                parent.kill()

    def agent(self) -> None:
        agent = self.dice.choice(self.agents)
        agent.kill9()
        time.sleep(self.dice.random())  # how long it stays away is part of the fault
        agent.start()

    def worker(self) -> None:
        self._kill_program("worker")

    def monitor(self) -> None:
        self._kill_program("monitor")

    def _kill_program(self, name: str) -> None:
        for leader in self.site.process_ids(name)[:1]:  # none where it ended by itself just now
            with suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)

    def cut(self) -> None:
        """The agent's host is there and answers nothing, as behind a cut cable."""
        agent = self.dice.choice(self.agents)
        os.kill(agent.pid, signal.SIGSTOP)
        time.sleep(2 * self.dice.random())
        os.kill(agent.pid, signal.SIGCONT)

    def rollout(self) -> None:
        """Not a fault but what others befall: a new revision goes out, unless one still does."""
        self.revisions += 1
        path = f"/api/services/{self.dice.choice(self.services[:ROLLING])}"
        self.site.json("PATCH", path, json={"env": {"ROUND": str(self.revisions)}})
        self.site.request("POST", f"{path}/deploy")

    def rolled_keys(self) -> set[str]:
        services = self.site.json("GET", "/api/services")
        return {i["key"] for s in services if s["id"] in self.services[:ROLLING] for i in s["instances"]}

    def wrong_token(self) -> None:
        number = self.dice.randrange(len(self.servers))
        path = f"/api/servers/{self.servers[number]['id']}"
        self.site.json("PATCH", path, json={"agent_token": "not-the-token-of-it"})
        time.sleep(self.dice.random())
        self.site.json("PATCH", path, json={"agent_token": self.agents[number].token})

    def _one(self) -> dict[str, Any] | None:
        running = [i for i in self.instances() if i["pid"] and i["phase"] == "running"]
        return self.dice.choice(running) if running else None

    def _pid_of(self, key: str) -> int | None:
        return next((i["pid"] for i in self.instances() if i["id"] == key), None)


@pytest.fixture
def fleet(new_site: Callable[..., RealSite]) -> Iterator[Fleet]:
    with ExitStack() as stack:
        agents = [stack.enter_context(RealAgent()) for _ in range(3)]
        site = new_site(INFINI_DRAIN_SECONDS="0.5")  # nobody talks to these, and more updates fit between the faults
        site.start()
        made = Fleet(site, agents, random.Random(SEED))
        wait_until(made.settled, 60, "all is deployed before the first fault", every=0.2)
        yield made
        site.stop()


def copies() -> Counter[str]:
    """How many processes of each instance there are on this machine."""
    found: Counter[str] = Counter()
    for process in psutil.process_iter():
        try:
            if process.name() == "sleep":
                found[process.environ().get("INFINI_INSTANCE", "")] += 1
        except psutil.Error:
            continue
    return found


def test_chaos(fleet: Fleet) -> None:
    strangers = [agent.deploy("stranger", "exec sleep 100000")["pid"] for agent in fleet.agents]
    with subprocess.Popen(["sleep", "100000"]) as bystander:
        try:
            for _ in range(FAULTS):
                fleet.befall()
            told = f"seed {SEED}, faults {dict(fleet.done)}"
            wait_until(fleet.settled, 240, f"all services run again ({told})", every=0.2)

            instances = fleet.instances()
            assert len(instances) == SERVICES * len(fleet.agents), (told, instances)
            running = copies()
            assert all(running[i["id"]] == 1 for i in instances), (told, running)
            left = {key for key in running if key.startswith("chaos-")} - {i["id"] for i in instances}
            assert not left, (told, left)
            rolled = fleet.rolled_keys()
            assert sum(i["restarts"] for i in instances if i["id"] not in rolled) == fleet.kills, told
            assert all(is_running(pid) for pid in strangers) and bystander.poll() is None, told
            wait_until(lambda: not open_operations(fleet), 30, f"no operation is left open ({told})")
        finally:
            bystander.kill()


def open_operations(fleet: Fleet) -> list[dict[str, Any]]:
    logs = [fleet.site.json("GET", f"/api/services/{pk}/deploy-log") for pk in fleet.services]
    return [log for log in logs if log["state"] in ("queued", "running")]
