"""Ports for what tests start."""

import os
import random
import socket

# Above those the kernel gives to whoever asks for any: nothing takes one between its choice and its use but another run
# of tests that chooses the same; the workers of one run choose from different ones.
FIRST, LAST = 61_000, 65_535
MOST_WORKERS = 16
_given: set[int] = set()


def worker() -> int:
    """Which of the processes that share a run of tests this one is, from 0 on."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port(host: str = "127.0.0.1") -> int:
    """A port nothing listens on, given once by this process."""
    ours = range(FIRST + worker() % MOST_WORKERS, LAST + 1, MOST_WORKERS)
    for port in random.sample(ours, len(ours)):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError("No port is free.")
