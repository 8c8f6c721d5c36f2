"""Revisions beside each other in API and page, with secrets masked; back to any of them; notes and verdicts."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from rest_framework.test import APIClient

from deployments.models import Operation, Revision, Service
from deployments.specs import change_service
from tests.admin.conftest import count_queries, messages_of, run_instances

pytestmark = pytest.mark.django_db


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    """With three revisions; the first two were deployed."""
    made = make_service(
        "qwen", command="run --port {port}\n  --old", env={"A": "1"}, secret_env={"KEY": "k3y", "B": "x"}
    )
    run_instances(made)
    revise(made, command="run --port {port}\n  --new", secret_env={"KEY": "0ther", "B": "x", "C": "n3w"}, note="faster")
    run_instances(made)
    revise(made, env={"A": "2"}, restart="always")
    return made


def revise(service: Service, **spec: Any) -> None:
    service.refresh_from_db()
    change_service(service, [], servers=None, spec=spec, by=None)


def test_any_two_are_compared_and_secrets_masked(service: Service, api: APIClient) -> None:
    path = f"/api/services/{service.pk}/revisions/diff"
    answer = api.get(f"{path}?from=1&to=2")
    assert answer.json() == {
        "from": 1,
        "to": 2,
        "changes": {
            "command": ["run --port {port}\n  --old", "run --port {port}\n  --new"],
            "secret_env": [{"B": "set", "KEY": "set"}, {"B": "set", "C": "set", "KEY": "set, changed"}],
        },
    }
    assert api.get(f"{path}?from=3&to=1").json()["changes"]["env"] == [{"A": "2"}, {"A": "1"}]
    assert api.get(f"{path}?from=2&to=2").json()["changes"] == {}
    assert api.get(f"{path}?from=1&to=9").status_code == 404
    assert api.get(f"{path}?from=1").status_code == 400
    listed = api.get(f"/api/services/{service.pk}/revisions")
    for secret in ("k3y", "0ther", "n3w"):
        assert secret not in answer.content.decode() + listed.content.decode()


def test_the_page_shows_lines_and_goes_back_to_any_by_a_click(service: Service, operating: Client) -> None:
    page = f"/admin/deployments/service/{service.pk}/revisions/"
    assert 'href="?tab=revisions"' in operating.get(f"/admin/deployments/service/{service.pk}/").content.decode()
    shown = operating.get(f"{page}?from=1&to=2", follow=True).content.decode()
    for text in ("-   --old", "+   --new", "KEY=set, changed", "faster", "Roll back to r1"):
        assert text in shown, text
    assert "k3y" not in shown and "0ther" not in shown
    assert "From r2 to r3" in operating.get(page, follow=True).content.decode()

    asked = operating.post(f"{page}1/roll-back/")
    assert (
        b"r1 is deployed on every server" in asked.content and not Operation.objects.filter(kind="roll_back").exists()
    )
    done = operating.post(f"{page}1/roll-back/", {"confirmed": "1"}, follow=True)
    assert messages_of(done).startswith("Rolling back: qwen. <a ")
    operation = Operation.objects.get(kind="roll_back")
    assert operation.revision and operation.revision.number == 1
    assert "An operation is open" in operating.get(page, follow=True).content.decode()


def test_a_viewer_compares_and_changes_nothing(service: Service, viewing: Client) -> None:
    page = f"/admin/deployments/service/{service.pk}/revisions/"
    assert "Roll back to r1" not in viewing.get(page, follow=True).content.decode()
    assert viewing.post(f"{page}1/roll-back/", {"confirmed": "1"}).status_code == 403
    assert viewing.get(f"{page}1/roll-back/").status_code == 403


def test_one_revision_alone_has_nothing_to_compare(make_service: Callable[..., Service], viewing: Client) -> None:
    made = make_service("new")
    assert "nothing to compare" in viewing.get(f"/admin/deployments/service/{made.pk}/?tab=revisions").content.decode()


def test_queries_do_not_grow_with_revisions(service: Service, viewing: Client) -> None:
    pages = [f"/admin/deployments/service/{service.pk}/{path}" for path in ("", "?tab=revisions")]
    viewing.get(pages[0])  # what is counted once for all pages
    few = [count_queries(viewing, page) for page in pages]
    for number in range(5):
        revise(service, env={"A": f"more {number}"})
    assert [count_queries(viewing, page) for page in pages] == few


def test_deploying_with_a_note_keeps_it_and_verdicts_are_told(
    service: Service, api: APIClient, viewing: Client
) -> None:
    answer = api.post(f"/api/services/{service.pk}/deploy", {"note": "for Monday"}, format="json")
    assert answer.status_code == 202
    service.refresh_from_db()
    assert service.current_revision and service.current_revision.note == "for Monday"
    Revision.objects.filter(number=1).update(outcome="good")
    Revision.objects.filter(number=2).update(outcome="bad", outcome_reason="gpu-07: exit code 1")
    listed = {r["number"]: r for r in api.get(f"/api/services/{service.pk}/revisions").json()}
    assert (listed[1]["outcome"], listed[2]["outcome"], listed[2]["outcome_reason"]) == (
        "good",
        "bad",
        "gpu-07: exit code 1",
    )
    assert not listed[1]["on_trial"]
    page = viewing.get(f"/admin/deployments/service/{service.pk}/?tab=revisions").content.decode()
    assert "gpu-07: exit code 1" in page and "verified" in page
