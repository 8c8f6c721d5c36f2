"""Rolling updates: so many at a time, not on after a failure, and back to what was good."""

from collections.abc import Callable

import pytest

from deployments import lifecycle, steps
from deployments.asking import refresh_now
from deployments.models import Instance, Operation, Service
from deployments.phases import OperationState
from deployments.specs import change_service
from infini.models import Alert, Event
from inventory.models import Server
from tests.deployments.conftest import status_of, turn
from tests.real_agent import is_running, wait_until

pytestmark = pytest.mark.django_db(transaction=True)
Make = Callable[..., Service]


@pytest.fixture
def service(make_server: Callable[..., Server], make_service: Make) -> Service:
    """One that runs on three servers, one of them unavailable at most, the old one ended first."""
    made = make_service("sleep 300 # one", *(make_server(name) for name in ("a", "b", "c")))
    Service.objects.update(max_unavailable=1, surge=False)
    made.refresh_from_db()
    turn(lifecycle.deploy(made, by=None))
    assert status_of(made) == "deployed"
    made.refresh_from_db()
    return made


def revise(service: Service, command: str) -> None:
    change_service(service, [], servers=None, spec={"command": command}, by=None)


def numbers() -> dict[str, int]:
    return dict(Instance.objects.values_list("placement__server__name", "revision__number"))


def test_never_more_than_so_many_are_unavailable(service: Service) -> None:
    revise(service, "sleep 300 # two")
    operation = lifecycle.deploy(service, by=None)
    least = 3

    def closed() -> bool:
        nonlocal least
        steps.advance(operation.pk)
        least = min(least, Instance.objects.filter(ready=True).count())
        refresh_now()
        return not Operation.objects.get(pk=operation.pk).is_open

    wait_until(closed, 30)
    assert least == 2
    assert numbers() == {"a": 2, "b": 2, "c": 2}
    assert status_of(service) == "deployed"


def test_a_failing_revision_goes_back_by_itself_and_the_rest_is_not_touched(service: Service) -> None:
    before = {i.placement.server.name: i.pid for i in Instance.objects.select_related("placement__server")}
    revise(service, "echo broken; exit 7")

    failed = turn(lifecycle.deploy(service, by=None))
    failed.refresh_from_db()
    turn(Operation.objects.filter(kind="roll_back").get())

    assert failed.state == OperationState.RETURNED
    assert failed.reason.startswith("r2 failed, r1 is deployed again.") and "code 7" in failed.reason
    assert numbers() == {"a": 1, "b": 1, "c": 1}
    assert status_of(service) == "deployed"
    after = {i.placement.server.name: i.pid for i in Instance.objects.select_related("placement__server")}
    untouched = [name for name, pid in before.items() if after[name] == pid]
    assert len(untouched) == 2 and all(is_running(pid) for pid in after.values())
    service.refresh_from_db()
    assert service.current_revision.number == 1
    assert Event.objects.filter(kind="service.returned", data__revision=[2, 1]).exists()
    alert = Alert.objects.get(kind="rolled_back")
    assert (alert.state, alert.subject_name) == ("open", "svc") and "r1 is deployed again" in alert.message

    revise(service, "sleep 300 # better")
    turn(lifecycle.deploy(service, by=None))
    alert.refresh_from_db()
    assert alert.state == "recovered"


def test_without_a_good_revision_it_fails_and_stays(make_server: Callable[..., Server], make_service: Make) -> None:
    made = make_service("exit 7", make_server("a"))
    Service.objects.update(max_unavailable=1)
    made.refresh_from_db()
    assert turn(lifecycle.deploy(made, by=None)).state == OperationState.FAILED
    assert not Operation.objects.filter(kind="roll_back").exists()


def test_a_command_edited_meanwhile_does_not_join_the_rollout(service: Service) -> None:
    revise(service, "sleep 300 # two")
    operation = lifecycle.deploy(service, by=None)
    steps.advance(operation.pk)
    revise(service, "sleep 300 # three")
    turn(operation)
    assert set(numbers().values()) == {2}
    service.refresh_from_db()
    assert (service.good_revision.number, service.current_revision.number) == (2, 3)


def test_stop_in_mid_rollout_stops_all(service: Service) -> None:
    revise(service, "sleep 300 # two")
    operation = lifecycle.deploy(service, by=None)
    steps.advance(operation.pk)
    turn(lifecycle.stop(service, by=None))
    operation.refresh_from_db()
    assert operation.state == OperationState.CANCELLED
    assert not operation.results.filter(state__in=["waiting", "sent"]).exists()
    assert not any(is_running(pid) for pid in Instance.objects.values_list("pid", flat=True) if pid)
