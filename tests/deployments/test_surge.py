"""The new instance beside the old one where there is room, so that nothing is missing; else the old one ends first."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from deployments import closing, lifecycle, rollout, steps
from deployments.asking import refresh_now
from deployments.models import DeviceClaim, Instance, Operation, PortClaim, Service
from deployments.phases import OperationState
from deployments.reconcile import reconcile
from deployments.specs import change_service
from deployments.upstreams import upstreams_of
from infini.models import Alert, Event
from inventory.models import Server
from tests.deployments.conftest import fall_silent, status_of, turn
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]
Equip = Callable[[Server, int], None]
SERVE = f"exec {sys.executable} -m http.server {{port}} --bind {{host}} # one"


def rolling(service: Service, **columns: Any) -> Service:
    """Deployed once, from now on one by one."""
    Service.objects.filter(pk=service.pk).update(max_unavailable=1, **columns)
    service.refresh_from_db()
    turn(lifecycle.deploy(service, by=None))
    assert status_of(service) == "deployed"
    service.refresh_from_db()
    return service


def revise(service: Service, command: str) -> Operation:
    """A new command, and its deployment begun."""
    service.refresh_from_db()
    change_service(service, [], servers=None, spec={"command": command}, by=None)
    return lifecycle.deploy(service, by=None)


def rows() -> dict[str, Instance]:
    """Instances by key."""
    return {i.key: i for i in Instance.objects.select_related("placement__server", "revision")}


def known_to(server: Server) -> dict[str, str]:
    """What its agent has, with the phase."""
    return {i["id"]: i["phase"] for i in server.agent.request("GET", "/services")[1]["services"]}


def until_beside(operation: Operation) -> Instance:
    """Step until a successor was started; it runs and has not taken over."""

    def successor() -> Instance | None:
        steps.advance(operation.pk)
        return Instance.objects.filter(replaces__isnull=False, pid__isnull=False).first()

    found = wait_until(successor, 10)
    assert found
    return found


def test_nothing_is_missing_for_a_moment_and_all_is_new_at_the_end(make_server: Callable, make_service: Make) -> None:
    servers = [make_server(name) for name in ("a", "b")]
    service = rolling(make_service(SERVE, *servers))
    before = rows()
    operation = revise(service, SERVE + " two")
    ready: list[int] = []

    def closed() -> bool:
        steps.advance(operation.pk)
        ready.append(len(upstreams_of(service.pk)))
        refresh_now()
        ready.append(len(upstreams_of(service.pk)))
        now = Service.objects.with_status().get(pk=service.pk)
        assert (now.ready_count, now.wanted_count) == (2, 2)  # type: ignore[attr-defined]
        return not Operation.objects.get(pk=operation.pk).is_open

    wait_until(closed, 30)
    after = rows()
    assert min(ready) == 2 and max(ready) >= 3
    assert not set(before) & set(after) and len(after) == 2
    assert {i.ordinal for i in after.values()} == {0} and {i.revision.number for i in after.values()} == {2}
    assert not any(is_running(i.pid) for i in before.values())
    assert [known_to(server) for server in servers] == [{i.key: "running"} for i in after.values()]
    assert set(PortClaim.objects.values_list("port", flat=True)) == {i.port for i in after.values()}
    operation.refresh_from_db()
    assert operation.state == OperationState.DONE and operation.results.count() == 4
    notes = set(operation.results.values_list("note", flat=True))
    assert "Ends, since the new one has taken its place." in notes
    assert {f"Started beside the old one, with port {i.port}." for i in after.values()} <= notes
    assert Event.objects.filter(kind="instance.took_over", data__in_place_of__in=list(before)).count() == 2


def test_a_new_one_that_fails_leaves_all_as_it_was(make_server: Callable, make_service: Make) -> None:
    servers = [make_server(name) for name in ("a", "b")]
    service = rolling(make_service("sleep 300 # one", *servers))
    before = {key: (i.pid, i.generation) for key, i in rows().items()}

    failed = turn(revise(service, "echo broken; exit 7"))
    returning = turn(Operation.objects.filter(kind="roll_back").get())

    failed.refresh_from_db()
    assert (failed.state, returning.state) == (OperationState.RETURNED, OperationState.DONE)
    assert "1 of 2 failed" in failed.reason and "code 7" in failed.reason  # of two servers
    assert failed.results.exclude(log_tail="").get().log_tail == "broken"
    assert {key: (i.pid, i.generation) for key, i in rows().items()} == before
    assert all(is_running(pid) for pid, _ in before.values())
    assert sorted(key for server in servers for key in known_to(server)) == sorted(before)
    assert status_of(service) == "deployed"
    assert Alert.objects.get(kind="rolled_back").state == "open"
    assert dict(service.revisions.values_list("number", "outcome")) == {1: "good", 2: "bad"}
    service.refresh_from_db()
    assert service.good_revision == service.current_revision == service.revisions.get(number=1)
    reasons = set(failed.results.filter(state="cancelled").values_list("reason", flat=True))
    assert reasons == {
        "It goes on untouched, because the new one failed.",
        "Not begun, because the new revision failed before.",
    }


def test_each_server_goes_the_way_that_its_devices_allow(
    make_server: Callable, make_service: Make, equip: Equip
) -> None:
    roomy, full = make_server("roomy"), make_server("full")
    equip(roomy, 2)
    equip(full, 1)
    service = rolling(make_service("sleep 300 # one", roomy, full, devices=1))
    before = {i.placement.server.name: i for i in rows().values()}

    operation = turn(revise(service, "sleep 300 # two"))

    after = {i.placement.server.name: i for i in rows().values()}
    assert operation.state == OperationState.DONE
    assert after["roomy"].key != before["roomy"].key and after["full"].key == before["full"].key
    assert {i.revision.number for i in after.values()} == {2}
    claims = {c.instance.key: c.device.index for c in DeviceClaim.objects.select_related("device", "instance")}
    assert claims == {after["roomy"].key: 1, after["full"].key: 0}
    notes = dict(
        operation.results.filter(instance__in=[i.pk for i in after.values()]).values_list("server_name", "note")
    )
    assert notes["roomy"] == "Started beside the old one, with devices 1."
    assert notes["full"] == "Ended first: full: 1 device is needed and 0 of 1 are free."


def test_what_reserves_no_devices_is_not_doubled_where_there_are_some(
    server: Server, make_service: Make, equip: Equip
) -> None:
    equip(server, 2)
    service = rolling(make_service("sleep 300 # one", server))
    assert "reserves no devices" in turn(revise(service, "sleep 300 # two")).results.get().note


def test_a_fixed_port_leaves_room_for_one(server: Server, make_service: Make) -> None:
    port = 10000 + server.agent.port % 1000
    service = rolling(make_service("sleep 300 # one", server, port=port, probes={"type": "none"}))
    operation = turn(revise(service, "sleep 300 # two"))
    assert operation.results.get().note == f"Ended first: both need port {port}."


@pytest.mark.parametrize(
    ("module", "name", "after"),
    [
        (steps, "_record", False),
        (steps, "_record", True),
        (rollout, "_take_turn", True),
        (rollout, "_hand_over", True),
        (closing, "settle", False),
    ],
)
def test_a_worker_that_dies_anywhere_loses_nothing_and_starts_nothing_twice(
    server: Server, make_service: Make, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, after: bool
) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    operation = revise(service, "sleep 300 # two")
    whole = getattr(module, name)
    deaths: list[int] = []

    def dies(*args: Any, **options: Any) -> None:
        if after or deaths:
            whole(*args, **options)
        if not deaths:
            deaths.append(1)
            raise KeyboardInterrupt

    monkeypatch.setattr(module, name, dies)
    while not deaths:
        refresh_now()
        try:
            steps.advance(operation.pk)
        except KeyboardInterrupt:
            Operation.objects.update(leased_until=None)
    done = turn(operation)

    [instance] = rows().values()
    assert done.state == OperationState.DONE and instance.revision.number == 2
    assert known_to(server) == {instance.key: "running"}
    assert server.agent.status(instance.key)["restarts"] == 0 and instance.generation == 1


def test_stop_in_between_ends_both_and_keeps_one(server: Server, make_service: Make) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    [old] = rows().values()
    new = until_beside(revise(service, "sleep 300 # two"))

    turn(lifecycle.stop(service, by=None))

    [left] = rows().values()
    assert (left.key, left.wanted, left.phase) == (old.key, "stopped", "stopped")
    assert known_to(server) == {old.key: "stopped"}
    assert not is_running(new.pid) and not is_running(old.pid)
    turn(lifecycle.deploy(service, by=None))
    assert [(i.key, i.revision.number) for i in rows().values()] == [(old.key, 2)]


def test_delete_in_between_leaves_nothing(server: Server, make_service: Make) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    until_beside(revise(service, "sleep 300 # two"))
    turn(lifecycle.delete(service, by=None))
    assert not Service.objects.exists() and not known_to(server)


def test_a_server_that_falls_silent_in_between_keeps_the_old_one(server: Server, make_service: Make) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    [old] = rows().values()
    operation = revise(service, "sleep 300 # two")
    rollout.take_turns(Operation.objects.select_related("service", "revision").get(pk=operation.pk))
    fall_silent(server)

    failed = turn(operation)
    turn(Operation.objects.filter(kind="roll_back").get())
    assert failed.state == OperationState.RETURNED and is_running(old.pid)
    assert Service.objects.get().current_revision.number == 1

    server.agent.start()
    refresh_now()
    assert reconcile([server.pk]) == 1
    turn(Operation.objects.filter(kind="reconcile").get())
    assert {key: i.pid for key, i in rows().items()} == {old.key: old.pid}
    assert (known_to(server), status_of(service)) == ({old.key: "running"}, "deployed")
    assert reconcile([server.pk]) == 0


def test_a_new_one_called_off_without_a_way_back_is_ended_by_reconciling(server: Server, make_service: Make) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    [old] = rows().values()
    operation = revise(service, "sleep 300 # two")
    new = until_beside(operation)
    Service.objects.update(good_revision=None)
    Operation.objects.update(deadline_at="2026-01-01T00:00:00Z")  # past

    assert turn(operation).state == OperationState.FAILED
    assert {key: i.wanted for key, i in rows().items()} == {old.key: "running", new.key: "gone"}
    refresh_now()
    assert reconcile([server.pk]) == 1
    turn(Operation.objects.filter(kind="reconcile").get())
    assert known_to(server) == {old.key: "running"} and set(rows()) == {old.key}
    assert is_running(old.pid) and status_of(service) == "deployed"


def test_an_old_one_that_cannot_be_ended_does_not_send_the_new_one_back(
    server: Server, make_service: Make, settings: Any
) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    operation = revise(service, "sleep 300 # two")
    settings.DRAIN_SECONDS = 0.5
    until_beside(operation)
    wait_until(lambda: refresh_now() or steps.advance(operation.pk) or Instance.objects.filter(wanted="gone").exists())
    fall_silent(server)

    assert turn(operation).state == OperationState.FAILED
    assert not Operation.objects.filter(kind="roll_back").exists()
    server.agent.start()
    refresh_now()
    reconcile([server.pk])
    turn(Operation.objects.filter(kind="reconcile").get())
    assert [(i.revision.number, i.phase) for i in rows().values()] == [(2, "running")]


def test_the_old_one_gets_no_requests_and_time_to_end_its_own(
    server: Server, make_service: Make, settings: Any
) -> None:
    service = rolling(make_service(SERVE, server))
    [old] = rows().values()
    settings.DRAIN_SECONDS = 1.0
    operation = revise(service, SERVE + " two")
    until_beside(operation)
    gone = Instance.objects.filter(key=old.key, wanted="gone")
    wait_until(lambda: refresh_now() or steps.advance(operation.pk) or gone.exists())

    steps.advance(operation.pk)
    assert is_running(old.pid) and old.key not in {u.key for u in upstreams_of(service.pk)}
    assert len(upstreams_of(service.pk)) == 1
    refresh_now()
    assert gone.get().reason == ""
    assert turn(operation).state == OperationState.DONE and not is_running(old.pid)


def test_no_instance_has_two_successors(server: Server, make_service: Make) -> None:
    service = rolling(make_service("sleep 300 # one", server))
    new = until_beside(revise(service, "sleep 300 # two"))
    third = Instance(placement=new.placement, revision=new.revision, ordinal=7, key="third", replaces=new.replaces)
    with pytest.raises(IntegrityError), transaction.atomic():
        third.save()
    with pytest.raises(IntegrityError), transaction.atomic():
        Instance.objects.filter(pk=new.pk).update(wanted="stopped")
