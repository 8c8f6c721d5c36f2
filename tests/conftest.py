"""People with each role, and clients that act as them; which tests want the machine for themselves."""

from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import Group
from rest_framework.test import APIClient

from infini.models import User

HERE = Path(__file__).parent
# What measures time, or shares the machine badly. All else runs two at a time; see tests/whole.py.
ALONE = (
    *("agent/test_limits.py", "agent/test_logs.py", "chat/test_cancel.py", "chat/test_gateway_process.py"),
    *("chat/test_latency.py", "chat/test_limits.py", "chat/test_socket.py", "infini/test_supervisor.py"),
    *("live/test_browser_terminal.py", "live/test_commands.py"),
    "terminals/test_flow.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs alone; the long files come first, so that no worker is left with one when the other has ended."""
    for item in items:
        path = item.path.relative_to(HERE).as_posix()
        if path.startswith(ALONE):
            item.add_marker("alone")
    items.sort(key=lambda item: not item.path.relative_to(HERE).as_posix().startswith("live/"))


@pytest.fixture(scope="session", autouse=True)
def admin_pages() -> None:
    """The admin's registry is filled by the addresses, whichever test comes first."""
    import infini.urls  # noqa: F401


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(role: str | None = None, name: str | None = None) -> User:
        user = User.objects.create_user(name or role or "nobody", password="a-long-password", is_staff=True)
        if role:
            user.groups.add(Group.objects.get(name=role))
        return user

    return make


@pytest.fixture
def viewer(make_user: Callable[..., User]) -> User:
    return make_user("viewer")


@pytest.fixture
def operator(make_user: Callable[..., User]) -> User:
    return make_user("operator")


@pytest.fixture
def administrator(make_user: Callable[..., User]) -> User:
    return make_user("administrator")


@pytest.fixture
def api_as() -> Callable[[User | None], APIClient]:
    """An API client logged in as a user; None is nobody."""

    def client(user: User | None) -> APIClient:
        made = APIClient()
        if user:
            made.force_login(user)
        return made

    return client


@pytest.fixture
def api(operator: User, api_as: Callable[[User | None], APIClient]) -> APIClient:
    """The operator's API client: what most tests act as."""
    return api_as(operator)
