"""What the leading monitor does besides looking at servers: each app registers its own, so that none has to know the
others. Rounds run in a thread of their own: what is due on time does not wait for a slow agent.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import close_old_connections

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 0.5  # from one round to the next at most: work may have been added meanwhile

# Does what is due and returns after how many seconds there will be more; None when nothing is known.
Round = Callable[[], float | None]
_rounds: list[Round] = []


def register(work: Round) -> None:
    """Add what every round does; called once per app at start. It must not wait for the network."""
    if work not in _rounds:
        _rounds.append(work)


@contextmanager
def kept(leads: Callable[[], bool]) -> Iterator[None]:
    """Keep the rounds going while ``leads`` says that this process may; ends with the block."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(leads, ended), name="rounds", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5)


def _keep(leads: Callable[[], bool], ended: threading.Event) -> None:
    pause = 0.0
    while not ended.wait(pause):
        pause = run_all() if leads() else LONGEST_SECONDS


def run_all() -> float:
    """One round of everything; returns the seconds until the next. One that fails does not keep the others."""
    close_old_connections()
    pause = LONGEST_SECONDS
    for work in _rounds:
        try:
            wanted = work()
        except Exception:  # one app's fault must not stop what others do on time; the log tells of it
            logger.exception("rounds.failed", extra={"work": f"{work.__module__}.{work.__name__}"})
            continue
        if wanted is not None:
            pause = min(pause, max(0.0, wanted))
    return pause
