"""Rows of a large site: every table that a list shows, written straight into its database in under a minute.

    python -m tests.benchmarks.large PERCENT

Of 100 percent: 500 servers with 8 devices and six hours of samples, 1,000 services, 5,000 instances, 100,000 events,
a million requests, and thousands of all else. Prints a key of the user ``admin``, as ``tests.benchmarks.fleet`` does.
"""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from django.db import connection, transaction
from django.db.models import Model
from django.utils import timezone

from tests.benchmarks.fleet import fill, fill_past, key_of_admin  # sets Django up: what follows may import models

# isort: split
from chat.models import Conversation, Endpoint, Message, TrafficRule, Usage, UsageDay
from deployments.models import Operation, OperationResult, Service, UnknownInstance
from deployments.phases import OperationState, Phase
from infini.models import Alert, AlertDelivery, AlertTarget, ApiKey, Event, User
from inventory.installation.plans import fresh_steps
from inventory.models import AIModel, Card, Environment, Installation, Recording, Server, TerminalSession
from inventory.reference import load_reference_cards
from scheduler.library import load_examples
from scheduler.models import Run, RunResult, SavedCommand, Target, Task

M = TypeVar("M", bound=Model)
DAYS = 30  # over which events, runs, requests and the like are spread
USERS, KEYS_OF_A_USER, SERVICES_OF_A_KEY = 100, 2, 5
_USERS_PASSWORD = "!"  # nobody logs in as one of them


def many(model: type[M], count: int, row: Callable[[int], M]) -> list[M]:
    return model._default_manager.bulk_create(map(row, range(count)), batch_size=2000)  # type: ignore[attr-defined]


def fill_large(share: float) -> None:
    """All of it, times ``share``."""

    def of(count: int) -> int:
        return max(3, round(count * share))

    load_reference_cards()
    load_examples()
    with transaction.atomic():
        fill(of(500), of(1000), of=5)
        fill_past(6, requests=0)
        fill_catalogue(of)
        fill_people(of)
        fill_work(of)
        fill_commands(of)
        fill_terminals(of)
        fill_events(of(100_000))
        fill_chats(of)
        fill_usage(of(1_000_000))


def spread(n: int, count: int) -> Any:
    """When the ``n``-th of ``count`` was, oldest first."""
    return timezone.now() - timedelta(days=DAYS) * (1 - n / count)


Count = Callable[[int], int]


def fill_catalogue(of: Count) -> None:
    """Models, cards and environments given to servers and services as evenly as may be."""
    models = many(AIModel, of(200), lambda n: AIModel(name=f"model-{n}", parameters=f"{n % 70 + 1}B"))
    environments = many(Environment, 4, lambda n: Environment(name=f"environment-{n}"))
    cards = list(Card.objects.select_related("brand"))
    servers, services = list(Server.objects.all()), list(Service.objects.all())
    for n, server in enumerate(servers):
        server.card, server.environment = cards[n % len(cards)], environments[n % len(environments)]
        server.brand, server.labels = server.card.brand, {"rack": f"r{n % 40}", "zone": "abc"[n % 3]}
        if n % 50 == 0:
            server.agent_seen_at, server.agent_error = spread(n, len(servers)), "The connection was refused."
    for n, service in enumerate(services):
        service.model, service.environment = models[n % len(models)], environments[n % len(environments)]
    Server.objects.bulk_update(servers, ["card", "brand", "environment", "labels", "agent_seen_at", "agent_error"], 200)
    Service.objects.bulk_update(services, ["model", "environment"], 200)
    many(UnknownInstance, of(500), lambda n: UnknownInstance(
        server=servers[n % len(servers)], key=f"stray-{n}", phase=Phase.RUNNING, pid=n + 2, command="serve",
        started_at=spread(n, of(500)), described_at=timezone.now(),
    ))  # fmt: skip
    many(Endpoint, of(50), lambda n: Endpoint(name=f"elsewhere-{n}", base_url="https://models.example.org/v1"))
    many(TrafficRule, of(200), lambda n: TrafficRule(service=services[n], concurrency=8))


