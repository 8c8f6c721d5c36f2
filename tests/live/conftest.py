"""One real site for all live tests, and a way to have another."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.site import RealSite, migrate_once


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database for sites to begin with."""
    return migrate_once(tmp_path_factory.mktemp("migrated") / "data")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[RealSite]:
    """A running site shared by the session: tests name their own services and leave its programs running."""
    running = RealSite(tmp_path_factory.mktemp("site") / "data", migrated=migrated).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def new_site(tmp_path: Path, migrated: Path) -> Iterator[Callable[..., RealSite]]:
    """Sites of a test's own, not started yet, each with its data directory below ``tmp_path``: nothing is there yet
    but a migrated database, and with ``from_nothing`` not even that."""
    made: list[RealSite] = []

    def make(*, from_nothing: bool = False, **env: str) -> RealSite:
        folder = tmp_path / f"data{len(made)}"
        made.append(RealSite(folder, migrated=None if from_nothing else migrated, **env))
        return made[-1]

    yield make
    for one in made:
        one.kill_everything()
