"""What the pictures show: made over the site's own API, and the past written into its database.

python -m tests.screenshots.fleet   the past alone: samples, requests and a run, within the environment of a site
"""

import os
import random
import sys
from datetime import timedelta
from math import sin
from pathlib import Path
from typing import Any

from tests.live.site import RealSite, free_port, wait_until
from tests.screenshots.agents import ASCEND, H100, L40S, P800, TOKEN, Agent, Agents

PEOPLE = {"li.na": "operator", "wang.wei": "operator", "viewer": "viewer"}
SERVERS = [
    *(("gpu-01", H100, "H100 SXM 80GB", "production"), ("gpu-02", H100, "H100 SXM 80GB", "production")),
    *(("gpu-03", L40S, "L40S 48GB", "production"), ("gpu-04", L40S, "L40S 48GB", "test")),
    *(("npu-01", ASCEND, "910B2 64GB", "production"), ("npu-02", ASCEND, "910B2 64GB", "production")),
    *(("xpu-01", P800, "P800 96GB", "test"), ("xpu-02", P800, "P800 96GB", "test")),
]
VLLM = "exec vllm serve {name} --host {{host}} --port {{port}} --tensor-parallel-size {devices}"
SERVICES = [
    # name, model, servers, devices per instance, environment, options
    ("qwen2.5-72b", "Qwen2.5-72B-Instruct", ["gpu-01", "gpu-02"], 4, "production", ""),
    ("deepseek-r1-32b", "DeepSeek-R1-Distill-Qwen-32B", ["npu-01", "npu-02"], 4, "production", ""),
    ("bge-m3", "bge-m3", ["gpu-03"], 1, "production", ""),
    ("llama-3.1-8b", "Llama-3.1-8B-Instruct", ["gpu-04"], 2, "test", ""),
    ("glm-4-9b", "glm-4-9b-chat", ["xpu-01"], 1, "test", ""),
    ("internvl2-26b", "InternVL2-26B", ["npu-02"], 2, "test", "--fail"),  # there is nothing good to go back to
]
ASKED = "What is a service, and how do I deploy one?"
DISK = "Filesystem      Size  Used Avail Use% Mounted on\n/dev/nvme0n1p2  7.3T  {used}  {free}  {percent}% /\n"


def make(site: RealSite) -> dict[str, int]:
    """Fill ``site`` and start its agents; returns the ids that the pictures ask for."""
    port = free_port()
    agents = [
        Agent(n, kind, disk=91.0 if name == "gpu-02" else 38.0 + 5 * n, busy=58 + 5 * n % 37, silent=name == "xpu-02")
        for n, (name, kind, _card, _place) in enumerate(SERVERS, 1)
    ]
    Agents(agents, port).start()
    for name, role in PEOPLE.items():
        _person(site, name, role)
    for name in ("production", "test"):
        site.json("POST", "/api/environments", json={"name": name})
    servers = _servers(site, agents, port)
    models = {name: site.json("POST", "/api/models", json={"name": name})["id"] for _, name, *_ in SERVICES}
    services = {}
    for name, model, on, devices, place, options in SERVICES:
        body = {"name": name, "model_id": models[model], "server_ids": [servers[s] for s in on], "environment": place}
        command = VLLM.format(name=model, devices=devices) + (f" {options}" if options else "")
        body |= {"deploy_command": command, "devices": devices, "max_unavailable": 1}
        services[name] = site.json("POST", "/api/services", json=body, user="li.na")["id"]
        _settled(site, services[name])
    _change(site, services["qwen2.5-72b"], "--max-model-len 32768", "Longer context")
    _change(site, services["llama-3.1-8b"], "--fail", "Try the larger batch")  # goes back by itself
    chat = _real_service(site)
    card_ids = [
        card["id"]
        for card in _cards(site)
        if card["model"] in ("H100 SXM 80GB", "L40S 48GB", "910B2 64GB", "P800 96GB")
    ]
    done = site.run_module("tests.screenshots.fleet")
    assert done.returncode == 0, done.stderr
    return {
        "server": servers["gpu-01"],
        "service": services["qwen2.5-72b"],
        "chat": chat,
        "cards": ",".join(map(str, card_ids)),  # type: ignore[dict-item]
        "run": int(done.stdout.split()[-1]),
    }


