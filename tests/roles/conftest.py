"""The world and its people, as browsers."""

import pytest
from django.test import Client

from tests.roles.world import World, make_world


@pytest.fixture
def world(db: None) -> World:
    return make_world()


@pytest.fixture
def browsers(world: World) -> dict[str, Client]:
    """By who sits there; ``nobody`` has not logged in."""
    made = {"nobody": Client()}
    for who, user in world.people.items():
        made[who] = Client(raise_request_exception=False)
        made[who].force_login(user)
    return made
