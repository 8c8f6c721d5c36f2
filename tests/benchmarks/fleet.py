"""Rows of a large fleet, written straight into a site's database.

    python -m tests.benchmarks.fleet SERVERS SERVICES [HOURS]
    python -m tests.benchmarks.fleet simulated AGENTS PORT CERTIFICATE

With HOURS each server has 8 devices, and there are samples and requests of so many hours. The second is the fleet of
simulated_agents.py. Prints a key of the user ``admin``, whose password is the one given in INFINI_ADMIN_PASSWORD.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

from chat.models import Usage  # noqa: E402
from deployments.models import DeviceClaim, Instance, Operation, Placement, Revision, Service  # noqa: E402
from deployments.phases import OperationState, Phase, Wanted  # noqa: E402
from infini.keys import create_key  # noqa: E402
from infini.models import User  # noqa: E402
from inventory.models import AIModel, Brand, Card, Device, Environment, Sample, Server  # noqa: E402
from tests.benchmarks.simulated_agents import INSTANCES, address_of, key_of  # noqa: E402

FIGURES = {"cpu_percent": 12.0, "memory_percent": 40.0, "disk_percent": 70.0, "errors": {}}


def fill(servers: int, services: int, of: int = 2) -> None:
    """That many servers and services more, each service on two servers, or ``of``, and deployed once."""
    start, now = Service.objects.count(), timezone.now()
    environment, _ = Environment.objects.get_or_create(name="production")
    brand, _ = Brand.objects.get_or_create(name="Brand")
    card, _ = Card.objects.get_or_create(brand=brand, name="Card")
    model, _ = AIModel.objects.get_or_create(name="model")
    boxes = Server.objects.bulk_create(
        Server(
            name=f"server-{start + n}", host_ip="127.0.0.1", brand=brand, card=card, environment=environment,
            agent_token="t", agent_seen_at=now, agent_asked_at=now, figures=FIGURES,
        )
        for n in range(servers)
    )  # fmt: skip
    made = Service.objects.bulk_create(
        Service(name=f"service-{start + n}", model=model, environment=environment, wanted=Wanted.RUNNING)
        for n in range(services)
    )
    revisions = Revision.objects.bulk_create(Revision(service=s, number=1, command="serve {port}") for s in made)
    for service, revision in zip(made, revisions, strict=True):
        service.current_revision = revision
    Service.objects.bulk_update(made, ["current_revision"], batch_size=200)
    placements = Placement.objects.bulk_create(
        Placement(service=s, server=boxes[(n + k) % servers]) for n, s in enumerate(made) for k in range(of)
    )
    Instance.objects.bulk_create(
        Instance(
            placement=p, revision=p.service.current_revision, key=f"k-{start}-{n}", generation=1, acked_generation=1,
            phase=Phase.RUNNING if n % 10 else Phase.FAILED, ready=bool(n % 10), pid=n + 2, observed_at=now,
        )
        for n, p in enumerate(placements)
    )  # fmt: skip
    Operation.objects.bulk_create(
        Operation(service=s, kind="deploy", state=OperationState.DONE, deadline_at=now) for s in made
    )


def fill_past(hours: int, requests: int = 300) -> None:
    """Eight devices in each server, half of them given away; a sample a minute, and so many requests a minute."""
    Device.objects.bulk_create(
        Device(server=server, uuid=f"d-{n}", index=n, vendor="nvidia" if server.pk % 3 else "ascend", name="H20")
        for server in Server.objects.only("pk")
        for n in range(8)
    )
    used = Device.objects.filter(index__lt=4).values_list("pk", flat=True)
    instances = Instance.objects.order_by("pk").values_list("pk", flat=True)
    DeviceClaim.objects.bulk_create(
        DeviceClaim(device_id=device, instance_id=instance) for device, instance in zip(used, instances, strict=False)
    )
    now = timezone.now().replace(second=0, microsecond=0)
    ids: dict[int, list[int]] = {}
    for pk, server_id in Device.objects.values_list("pk", "server_id"):
        ids.setdefault(server_id, []).append(pk)
    for minute in range(hours * 60):
        at, busy = now - timedelta(minutes=minute), 50 + minute % 40
        Sample.objects.bulk_create(
            Sample(
                server_id=server, at=at, cpu_percent=busy / 3, memory_percent=40, disk_percent=70,
                devices={str(pk): [busy, 60.0, 55.0, 300.0] for pk in devices},
            )
            for server, devices in ids.items()
        )  # fmt: skip
        Usage.objects.bulk_create(
            Usage(at=at, user_id=1 + n % 7, prompt_tokens=300, completion_tokens=90, path="chat", outcome="complete")
            for n in range(requests)
        )


def fill_simulated(agents: int, port: int, certificate: str) -> None:
    """The servers of ``simulated_agents``, each with a service of its own, deployed and running."""
    servers = Server.objects.bulk_create(
        Server(
            name=f"sim-{n}", host_ip=address_of(n), agent_port=port, agent_token="t" * 43, agent_certificate=certificate
        )
        for n in range(agents)
    )
    services = Service.objects.bulk_create(
        Service(name=f"sim-{n}", wanted=Wanted.RUNNING) for n in range(agents)
    )  # fmt: skip
    revisions = Revision.objects.bulk_create(Revision(service=s, number=1, command="serve {port}") for s in services)
    placements = Placement.objects.bulk_create(
        Placement(service=service, server=server, replicas=INSTANCES)
        for service, server in zip(services, servers, strict=True)
    )
    Instance.objects.bulk_create(
        Instance(
            placement=placement, revision=revision, ordinal=k, key=key_of(n, k), generation=1, acked_generation=1,
            phase=Phase.RUNNING, ready=True,
        )
        for n, (placement, revision) in enumerate(zip(placements, revisions, strict=True))
        for k in range(INSTANCES)
    )  # fmt: skip


def key_of_admin() -> str:
    """A key of the user ``admin``, who is made, as the tables are, when there is none yet."""
    call_command("migrate", verbosity=0)
    admin = User.objects.filter(username="admin").first()
    admin = admin or User.objects.create_superuser("admin", password=os.environ["INFINI_ADMIN_PASSWORD"])
    return create_key(user=admin, name="bench", by=None)[1]


def main(*arguments: str) -> None:
    key = key_of_admin()
    if arguments[0] == "simulated":
        agents, port, certificate = arguments[1:]
        fill_simulated(int(agents), int(port), Path(certificate).read_text())
    else:
        fill(*map(int, arguments[:2]))
        if arguments[2:]:
            fill_past(int(arguments[2]))
    print(key)


if __name__ == "__main__":
    main(*sys.argv[1:])
