"""Lists as files: what is filtered, raw, for those who may see the list, in a constant number of queries."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib import admin as django_admin
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext

from deployments.models import Service
from infini import keys
from infini.csv_export import BOM, cell
from infini.fields import EncryptedTextField
from infini.models import User
from inventory.models import Device, Server
from tests.admin.conftest import run_instances

pytestmark = pytest.mark.django_db
LISTS = [
    *("inventory/server", "inventory/device", "inventory/card", "deployments/service", "deployments/operation"),
    *("inventory/brand", "inventory/aimodel", "inventory/environment", "inventory/installation"),
    *(
        "inventory/terminalsession",
        "inventory/recording",
        "infini/event",
        "infini/alert",
        "infini/user",
        "infini/apikey",
    ),
]


def read(client: Client, path: str) -> list[dict[str, str]]:
    response = client.get(path)
    assert response.status_code == 200, path
    text = response.getvalue().decode()
    assert text.startswith(BOM) and response["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(text.removeprefix(BOM))))


def test_it_is_the_filtered_list_raw(viewing: Client, make_server: Callable[..., Server]) -> None:
    figures = {"cpu_percent": 38.25, "memory_total_bytes": 2**38, "disk_percent": "hot"}
    seen = datetime(2026, 11, 20, 14, 2, 7, tzinfo=UTC)
    make_server("gone", agent_seen_at=seen, figures=figures, labels={"rack": "机架"}, agent_version="=x()")
    make_server("fine")

    [row] = read(viewing, "/admin/inventory/server/csv/?status=offline&p=3")

    assert (row["name"], row["status"], row["cpu_percent"], row["disk_percent"]) == ("gone", "offline", "38.25", "")
    assert (row["memory_total_bytes"], row["agent_seen_at"]) == (str(2**38), "2026-11-20T14:02:07+00:00")
    assert (row["labels"], row["agent_version"], row["environment"]) == ('{"rack": "机架"}', "'=x()", "production")
    assert [r["name"] for r in read(viewing, "/admin/inventory/server/csv/?q=fin")] == ["fine"]
    listed = viewing.get("/admin/inventory/server/?status=offline&p=1").content.decode()
    assert 'href="csv/?status=offline"' in listed


def test_services_and_devices_tell_what_they_hold(viewing: Client, make_service: Callable[..., Service]) -> None:
    service = make_service()
    device = Device.objects.create(server=Server.objects.get(), uuid="a", index=0, vendor="nvidia", name="H20")
    run_instances(service)
    from deployments.models import DeviceClaim, Instance

    DeviceClaim.objects.create(device=device, instance=Instance.objects.get())
    [row] = read(viewing, "/admin/deployments/service/csv/")
    assert (row["status"], row["ready_count"], row["wanted_count"], row["servers"]) == ("running", "1", "1", "one")
    [row] = read(viewing, "/admin/inventory/device/csv/")
    assert (row["services"], row["free_slots"], row["power_watts"]) == ("svc", "0", "")
    [row] = read(viewing, "/admin/inventory/server/csv/")
    assert (row["instances_ready"], row["instances_wanted"]) == ("1", "1")


@pytest.mark.parametrize("name", LISTS)
def test_queries_do_not_grow(
    name: str, admin: Client, make_server: Callable[..., Server], make_service: Callable[..., Service]
) -> None:
    def grow(tag: str, n: int) -> None:
        for i in range(n):
            server = make_server(f"s-{tag}{i}")
            Device.objects.create(server=server, uuid="a", index=0, vendor="nvidia", name="H20")
            run_instances(make_service(f"svc-{tag}{i}", server))

    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            read(admin, f"/admin/{name}/csv/")
        return len(found)

    grow("a", 2)
    queries()
    before = queries()
    grow("b", 5)
    assert queries() == before


def test_it_takes_the_right_to_see_the_list(as_user: Callable, db: None) -> None:
    nobody = as_user(User.objects.create_user("nobody", password="x", is_staff=True))
    for name in LISTS:
        own = name == "infini/apikey"  # a list of what is one's own
        assert nobody.get(f"/admin/{name}/csv/").status_code == (200 if own else 403), name
        assert Client().get(f"/admin/{name}/csv/").status_code == 302


def test_keys_are_one_s_own_and_without_their_text(viewing: Client, viewer: User, administrator: User) -> None:
    keys.create_key(user=administrator, name="theirs", by=None)
    scopes, limits = {"use": "models", "models": ["b", "a"]}, {"concurrency": 3, "tokens_per_month": 50}
    key, text = keys.create_key(user=viewer, name="mine", by=None, scopes=scopes, limits=limits)
    [row] = read(viewing, "/admin/infini/apikey/csv/")
    assert (row["name"], row["prefix"], row["user"], row["state"]) == ("mine", key.prefix, "viewer", "usable")
    assert (row["use"], row["models"], row["concurrency"], row["requests_per_minute"]) == ("models", "a, b", "3", "")
    assert row["month_tokens"] == "0" and not {text, key.digest} & set(row.values())


def test_secrets_are_in_no_file(admin: Client, make_server: Callable[..., Server], make_service: Callable) -> None:
    make_server("one", password="canary-1", private_key="canary-2", passphrase="canary-3", agent_token="canary-4")
    make_service("svc", Server.objects.get(), secret_env={"TOKEN": "canary-5"})
    for name in LISTS:
        assert b"canary" not in admin.get(f"/admin/{name}/csv/").getvalue(), name
    for model, one in django_admin.site._registry.items():
        hidden = {f.name for f in model._meta.get_fields() if isinstance(f, EncryptedTextField)}
        assert not hidden & {column.name for column in getattr(one, "csv_columns", ())}, model


def test_a_wrong_filter_leads_back_to_the_list(viewing: Client) -> None:
    assert viewing.get("/admin/inventory/server/csv/?id__in=x").url == "../?e=1"


@pytest.mark.parametrize(
    ("value", "kept"),
    [(None, None), (True, "true"), (0, 0), (-1.5, -1.5), ("-x", "'-x"), ([1], "[1]"), ("\ttab", "'\ttab")],
)
def test_cells(value: Any, kept: Any) -> None:
    assert cell(value) == kept


@pytest.mark.django_db(transaction=True)
async def test_the_real_server_writes_it_piece_by_piece(administrator: User, make_server: Callable) -> None:
    client = AsyncClient()
    await client.aforce_login(administrator)
    response = await client.get("/admin/infini/event/csv/")
    assert response.is_async
    assert b"".join([piece async for piece in response.streaming_content]).startswith(BOM.encode())
