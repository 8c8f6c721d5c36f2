"""One of everything in an environment that somebody is limited to, and the same in one that he is not to notice."""

from dataclasses import dataclass, field
from datetime import timedelta

from django.contrib.auth.models import Group
from django.utils import timezone

from chat.models import Conversation, Endpoint, Message, Role, TrafficRule, Usage, UsageDay
from deployments import lifecycle
from deployments.models import DeviceClaim, Instance, Operation, OperationResult, Service, UnknownInstance
from deployments.phases import OperationState, Phase
from deployments.specs import create_service
from infini import alerts, events, keys
from infini.models import Alert, AlertKind, AlertTarget, SavedList, User
from inventory.installation.states import State
from inventory.limits import limit
from inventory.models import (
    AIModel,
    Brand,
    Card,
    Device,
    Environment,
    Installation,
    Recording,
    Server,
    TerminalSession,
)
from inventory.terminals.models import Ending, RecordingState
from scheduler import planning, runs
from scheduler.models import Run, SavedCommand, Task

HIDDEN = "zhidden"  # in the name of everything that lies in the other environment
SHOWN = "zshown"


@dataclass
class Place:
    """The ids of one environment's rows, by the names that addresses have for them."""

    ids: dict[str, str] = field(default_factory=dict)
    talks: dict[str, str] = field(default_factory=dict)  # a conversation of each person's own

    def fill(self, path: str, who: str = "operator") -> str:
        for name, value in {**self.ids, "conversation": self.talks.get(who, "0")}.items():
            path = path.replace(f"<{name}>", value)
        return path


@dataclass
class World:
    people: dict[str, User]
    shown: Place
    hidden: Place


def person(name: str, role: str | None) -> User:
    user = User.objects.create_user(name, password="a-long-password", is_staff=True)
    if role:
        user.groups.add(Group.objects.get(name=role))
    return user


def make_world() -> World:
    """A viewer and an operator limited to the environment ``zshown``, an administrator, and one with no role."""
    here, elsewhere = (Environment.objects.create(name=f"{tag}-env") for tag in (SHOWN, HIDDEN))
    people = {
        "no role": person("norole", None),
        "viewer": person("vera", "viewer"),
        "operator": person("otto", "operator"),
        "administrator": person("ada", "administrator"),
    }
    for name in ("viewer", "operator"):
        limit(people[name], [here])
    ids = _global_ids(people)
    both = AIModel.objects.create(name="of-both")
    both.environments.add(here, elsewhere)
    Endpoint.objects.create(name="for-both", base_url="http://127.0.0.1:1/v1", model=both)
    shown, hidden = (_place(tag, place, people, ids) for tag, place in ((SHOWN, here), (HIDDEN, elsewhere)))
    return World(people, shown, hidden)


def _global_ids(people: dict[str, User]) -> dict[str, str]:
    """Of what lies in no environment."""
    brand = Brand.objects.create(name="Maker", vendor="maker")
    card = Card.objects.create(brand=brand, name="C1", memory=64)
    saved = SavedCommand.objects.create(name="uptime", command="uptime")
    target = AlertTarget.objects.create(name="hook", address="http://127.0.0.1:1/")
    key, _text = keys.create_key(user=people["no role"], name="a key", by=None)
    tab = SavedList.objects.create(user=people["no role"], page="infini.apikey", name="a tab", query="q=a")
    rows = {"brand": brand, "card": card, "command": saved, "target": target, "apikey": key, "saved": tab}
    ids = {name: str(row.pk) for name, row in rows.items()}
    subject = person("somebody", "viewer")
    named = {"user": str(subject.pk), "group": str(Group.objects.create(name="more").pk), "number": "1"}
    texts = {"app": "inventory", "anything": "nothing/of/it", "type": "1", "id": "1", "filename": "none.png"}
    return {**ids, **named, **texts, "name": "none", "file": "css/infini.css"}


