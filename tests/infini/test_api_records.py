"""What is left when validation was passed by two at once: the database refuses, and it is a conflict."""

from collections.abc import Callable

import pytest

from infini import records
from infini.errors import Conflict, NotFound
from infini.models import Event, User
from inventory.models import AIModel, Brand, Environment, Server

pytestmark = pytest.mark.django_db


def test_a_name_taken_meanwhile_is_a_conflict(operator: User) -> None:
    records.create(Brand(name="NVIDIA"), by=operator)
    with pytest.raises(Conflict):
        records.create(Brand(name="nvidia"), by=operator)
    other = records.create(Brand(name="AMD"), by=operator)
    other.name = "Nvidia"
    with pytest.raises(Conflict):
        records.change(other, ["name"], by=operator)
    assert sorted(Brand.objects.values_list("name", flat=True)) == ["AMD", "NVIDIA"]
    assert Event.objects.count() == 2


def test_a_row_deleted_meanwhile_is_not_found(operator: User) -> None:
    brand = records.create(Brand(name="NVIDIA"), by=operator)
    Brand.objects.all().delete()
    with pytest.raises(NotFound):
        records.change(brand, ["name"], by=operator)


@pytest.mark.django_db(transaction=True)
def test_a_reference_deleted_meanwhile_is_a_conflict(make_user: Callable[..., User]) -> None:
    by = make_user()
    brand = Brand.objects.create(name="NVIDIA")
    stale = Brand.objects.get()
    brand.delete()
    with pytest.raises(Conflict):
        records.create(Server(name="gpu-1", host_ip="10.0.0.1", brand=stale), by=by)
    assert not Server.objects.exists() and not Event.objects.exists()


def test_a_change_of_environments_alone_is_a_change(operator: User) -> None:
    test, production = (Environment.objects.create(name=name) for name in ("test", "production"))
    model = records.create(AIModel(name="Qwen3"), by=operator, many={"environments": [test]})
    assert Event.objects.get().data["environments"] == [[], ["test"]]
    records.change(model, [], by=operator, many={"environments": [production]})
    records.change(model, [], by=operator, many={"environments": [production]})
    assert AIModel.objects.get().version == model.version == 2
    assert [event.data for event in Event.objects.filter(kind="aimodel.changed")] == [
        {"environments": [["test"], ["production"]]}
    ]


def test_a_change_writes_only_the_columns_it_names(operator: User) -> None:
    server = records.create(Server(name="gpu-1", host_ip="10.0.0.1"), by=operator)
    Server.objects.update(reachable=True, agent_version="2")
    server.maintenance = True
    records.change(server, ["maintenance"], by=operator)
    stored = Server.objects.get()
    assert (stored.maintenance, stored.reachable, stored.agent_version) == (True, True, "2")