def _person(site: RealSite, name: str, role: str) -> None:
    code = (
        "from infini.models import User; from django.contrib.auth.models import Group; "
        f"u = User.objects.create_user({name!r}, is_staff=True); u.groups.add(Group.objects.get(name={role!r}))"
    )
    done = site.manage("shell", "-c", code)
    assert done.returncode == 0, done.stderr


def _servers(site: RealSite, agents: list[Agent], port: int) -> dict[str, int]:
    cards = {card["model"]: card["id"] for card in _cards(site)}
    ids = {}
    for agent, (name, _kind, card, place) in zip(agents, SERVERS, strict=True):
        body = {"name": name, "host_ip": agent.address, "agent_port": port, "agent_token": TOKEN, "environment": place}
        body |= {"model_id": cards[card], "username": "infini", "labels": {"rack": f"a{agent.number}"}}
        ids[name] = site.json("POST", "/api/servers", json=body, user="wang.wei")["id"]
    wait_until(lambda: len(site.json("GET", "/api/devices?limit=200")) >= 40, 60, "the devices are known")
    return ids


def _cards(site: RealSite) -> list[dict[str, Any]]:
    brands = [brand["id"] for brand in site.json("GET", "/api/brands")]
    return [card for brand in brands for card in site.json("GET", f"/api/brands/{brand}/accelerators")]


def _settled(site: RealSite, service: int) -> None:
    path = f"/api/services/{service}"
    wait_until(lambda: site.json("GET", path)["deploy_status"] != "deploying", 60, "nothing is being done to it")


def _change(site: RealSite, service: int, option: str, note: str) -> None:
    path = f"/api/services/{service}"
    command = site.json("GET", path)["deploy_command"]
    site.json("PATCH", path, json={"deploy_command": f"{command} {option}", "note": note}, user="wang.wei")
    site.json("POST", f"{path}/deploy", user="wang.wei")
    _settled(site, service)


def _real_service(site: RealSite) -> int:
    """The demo model on this machine: what answers in the chat."""
    local = next(s for s in site.json("GET", "/api/servers") if s["name"] == "local")
    demo = Path(__file__).resolve().parents[2] / "agent" / "demo_model.py"
    command = f"exec {sys.executable} {demo} --host {{host}} --port {{port}} --model demo --rate 60"
    body = {"name": "demo", "server_ids": [local["id"]], "deploy_command": command}
    service = int(site.json("POST", "/api/services", json=body)["id"])
    _settled(site, service)
    return service


# The past


def write_past() -> int:
    """Six hours of samples and requests, and a command that ran everywhere; returns the run's id."""
    from django.utils import timezone

    from inventory.models import Sample, Server

    now = timezone.now().replace(second=0, microsecond=0)
    servers = list(Server.objects.filter(agent_seen_at__isnull=False).prefetch_related("devices"))
    Sample.objects.all().delete()
    for minute in range(1, 6 * 60):
        at = now - timedelta(minutes=minute)
        Sample.objects.bulk_create(_sample(server, n, at, minute) for n, server in enumerate(servers))
        _requests(at, minute)
    _days(now.date())
    return _run(now)


def _days(today: Any) -> None:
    """A month of sums, as usage keeps them."""
    from chat.models import UsageDay
    from deployments.models import Service
    from infini.models import User

    for back in range(30):
        day = today - timedelta(days=back)
        for service in Service.objects.exclude(name="demo"):
            for user in User.objects.exclude(username="viewer"):
                requests = int(random.uniform(300, 900) * (0.35 if day.weekday() > 4 else 1))
                UsageDay.objects.create(
                    day=day, user_id=user.pk, user_name=user.username, service_id=service.pk,
                    service_name=service.name, model=service.name, requests=requests, cancelled=requests // 90,
                    prompt_tokens=requests * 410, completion_tokens=requests * 260, first_token_ms=requests * 230,
                    first_tokens=requests, duration_ms=requests * 3100,
                )  # fmt: skip


