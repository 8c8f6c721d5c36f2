"""Brands over HTTP: shapes, order, logos, deletion."""

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from rest_framework.test import APIClient

from infini.models import Event
from inventory.models import Brand

Make = Callable[..., dict]


def fields_of(answer) -> dict:
    assert answer.status_code == 400, answer.content
    return answer.json()["error"]["fields"]


def test_a_brand_is_created_read_changed_and_deleted(api: APIClient, make: Make) -> None:
    made = make("/api/brands", name="  Huawei Ascend ", logo="/api/uploads/x.png", sort_order=3)
    assert (made["name"], made["logo"], made["sort_order"], made["version"]) == (
        "Huawei Ascend",
        "/api/uploads/x.png",
        3,
        1,
    )
    path = f"/api/brands/{made['id']}"
    assert api.get(path).json() == made
    changed = api.patch(path, {"name": "Ascend", "version": 1}, format="json")
    assert (changed.status_code, changed.json()["name"], changed.json()["version"]) == (200, "Ascend", 2)
    assert api.get(path).json()["sort_order"] == 3
    deleted = api.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert api.get(path).status_code == 404


def test_brands_come_by_sort_order_then_newest(api: APIClient, make: Make) -> None:
    for name, place in (("late", 9), ("older", 1), ("newer", 1)):
        make("/api/brands", name=name, sort_order=place)
    assert [row["name"] for row in api.get("/api/brands").json()] == ["newer", "older", "late"]


@pytest.mark.parametrize("name", ["", "   ", "a\nb", None, {"a": 1}, ["x"], "x" * 101])
def test_a_name_is_one_line_of_text(api: APIClient, name: object) -> None:
    assert fields_of(api.post("/api/brands", {"name": name}, format="json")).keys() == {"name"}
    assert not Brand.objects.exists()


def test_a_name_is_taken_whatever_its_case(api: APIClient, make: Make, brand: dict) -> None:
    assert "name" in fields_of(api.post("/api/brands", {"name": " nvidia "}, format="json"))
    other = make("/api/brands", name="AMD")
    assert "name" in fields_of(api.patch(f"/api/brands/{other['id']}", {"name": "Nvidia"}, format="json"))
    same = api.patch(f"/api/brands/{brand['id']}", {"name": "nvidia"}, format="json")
    assert same.status_code == 200


@pytest.mark.parametrize(
    "logo", ["javascript:alert(1)", "//evil.example/x.png", "data:image/png;base64,AA", "x" * 201, ["no"]]
)
def test_a_logo_is_a_safe_address(api: APIClient, logo: object) -> None:
    body = {"name": "X", "logo": logo}
    assert "logo" in fields_of(api.post("/api/brands", body, format="json"))


def test_reorder_places_all_and_answers_the_new_list(api: APIClient, make: Make) -> None:
    ids = [make("/api/brands", name=name, sort_order=at)["id"] for at, name in enumerate("abc")]
    orders = [{"id": pk, "sort_order": 10 - at} for at, pk in enumerate(ids)]
    answer = api.post("/api/brands/reorder", {"orders": orders}, format="json")
    assert (answer.status_code, [row["name"] for row in answer.json()]) == (200, ["c", "b", "a"])
    assert [row["name"] for row in api.get("/api/brands").json()] == ["c", "b", "a"]
    assert {row["version"] for row in answer.json()} == {2}
    assert Event.objects.filter(kind="brand.changed").count() == 3


def test_reorder_with_an_unknown_id_changes_nothing(api: APIClient, brand: dict) -> None:
    orders = [{"id": brand["id"], "sort_order": 7}, {"id": 987654, "sort_order": 1}]
    answer = api.post("/api/brands/reorder", {"orders": orders}, format="json")
    assert "987654" in fields_of(answer)["orders"][0]
    assert Brand.objects.get().sort_order == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"orders": []},
        {"orders": "x"},
        {"orders": [1]},
        {"orders": [{"id": 1}]},
        {"orders": [{"id": "x", "sort_order": 1}]},
        {"orders": [{"id": 1, "sort_order": 2**40}]},
        {"orders": [{"id": 10**30, "sort_order": 1}]},
        {"orders": [{"id": 1, "sort_order": 1}, {"id": 1, "sort_order": 2}]},
    ],
)
def test_reorder_refuses_other_shapes(api: APIClient, brand: dict, body: object) -> None:
    fields_of(api.post("/api/brands/reorder", body, format="json"))
    assert Brand.objects.get().sort_order == 0


def test_a_logo_file_is_stored_with_the_brand(api: APIClient, picture: Callable[..., bytes], uploads_dir: Path) -> None:
    file = SimpleUploadedFile("my logo.PNG", picture(), "image/png")
    answer = api.post("/api/brands", {"name": "AMD", "logo_file": file}, format="multipart")
    assert answer.status_code == 201, answer.content
    logo = answer.json()["logo"]
    assert [f"/api/uploads/{path.name}" for path in uploads_dir.iterdir()] == [logo]
    assert api.get(logo).content == picture()
    replaced = api.patch(
        f"/api/brands/{answer.json()['id']}",
        {"logo_file": SimpleUploadedFile("b.gif", picture("GIF"))},
        format="multipart",
    )
    assert replaced.json()["logo"].endswith(".gif")


def test_a_refused_brand_keeps_no_file(
    api: APIClient, brand: dict, picture: Callable[..., bytes], uploads_dir: Path
) -> None:
    def send(path: str, method: str = "post", **values: object):
        file = SimpleUploadedFile("logo.png", picture(), "image/png")
        return getattr(api, method)(path, {"logo_file": file, **values}, format="multipart")

    assert "name" in fields_of(send("/api/brands", name="nvidia"))
    stale = send(f"/api/brands/{brand['id']}", "patch", version=99)
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "stale_version")
    assert not uploads_dir.exists() or not list(uploads_dir.iterdir())
    assert Brand.objects.get().logo == ""


def test_a_text_file_named_logo_is_refused(api: APIClient, uploads_dir: Path) -> None:
    file = SimpleUploadedFile("logo.png", b"hello", "image/png")
    answer = api.post("/api/brands", {"name": "AMD", "logo_file": file}, format="multipart")
    assert "logo_file" in fields_of(answer)
    assert not Brand.objects.exists() and not uploads_dir.exists()


def test_deleting_a_brand_takes_its_cards(api: APIClient, brand: dict, card: dict) -> None:
    assert api.delete(f"/api/brands/{brand['id']}").status_code == 204
    assert api.get(f"/api/accelerators/{card['id']}").status_code == 404


@pytest.mark.parametrize("by", ["brand", "card"])
def test_a_brand_in_use_stays_and_says_by_whom(api: APIClient, make: Make, brand: dict, card: dict, by: str) -> None:
    use = {"brand_id": brand["id"]} if by == "brand" else {"model_id": card["id"]}
    make("/api/servers", name="gpu-7", host_ip="10.0.0.7", **use)
    answer = api.delete(f"/api/brands/{brand['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "gpu-7" in answer.json()["error"]["message"]
    assert api.get(f"/api/accelerators/{card['id']}").status_code == 200


def test_a_stale_version_is_refused(api: APIClient, brand: dict) -> None:
    path = f"/api/brands/{brand['id']}"
    assert api.put(path, {"name": "A", "version": 1}, format="json").status_code == 200
    answer = api.put(path, {"name": "B", "version": 1}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stale_version")
    assert api.get(path).json()["name"] == "A"