def fill_people(of: Count) -> None:
    people = many(User, of(USERS), lambda n: User(username=f"person-{n}", password=_USERS_PASSWORD, is_staff=True))
    many(ApiKey, len(people) * KEYS_OF_A_USER, lambda n: ApiKey(
        user=people[n % len(people)], name=f"key-{n}", prefix=f"inf-{n:08}", digest=f"{n:064x}",
        last_used_at=timezone.now() if n % 2 else None,
    ))  # fmt: skip
    targets = many(
        AlertTarget, of(20), lambda n: AlertTarget(name=f"target-{n}", address="https://hooks.example.org/x")
    )
    servers = list(Server.objects.all()[: of(500)])
    count = of(5000)
    alerts = many(Alert, count, lambda n: Alert(
        kind="server_offline", subject_kind="server", subject_id=str(n if n < 20 else servers[n % len(servers)].pk),
        subject_name=servers[n % len(servers)].name, message="It does not answer.", opened_at=spread(n, count),
        state="open" if n < 20 else "recovered", recovered_at=None if n < 20 else spread(n, count),
    ))  # fmt: skip
    AlertDelivery.objects.bulk_create(
        [
            AlertDelivery(alert=alert, target=targets[alert.pk % len(targets)], phase="opened", state="sent")
            for alert in alerts
        ],
        batch_size=2000,
    )


def fill_work(of: Count) -> None:
    """Operations with a result per instance, and installations."""
    services = list(Service.objects.prefetch_related("placements__instances", "placements__server"))
    count = of(5000)
    operations = many(Operation, count, lambda n: Operation(
        service=services[n % len(services)], kind="deploy", created_at=spread(n, count), deadline_at=timezone.now(),
        state=OperationState.FAILED if n % 10 == 0 else OperationState.DONE, finished_at=spread(n, count),
    ))  # fmt: skip
    OperationResult.objects.bulk_create(
        [
            OperationResult(operation=operation, instance=instance, server=placement.server,
                            server_name=placement.server.name, generation=1, state="done")
            for operation in operations
            for placement in operation.service.placements.all()
            for instance in placement.instances.all()
        ],
        batch_size=2000,
    )  # fmt: skip
    servers = list(Server.objects.all())
    steps = [step | {"state": "done", "text": "As it should be."} for step in fresh_steps("install")]
    count = of(2000)
    many(Installation, count, lambda n: Installation(
        batch=f"{n // 50:032}", server=servers[n % len(servers)], server_name=servers[n % len(servers)].name,
        state="failed" if n % 20 == 0 else "done", steps=steps, created_at=spread(n, count),
        finished_at=spread(n, count),
    ))  # fmt: skip


def fill_commands(of: Count) -> None:
    many(SavedCommand, of(200), lambda n: SavedCommand(name=f"command-{n}", command="df -h"))
    servers = list(Server.objects.all())
    tasks = many(Task, of(500), lambda n: Task(
        name=f"task-{n}", command="df -h", schedule_type="interval", interval_seconds=3600,
        next_run_at=timezone.now() + timedelta(minutes=n),
    ))  # fmt: skip
    Target.objects.bulk_create(
        [Target(task=task, server=server, server_name=server.name) for n, task in enumerate(tasks)
         for server in (servers * 2)[n % len(servers):][:10]], batch_size=2000,
    )  # fmt: skip
    count = of(10_000)
    runs = many(Run, count, lambda n: Run(
        task=tasks[n % len(tasks)], name=tasks[n % len(tasks)].name, trigger="schedule", command="df -h",
        state="failed" if n % 9 == 0 else "success", reason="2 of 10 failed" if n % 9 == 0 else "",
        created_at=spread(n, count), started_at=spread(n, count), finished_at=spread(n, count),
        fire_at=spread(n, count),
    ))  # fmt: skip
    RunResult.objects.bulk_create(
        [RunResult(run=run, server=servers[(run.pk + k) % len(servers)], server_name="s", output="out\n" * 20,
                   state="failed" if run.state == "failed" and k < 2 else "success", digest=f"{k % 3:064x}")
         for run in runs for k in range(5)], batch_size=2000,
    )  # fmt: skip


def fill_terminals(of: Count) -> None:
    servers, people = list(Server.objects.all()), list(User.objects.all())
    count = of(5000)
    sessions = many(TerminalSession, count, lambda n: TerminalSession(
        key=f"{n:032x}", user=people[n % len(people)], user_name=people[n % len(people)].username,
        server=servers[n % len(servers)], server_name=servers[n % len(servers)].name, account="root", process="gone",
        opened_at=spread(n, count), ended_at=spread(n, count), ending="exit", exit_status=0, output_bytes=n,
    ))  # fmt: skip
    many(Recording, count, lambda n: Recording(
        session=sessions[n], file=f"{n}.cast", state="finished", seconds=n % 600, bytes=n))  # fmt: skip


