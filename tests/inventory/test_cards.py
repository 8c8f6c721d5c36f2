"""Accelerator cards over HTTP."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from inventory.models import Card

Make = Callable[..., dict]
FIGURES = ["memory", "fp8_perf", "int8_perf", "bf16_perf", "fp16_perf", "fp32_perf", "interconnect_bandwidth", "power"]


def path_of(brand: dict) -> str:
    return f"/api/brands/{brand['id']}/accelerators"


def test_a_card_carries_figures_source_and_brand(api: APIClient, make: Make, brand: dict) -> None:
    figures = {name: at + 0.5 for at, name in enumerate(FIGURES)}
    made = make(path_of(brand), name="H100", model="SXM", source_url="https://example.org/h100", **figures)
    assert {name: made[name] for name in FIGURES} == figures
    assert made["brand_id"] == brand["id"] and made["brand"]["name"] == "NVIDIA"
    assert made["source_url"] == "https://example.org/h100"
    assert api.get(f"/api/accelerators/{made['id']}").json() == made
    assert api.get(path_of(brand)).json() == [made] == api.get("/api/accelerators").json()


def test_an_unpublished_figure_is_null(api: APIClient, make: Make, brand: dict) -> None:
    made = make(path_of(brand), name="X", fp8_perf=None)
    assert {made[name] for name in FIGURES} == {None}


@pytest.mark.parametrize("value", ["0", "-1", "1e400", "-1e400", '"nan"', '"inf"', '"x"', "true", "[]", "{}", '""'])
@pytest.mark.parametrize("figure", ["memory", "power"])
def test_a_figure_is_finite_and_above_zero(api: APIClient, brand: dict, figure: str, value: str) -> None:
    body = f'{{"name": "X", "{figure}": {value}}}'
    answer = api.generic("POST", path_of(brand), body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["fields"].keys() == {figure}
    assert not Card.objects.exists()


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_numbers_that_json_does_not_have_are_refused(api: APIClient, brand: dict, value: str) -> None:
    body = f'{{"name": "X", "memory": {value}}}'
    assert api.generic("POST", path_of(brand), body, content_type="application/json").status_code == 400


@pytest.mark.parametrize("url", ["ftp://example.org/x", "javascript:alert(1)", "example.org", "http://", 7])
def test_a_source_is_an_http_address(api: APIClient, brand: dict, url: object) -> None:
    answer = api.post(path_of(brand), {"name": "X", "source_url": url}, format="json")
    assert answer.status_code == 400 and "source_url" in answer.json()["error"]["fields"]


def test_a_variant_is_unique_within_its_brand(api: APIClient, make: Make, brand: dict, card: dict) -> None:
    answer = api.post(path_of(brand), {"name": "h100", "model": "h100 sxm 80gb"}, format="json")
    assert answer.status_code == 400 and "name" in answer.json()["error"]["fields"]
    other = make(path_of(brand), name="H100", model="PCIe")
    answer = api.patch(f"/api/accelerators/{other['id']}", {"model": card["model"]}, format="json")
    assert answer.status_code == 400
    elsewhere = make("/api/brands", name="AMD")
    make(path_of(elsewhere), name="H100", model=card["model"])


def test_the_brand_of_the_path_counts(api: APIClient, make: Make, brand: dict) -> None:
    other = make("/api/brands", name="AMD")
    answer = api.post(path_of(brand), {"name": "X", "brand_id": other["id"]}, format="json")
    assert answer.status_code == 400 and "brand_id" in answer.json()["error"]["fields"]
    assert make(path_of(brand), name="X", brand_id=brand["id"])["brand_id"] == brand["id"]
    for method in ("get", "post"):
        assert getattr(api, method)("/api/brands/987654/accelerators", {"name": "X"}).status_code == 404


def test_a_card_moves_to_another_brand_unless_a_server_has_it(api: APIClient, make: Make, card: dict) -> None:
    other = make("/api/brands", name="AMD")
    path = f"/api/accelerators/{card['id']}"
    assert api.patch(path, {"brand_id": other["id"]}, format="json").json()["brand"]["name"] == "AMD"
    make("/api/servers", name="gpu-7", host_ip="10.0.0.7", model_id=card["id"])
    refused = api.patch(path, {"brand_id": card["brand_id"]}, format="json")
    assert refused.status_code == 409 and "gpu-7" in refused.json()["error"]["message"]
    assert api.patch(path, {"brand_id": other["id"], "memory": 81}, format="json").status_code == 200


def test_a_put_clears_a_figure_and_a_stale_one_is_refused(api: APIClient, card: dict) -> None:
    path = f"/api/accelerators/{card['id']}"
    body = {**card, "memory": None}
    assert api.put(path, body, format="json").json()["memory"] is None
    assert api.put(path, body, format="json").status_code == 409


def test_a_card_in_use_stays(api: APIClient, make: Make, card: dict) -> None:
    server = make("/api/servers", name="gpu-7", host_ip="10.0.0.7", model_id=card["id"])
    refused = api.delete(f"/api/accelerators/{card['id']}")
    assert refused.status_code == 409 and "gpu-7" in refused.json()["error"]["message"]
    assert api.delete(f"/api/servers/{server['id']}").status_code == 204
    assert api.delete(f"/api/accelerators/{card['id']}").status_code == 204


def test_all_cards_are_listed_but_not_made_outside_a_brand(api: APIClient) -> None:
    answer = api.post("/api/accelerators", {"name": "X"}, format="json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