def _sample(server: Any, n: int, at: Any, minute: int) -> Any:
    from inventory.models import Sample

    wave = 12 * sin(minute / 37 + n) + 5 * sin(minute / 7) + random.uniform(-3, 3)
    devices = {}
    for device in server.devices.all():
        held = device.claims.exists() if minute == 1 else device.pk in _held(server)
        devices[str(device.pk)] = [
            62 + wave if held else 0,
            91 if held else 1,
            68 + wave / 4 if held else 34,
            560 if held else 90,
        ]
    return Sample(
        server=server, at=at, cpu_percent=28 + wave / 2, memory_percent=31 + wave / 9, disk_percent=40 + n * 4,
        network_in=4e7 + wave * 1e6, network_out=9e7 + wave * 2e6, devices=devices,
    )  # fmt: skip


_known: dict[int, set[int]] = {}


def _held(server: Any) -> set[int]:
    if server.pk not in _known:
        _known[server.pk] = {d.pk for d in server.devices.filter(claims__isnull=False)}
    return _known[server.pk]


def _requests(at: Any, minute: int) -> None:
    from chat.models import Usage
    from deployments.models import Service
    from infini.models import User

    services, people = list(Service.objects.exclude(name="demo")), list(User.objects.all())
    busy = 30 + 14 * sin(minute / 45) + random.uniform(-4, 4)
    rows = []
    for _n in range(int(busy)):
        service, user = random.choice(services), random.choice(people)
        rows.append(
            Usage(
                at=at - timedelta(seconds=random.uniform(0, 59)), user_id=user.pk, user_name=user.username,
                service_id=service.pk, service_name=service.name, model=service.name, path="chat", streamed=True,
                prompt_tokens=random.randrange(80, 900), completion_tokens=random.randrange(40, 600),
                first_token_ms=random.randrange(90, 600), duration_ms=random.randrange(900, 9000), outcome="complete",
            )
        )  # fmt: skip
    Usage.objects.bulk_create(rows)


def _run(now: Any) -> int:
    from hashlib import sha256

    from infini.models import User
    from inventory.models import Server
    from scheduler.models import Run, RunResult, Target, Task

    by = User.objects.get(username="li.na")
    task = Task.objects.create(
        name="disk check", command="df -h /", schedule_type="daily", time_of_day="03:00", timezone="Asia/Shanghai"
    )
    servers = list(Server.objects.exclude(name="local").order_by("name"))
    Target.objects.bulk_create(Target(task=task, server=s, server_name=s.name) for s in servers)
    run = None
    for days in (3, 2, 1, 0):
        at = now - timedelta(days=days, minutes=2)
        fields = (
            {"trigger": "manual", "by": by, "by_name": by.username}
            if days == 0
            else {"trigger": "schedule", "fire_at": at}
        )
        run = Run.objects.create(
            task=task, name=task.name, command=task.command, policy={}, state="failed" if days == 0 else "success",
            created_at=at, started_at=at, finished_at=at + timedelta(seconds=3), **fields,
        )  # fmt: skip
        for server in servers:
            full, silent = server.name == "gpu-02", server.name == "xpu-02" and days == 0
            text = (
                DISK.format(used="6.7T", free="0.6T", percent=91)
                if full
                else DISK.format(used="2.9T", free="4.4T", percent=40)
            )
            bad = {"state": "lost", "reason": "The connection was lost; what became of it there is not known."}
            RunResult.objects.create(
                run=run, server=server, server_name=server.name, host=server.host_ip, started_at=at,
                finished_at=at + timedelta(seconds=1 + server.pk % 3), output="" if silent else text,
                digest="" if silent else sha256(text.encode()).hexdigest(), exit_status=None if silent else 0,
                **(bad if silent else {"state": "success"}),
            )  # fmt: skip
    assert run is not None
    return int(run.pk)


if __name__ == "__main__":
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
    django.setup()
    print(write_past())