def fill_events(count: int) -> None:
    servers, services = list(Server.objects.all()), list(Service.objects.all())
    people = list(User.objects.all())

    def row(n: int) -> Event:
        subject: Any = servers[n % len(servers)] if n % 2 else services[n % len(services)]
        kind, word = ("server", "changed") if n % 2 else ("service", "deployed")
        actor = people[n % len(people)] if n % 3 else None
        data = {"maintenance": [False, True]} if n % 2 else {"revision": n % 40, "operation": n}
        return Event(
            at=spread(n, count), kind=f"{kind}.{word}", subject_kind=kind, subject_id=str(subject.pk),
            subject_name=subject.name, actor=actor, actor_name=actor.username if actor else "", data=data,
        )  # fmt: skip

    many(Event, count, row)


def fill_chats(of: Count) -> None:
    admin, services = User.objects.get(username="admin"), list(Service.objects.all())
    count = of(1000)
    made = many(Conversation, count, lambda n: Conversation(
        service=services[n % len(services)], user=admin, title=f"Talk {n}", changed_at=spread(n, count)))  # fmt: skip
    words = ("What is an agent?", "It runs on each server. " * 20)
    Message.objects.bulk_create(
        [Message(conversation=talk, role=("user", "assistant")[k % 2], content=words[k % 2])
         for talk in made for k in range(10)], batch_size=2000,
    )  # fmt: skip


def fill_usage(count: int) -> None:
    """In one statement; each key asks a few services. The sums of the days are added up from it."""
    keys = list(ApiKey.objects.select_related("user").filter(name__startswith="key-"))
    services = list(Service.objects.select_related("model"))
    table, days = (connection.ops.quote_name(model._meta.db_table) for model in (Usage, UsageDay))
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE caller (n INTEGER PRIMARY KEY, user_id, user_name, key_id, key_name)")
        cursor.execute("CREATE TEMP TABLE called (n INTEGER PRIMARY KEY, service_id, service_name, model)")
        callers = [(n, key.user_id, key.user.username, key.pk, key.name) for n, key in enumerate(keys)]
        called = [(n, s.pk, s.name, str(s.model)) for n, s in enumerate(services)]
        cursor.executemany("INSERT INTO caller VALUES (%s, %s, %s, %s, %s)", callers)
        cursor.executemany("INSERT INTO called VALUES (%s, %s, %s, %s)", called)
        begin = (timezone.now() - timedelta(days=DAYS)).timestamp()
        step = DAYS * 86400 / count
        cursor.execute(
            "WITH RECURSIVE place(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM place WHERE n + 1 < %s) "  # noqa: S608
            f"INSERT INTO {table} (at, user_id, user_name, key_id, key_name, service_id, endpoint_id, service_name, "
            "instance, model, path, streamed, prompt_tokens, completion_tokens, estimated, first_token_ms, "
            "duration_ms, outcome) SELECT strftime('%%Y-%%m-%%d %%H:%%M:%%f', %s + place.n * %s, 'unixepoch'), "
            "user_id, user_name, key_id, key_name, service_id, 0, service_name, 'i', model, 'chat', 1, "
            "300 + place.n %% 700, 90 + place.n %% 200, 0, 200, 3000, "
            "CASE WHEN place.n %% 50 THEN 'complete' ELSE 'failed' END "
            "FROM place JOIN caller ON caller.n = place.n %% %s "
            "JOIN called ON called.n = (place.n %% %s * 7 + place.n / %s %% %s) %% %s",
            [count, begin, step, len(keys), len(keys), len(keys), SERVICES_OF_A_KEY, len(services)],
        )
        cursor.execute(
            f"INSERT INTO {days} (day, user_id, user_name, key_id, key_name, service_id, endpoint_id, "  # noqa: S608
            "service_name, model, requests, cancelled, failed, estimated, prompt_tokens, completion_tokens, "
            "first_token_ms, first_tokens, duration_ms) SELECT date(at), user_id, user_name, key_id, key_name, "
            "service_id, endpoint_id, service_name, model, count(*), 0, sum(outcome = 'failed'), 0, "
            "sum(prompt_tokens), sum(completion_tokens), sum(first_token_ms), count(*), sum(duration_ms) "
            f"FROM {table} GROUP BY 1, 2, 4, 6, 9"
        )


if __name__ == "__main__":
    key = key_of_admin()
    fill_large(float(sys.argv[1]) / 100)
    print(key)
