"""The world and its people, as browsers."""

import logging

import pytest
from django.test import Client

from infini import unfold_settings
from tests.roles.world import World, make_world


@pytest.fixture
def world(db: None) -> World:
    return make_world()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """For hundreds of pages: without the counts in the menu, which a test of their own has, and what is logged of
    refusals.
    """
    monkeypatch.setattr(unfold_settings, "badges_for", lambda user: {})
    monkeypatch.setattr(logging.getLogger("django.request"), "disabled", True)


@pytest.fixture
def browsers(world: World) -> dict[str, Client]:
    """By who sits there; ``nobody`` has not logged in."""
    made = {"nobody": Client()}
    for who, user in world.people.items():
        made[who] = Client(raise_request_exception=False)
        made[who].force_login(user)
    return made
