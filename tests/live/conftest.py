"""One real site for all live tests, and a way to have another."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.site import RealSite


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    """A running site shared by the session: tests name their own services and leave its programs running."""
    running = RealSite(tmp_path_factory.mktemp("site") / "data").start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., RealSite]]:
    """Sites of a test's own, not started yet; each has its data directory below ``tmp_path``."""
    made: list[RealSite] = []

    def make(**env: str) -> RealSite:
        made.append(RealSite(tmp_path / f"data{len(made)}", **env))
        return made[-1]

    yield make
    for one in made:
        one.kill_everything()
