"""AI models and environments over HTTP."""

from collections.abc import Callable

import pytest
from rest_framework.test import APIClient

from infini.models import Event
from inventory.models import AIModel

Make = Callable[..., dict]


def test_a_model_lives_in_environments(api: APIClient, make: Make) -> None:
    ids = [make("/api/environments", name=name)["id"] for name in ("test", "production")]
    made = make("/api/models", name="Qwen3", parameters="8B", logo="https://example.org/q.png", environment_ids=ids)
    assert (made["parameters"], sorted(made["environment_ids"])) == ("8B", sorted(ids))
    path = f"/api/models/{made['id']}"
    changed = api.patch(path, {"environment_ids": ids[:1], "version": 1}, format="json").json()
    assert (changed["environment_ids"], changed["version"]) == (ids[:1], 2)
    assert api.get(path).json() == changed == api.get("/api/models").json()[0]
    event = Event.objects.filter(kind="aimodel.changed").get()
    assert event.data == {"environments": [["production", "test"], ["test"]]}


def test_a_stale_write_leaves_the_environments(api: APIClient, make: Make) -> None:
    environment = make("/api/environments", name="test")
    path = f"/api/models/{make('/api/models', name='Qwen3')['id']}"
    answer = api.patch(path, {"environment_ids": [environment["id"]], "version": 7}, format="json")
    assert answer.status_code == 409
    assert api.get(path).json()["environment_ids"] == []


@pytest.mark.parametrize("ids", [[987654], ["x"], 5, [None], [True], [1.5], [10**30], [-1]])
def test_environment_ids_must_exist(api: APIClient, ids: object) -> None:
    answer = api.post("/api/models", {"name": "Qwen3", "environment_ids": ids}, format="json")
    assert answer.status_code == 400, answer.content
    assert any(name.startswith("environment_ids") for name in answer.json()["error"]["fields"])
    assert not AIModel.objects.exists()


@pytest.mark.parametrize("path", ["/api/models", "/api/environments"])
def test_names_are_unique_whatever_the_case(api: APIClient, make: Make, path: str) -> None:
    row = make(path, name=" Prod ")
    assert row["name"] == "Prod"
    answer = api.post(path, {"name": "pROD"}, format="json")
    assert answer.status_code == 400 and "name" in answer.json()["error"]["fields"]
    assert api.put(f"{path}/{row['id']}", {"name": "PROD", "version": 1}, format="json").json()["name"] == "PROD"
    assert api.delete(f"{path}/{row['id']}").status_code == 204


def test_an_environment_in_use_stays(api: APIClient, make: Make) -> None:
    environment = make("/api/environments", name="test")
    make("/api/servers", name="gpu-7", host_ip="10.0.0.7", environment="test")
    refused = api.delete(f"/api/environments/{environment['id']}")
    assert refused.status_code == 409 and "gpu-7" in refused.json()["error"]["message"]


def test_deleting_an_environment_never_opens_a_model_to_all(api: APIClient, make: Make) -> None:
    first, second = (make("/api/environments", name=name)["id"] for name in ("test", "production"))
    model = make("/api/models", name="Qwen3", environment_ids=[first, second])
    assert api.delete(f"/api/environments/{second}").status_code == 204
    refused = api.delete(f"/api/environments/{first}")
    assert refused.status_code == 409 and "Qwen3" in refused.json()["error"]["message"]
    assert api.get(f"/api/models/{model['id']}").json()["environment_ids"] == [first]
