"""What reports do to what is known, whatever their order."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import lifecycle, reports
from deployments.models import Instance, Service
from deployments.phases import Phase
from deployments.reports import Report
from infini.models import Event
from inventory.models import Server
from tests.deployments.conftest import status_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def silent_server(db: None) -> Server:
    return Server.objects.create(name="s", host_ip="127.0.0.1", agent_token="t")


@pytest.fixture
def instance(silent_server: Server, make_service: Callable[..., Service]) -> Instance:
    """One that its agent has taken and that runs."""
    service = make_service("sleep 300", silent_server)
    operation = lifecycle.deploy(service, by=None)
    operation.results.update(state="done")
    type(operation).objects.update(state="done")
    Instance.objects.update(acked_generation=1, phase=Phase.RUNNING, ready=True, pid=77)
    return Instance.objects.get()


def document(instance: Instance, **fields: object) -> dict:
    service = {
        "id": instance.key, "phase": "running", "ready": True, "pid": 77, "generation": instance.generation,
        "exit_code": None, "restarts": 0, "reason": "", "port": None, "started_at": None,
    }  # fmt: skip
    return service | fields


def report(server: Server, *services: dict, ago: float = 0, **parts: object) -> Report:
    asked_at = timezone.now() - timedelta(seconds=ago)
    return Report(server.pk, asked_at, {"services": list(services), **parts})


def test_a_report_makes_the_server_online_with_its_figures(silent_server: Server) -> None:
    assert Server.objects.with_status().get().status == "unknown"

    reports.record_reports(
        [report(silent_server, agent={"version": "9", "boot_id": "b"}, host={"cpu_percent": 12.5, "errors": {}})]
    )

    server = Server.objects.with_status().get()
    assert (server.status, server.agent_version, server.boot_id) == ("online", "9", "b")
    assert server.figures["cpu_percent"] == 12.5


def test_a_failed_report_makes_it_offline_once_it_was_silent_long_enough(silent_server: Server) -> None:
    reports.record_reports([report(silent_server, ago=60)])
    reports.record_reports([Report(silent_server.pk, timezone.now(), None, "It cannot be reached.")])

    server = Server.objects.with_status().get()
    assert (server.status, server.agent_error) == ("offline", "It cannot be reached.")


def test_an_exit_is_seen_with_its_code_and_makes_an_event(silent_server: Server, instance: Instance) -> None:
    seen = document(instance, phase="failed", ready=False, exit_code=9, reason="exit 9")
    reports.record_reports([report(silent_server, seen)])

    instance.refresh_from_db()
    assert (instance.phase, instance.ready, instance.exit_code) == ("failed", False, 9)
    assert status_of(Service.objects.get()) == "online"
    assert Event.objects.filter(kind="instance.phase", data__to="failed").count() == 1

    reports.record_reports([report(silent_server, seen)])
    assert Event.objects.filter(kind="instance.phase", data__to="failed").count() == 1


def test_an_unseen_exit_is_said_to_be_unknown(silent_server: Server, instance: Instance) -> None:
    reports.record_reports([report(silent_server, document(instance, phase="failed", exit_code="unknown"))])
    instance.refresh_from_db()
    assert (instance.exit_code, instance.shown_exit_code) == (None, "unknown")


def test_a_report_asked_before_the_last_observation_changes_nothing(silent_server: Server, instance: Instance) -> None:
    reports.record_reports([report(silent_server, document(instance, phase="failed", exit_code=1))])
    reports.record_reports([report(silent_server, document(instance), ago=30)])
    instance.refresh_from_db()
    assert instance.phase == Phase.FAILED


def test_what_runs_of_an_older_generation_is_not_ready(silent_server: Server, instance: Instance) -> None:
    Instance.objects.update(generation=2, acked_generation=1, phase=Phase.FAILED, ready=False)
    reports.record_reports([report(silent_server, document(instance, generation=1))])
    instance.refresh_from_db()
    assert (instance.phase, instance.ready) == ("running", False)
    assert "What was deployed before still runs" in instance.reason


def test_an_agent_ahead_of_a_restored_database_is_believed(silent_server: Server, instance: Instance) -> None:
    reports.record_reports([report(silent_server, document(instance, generation=41))])
    instance.refresh_from_db()
    assert (instance.generation, instance.acked_generation, instance.ready) == (41, 41, True)


def test_an_instance_its_agent_forgot_is_pending_again_its_exit_unknown(
    silent_server: Server, instance: Instance
) -> None:
    reports.record_reports([report(silent_server)])
    instance.refresh_from_db()
    assert (instance.phase, instance.shown_exit_code) == ("pending", "unknown")
    assert "does not know" in instance.reason


def test_silence_is_lost_not_stopped_and_the_next_report_restores(silent_server: Server, instance: Instance) -> None:
    reports.record_reports([report(silent_server, document(instance), ago=60)])
    assert reports.mark_lost() == 1
    instance.refresh_from_db()
    assert (instance.phase, instance.ready) == ("lost", False)
    assert status_of(Service.objects.get()) == "offline"

    reports.record_reports([report(silent_server, document(instance))])
    instance.refresh_from_db()
    assert (instance.phase, instance.ready, instance.pid) == ("running", True, 77)
    assert status_of(Service.objects.get()) == "deployed"


@pytest.mark.parametrize(
    "line",
    [None, 5, {}, {"id": "x" * 65}, {"phase": "dancing"}, {"pid": "seven"}, {"generation": True}],
)
def test_a_nonsense_line_changes_nothing_and_spares_the_others(
    silent_server: Server, instance: Instance, line: object
) -> None:
    nonsense = document(instance, **line) if isinstance(line, dict) and line else line
    good = document(instance, phase="succeeded", ready=False, exit_code=0)
    reports.record_reports([report(silent_server, nonsense, good)])  # type: ignore[arg-type]
    instance.refresh_from_db()
    assert instance.phase == Phase.SUCCEEDED


def test_a_round_takes_the_same_number_of_queries_for_many_servers(django_assert_max_num_queries: Callable) -> None:
    servers = [Server.objects.create(name=f"n{n}", host_ip="h", agent_token="t") for n in range(60)]
    with django_assert_max_num_queries(8):
        reports.record_reports([report(server) for server in servers])
