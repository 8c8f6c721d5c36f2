"""Rows of a large fleet, written straight into a site's database: `python -m tests.benchmarks.fleet SERVERS SERVICES`.

Prints a key of the user ``admin``, whose password is the one given in INFINI_ADMIN_PASSWORD.
"""

import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "infini.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.utils import timezone  # noqa: E402

from deployments.models import Instance, Operation, Placement, Revision, Service  # noqa: E402
from deployments.phases import OperationState, Phase, Wanted  # noqa: E402
from infini.keys import create_key  # noqa: E402
from infini.models import User  # noqa: E402
from inventory.models import AIModel, Brand, Card, Environment, Server  # noqa: E402

FIGURES = {"cpu_percent": 12.0, "memory_percent": 40.0, "disk_percent": 70.0, "errors": {}}


def fill(servers: int, services: int) -> None:
    """That many servers and services more, each service on two servers and deployed once."""
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
        Placement(service=s, server=boxes[(n + k) % servers]) for n, s in enumerate(made) for k in (0, 1)
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


def main(servers: int, services: int) -> None:
    call_command("migrate", verbosity=0)
    admin = User.objects.filter(username="admin").first()
    admin = admin or User.objects.create_superuser("admin", password=os.environ["INFINI_ADMIN_PASSWORD"])
    fill(servers, services)
    print(create_key(user=admin, name="bench", by=None)[1])


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
