"""A real SSH server, and how it is reached. One server serves a whole file; connections end with each test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inventory.ssh import connections
from inventory.ssh.access import SshAccess
from tests.real_sshd import RealSshd


@pytest.fixture(scope="module")
def sshd() -> Iterator[RealSshd]:
    with RealSshd() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_connection_outlives_its_test() -> Iterator[None]:
    yield
    connections.close_all()


@pytest.fixture(scope="session")
def access_to() -> Callable[..., SshAccess]:
    """How to reach a RealSshd; keyword arguments replace what the access says."""

    def make(server: RealSshd, **changes: Any) -> SshAccess:
        values = {
            "server_id": 1,
            "server_name": "gpu-1",
            "host": server.host,
            "port": server.port,
            "username": server.username,
            "private_key": server.private_key,
            "host_key": server.host_key,
        }
        return SshAccess(**{**values, **changes})

    return make


@pytest.fixture
def access(sshd: RealSshd, access_to: Callable[..., SshAccess]) -> SshAccess:
    return access_to(sshd)