def _place(tag: str, environment: Environment, people: dict[str, User], more: dict[str, str]) -> Place:
    brand, otto, now = Brand.objects.get(name="Maker"), people["operator"], timezone.now()
    model = AIModel.objects.create(name=f"{tag}-model")
    model.environments.add(environment)
    server = Server.objects.create(
        **{"name": f"{tag}-server", "host_ip": "127.0.0.1", "environment": environment, "brand": brand},
        **{"agent_version": f"1.{tag}", "labels": {"rack": tag}},
    )
    device = Device.objects.create(server=server, uuid=f"{tag}-uuid", index=0, vendor="maker", name=f"{tag}-device")
    service = create_service(
        Service(name=f"{tag}-service", environment=environment, model=model, served_model=f"{tag}-served"),
        servers=[server],
        spec={"command": f"run {tag} --port {{port}}"},
        by=None,
    )
    operation = lifecycle.deploy(service, by=None)
    instance = Instance.objects.get(placement__service=service)
    Instance.objects.filter(pk=instance.pk).update(phase=Phase.LOST, reason=f"{tag} went away", key=f"{tag}-1")
    Operation.objects.filter(pk=operation.pk).update(state=OperationState.FAILED, reason=f"{tag} failed", by=None)
    OperationResult.objects.filter(operation=operation).update(log_tail=f"{tag} log")
    DeviceClaim.objects.create(device=device, instance=instance)
    unknown = UnknownInstance.objects.create(
        server=server, key=f"{tag}-unknown", phase=Phase.FAILED, command=f"{tag} command", described_at=now
    )
    installation = Installation.objects.create(
        batch=f"{tag}-batch", server=server, server_name=server.name, state=State.FAILED, reason=f"{tag} no way"
    )
    session = TerminalSession.objects.create(
        **{"key": f"{len(tag):032x}", "user": otto, "user_name": "otto", "server": server, "server_name": server.name},
        **{"account": "root", "service_name": service.name, "process": "none", "ended_at": now, "ending": Ending.EXIT},
    )
    recording = Recording.objects.create(session=session, file=f"{tag}.cast", state=RecordingState.FINISHED)
    task = planning.create_task(
        Task(name=f"{tag}-task", command=f"echo {tag}", schedule_type="interval", interval_seconds=3600),
        servers=[server],
        by=None,
    )
    run = runs.execute(task, by=None)
    Run.objects.filter(pk=run.pk).update(state="failed", finished_at=now, reason=f"{tag} broke")
    run.results.update(state="failed", output=f"{tag} output", finished_at=now)
    rule = TrafficRule.objects.create(service=service, concurrency=3)
    endpoint = Endpoint.objects.create(name=f"{tag}-endpoint", base_url=f"http://127.0.0.1:1/{tag}", model=model)
    talks = {}
    for who, user in people.items():
        talks[who] = Conversation.objects.create(service=service, user=user, title=f"{tag} talk")
        Message.objects.create(conversation=talks[who], role=Role.USER, content=f"{tag} said")
    _used(tag, service, otto)
    alerts.open_alert(AlertKind.SERVER_OFFLINE, alerts.Subject.of(server), f"{tag} is silent")
    alerts.open_alert(AlertKind.TASK_MISSED, alerts.Subject.of(task), f"{tag} was missed")
    event = events.record("server.changed", server, by=None, data={"labels": [{}, {"rack": tag}]})
    rows = {
        **{"environment": environment, "model": model, "server": server, "device": device, "service": service},
        **{"operation": operation, "instance": instance, "unknown": unknown, "installation": installation},
        **{"terminal": session, "recording": recording, "task": task, "run": run, "rule": rule, "endpoint": endpoint},
        **{"event": event, "alert": Alert.objects.filter(subject_id=str(server.pk), subject_kind="server").get()},
    }
    ids = {name: str(row.pk) for name, row in rows.items()}
    own = {"terminal-key": session.key, "key": unknown.key, "batch": installation.batch}
    return Place({**more, **ids, **own}, {who: str(talk.pk) for who, talk in talks.items()})


def _used(tag: str, service: Service, user: User) -> None:
    told = {"user_id": user.pk, "user_name": user.username, "service_id": service.pk, "service_name": service.name}
    Usage.objects.create(**told, model=f"{tag}-served", path="chat", outcome="complete", prompt_tokens=5)
    day = timezone.now().date() - timedelta(days=1)
    UsageDay.objects.create(**told, day=day, model=f"{tag}-served", requests=1, prompt_tokens=5)
