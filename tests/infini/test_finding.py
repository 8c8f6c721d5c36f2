"""Ctrl+K and the counts of the navigation: what a person may see, at a constant price."""

from collections.abc import Callable

import pytest
from django.test import Client
from django.utils import timezone

from infini.badges import badges_for
from infini.models import User
from inventory.models import Brand, Server
from scheduler.models import Task

pytestmark = pytest.mark.django_db


def found(client: Client, text: str) -> list[tuple[str, str]]:
    return [(row["name"], row["url"]) for row in client.get("/admin/find/", {"q": text}).json()["found"]]


def test_objects_and_pages_are_found(viewer: User, client: Client) -> None:
    client.force_login(viewer)
    server = Server.objects.create(name="gpu-07", host_ip="192.0.2.70")
    assert ("gpu-07", f"/admin/inventory/server/{server.pk}/") in found(client, "gpu-0")
    assert ("gpu-07", f"/admin/inventory/server/{server.pk}/") in found(client, "192.0.2.7")
    task = Task.objects.create(name="nightly backup", command="true")
    assert found(client, "backup") == [("nightly backup", f"/admin/scheduler/task/{task.pk}/")]
    assert found(client, "servers") == [("Servers", "/admin/inventory/server/")]
    assert ("Timeline", "/admin/infini/event/") in found(client, "")


def test_nothing_is_found_that_may_not_be_seen(viewer: User, make_user: Callable[..., User], client: Client) -> None:
    assert client.get("/admin/find/").status_code == 401
    client.force_login(viewer)
    assert found(client, "viewer") == []
    client.force_login(make_user())
    Brand.objects.create(name="Hidden brand")
    assert found(client, "hidden") == [] and ("Servers", "/admin/inventory/server/") not in found(client, "")


def test_the_price_does_not_grow(administrator: User, client: Client, django_assert_max_num_queries: Callable) -> None:
    client.force_login(administrator)
    Server.objects.bulk_create(Server(name=f"gpu-{n}", host_ip="192.0.2.1") for n in range(50))
    client.get("/admin/find/")
    with django_assert_max_num_queries(25):
        assert len(found(client, "gpu")) <= 12


def test_badges_tell_what_needs_somebody(viewer: User, make_user: Callable[..., User], client: Client) -> None:
    long_ago = timezone.now() - timezone.timedelta(hours=1)
    silent = {"host_ip": "192.0.2.1", "agent_token": "t", "agent_seen_at": long_ago, "reachable": False}
    Server.objects.create(name="silent", last_check=timezone.now(), **silent)
    Server.objects.create(name="left alone", last_check=timezone.now(), maintenance=True, **silent)
    assert badges_for(viewer)["inventory.server"].count == 1
    assert badges_for(make_user()) == {}
    client.force_login(viewer)
    assert "bg-red-500" in client.get("/admin/").content.decode()
