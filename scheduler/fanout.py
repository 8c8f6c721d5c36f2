"""The course of one run over its servers: who is next, and whether anybody is. Memory and arithmetic alone; the host
(scheduler/hosting.py) writes rows and starts threads.
"""

import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from scheduler.models import Run
from scheduler.runs import cancelled_reason
from scheduler.shots import Outcome, Shot
from scheduler.states import BAD_RESULTS, OPEN_RESULTS, ResultState, RunState

# What a run says that went badly on some servers: whole sentences, since they are said in the reader's language later.
_FAILED, _TIMED_OUT, _LOST = ResultState.FAILED, ResultState.TIMED_OUT, ResultState.LOST
TOLD: dict[tuple[ResultState, ...], str] = {
    (_FAILED,): _("%(failed)d failed."),
    (_TIMED_OUT,): _("%(timed_out)d timed out."),
    (_LOST,): _("%(lost)d lost contact."),
    (_FAILED, _TIMED_OUT): _("%(failed)d failed, %(timed_out)d timed out."),
    (_FAILED, _LOST): _("%(failed)d failed, %(lost)d lost contact."),
    (_TIMED_OUT, _LOST): _("%(timed_out)d timed out, %(lost)d lost contact."),
    (_FAILED, _TIMED_OUT, _LOST): _("%(failed)d failed, %(timed_out)d timed out, %(lost)d lost contact."),
}


@dataclass(frozen=True)
class Place:
    """A server that has not had its turn, or shall have another from ``not_before`` on."""

    result_id: int
    server_id: int | None
    attempt: int
    not_before: datetime | None = None


class Fanout:
    """One run as its host knows it. ``states`` holds the state of every server's result, by id, in order."""

    def __init__(self, run: Run, places: list[Place], states: dict[int, str]) -> None:
        self.run = run
        self.policy: dict[str, Any] = run.policy
        self.states = states
        self.counts = Counter(states.values())
        self.waiting = deque(places)
        self.shots: dict[int, Shot] = {}
        self.attempts = {place.result_id: place for place in places}
        # One in maintenance tells nothing about the command: the next takes its place.
        asked = [result_id for result_id, state in states.items() if state != ResultState.SKIPPED]
        self.canary = set(asked[: self.policy.get("canary", 0)])
        self.stopped = ""  # why nothing more begins
        self.ending: RunState | None = None  # cancelled or timed out: what runs was told to end
        started = run.started_at or timezone.now()
        used = (timezone.now() - started).total_seconds()
        self.deadline = time.monotonic() + self.policy.get("run_timeout_seconds", 3600) - used
        self._next_start = 0.0
        self.stop_if_bad()

    # What happens to it

    def take(self, outcome: Outcome) -> Place | None:
        """One attempt has ended; returns its place in the line when it shall be tried again."""
        self.shots.pop(outcome.result_id, None)
        place = self.attempts[outcome.result_id]
        if self._again(outcome, place):
            delay = timedelta(seconds=self.policy.get("retry_delay_seconds", 0))
            again = Place(place.result_id, place.server_id, place.attempt + 1, outcome.finished_at + delay)
            self.attempts[place.result_id] = again
            self.waiting.append(again)
            self.mark(outcome.result_id, ResultState.WAITING)
            return again
        self.mark(outcome.result_id, outcome.state)
        self.stop_if_bad()
        return None

    def fail(self, place: Place) -> None:
        """It could not even begin there."""
        self.mark(place.result_id, ResultState.FAILED)
        self.stop_if_bad()

    def mark(self, result_id: int, state: str) -> None:
        self.counts[self.states[result_id]] -= 1
        self.states[result_id] = state
        self.counts[state] += 1

    def cancel(self) -> None:
        self._end(RunState.CANCELLED, cancelled_reason(self.run.cancel_asked_by))

    def look_at_clock(self) -> None:
        if self.ending is None and time.monotonic() > self.deadline and not self.is_done():
            limit = self.policy.get("run_timeout_seconds", 3600)
            self._end(RunState.TIMED_OUT, _("The run's time of %(n)d s is over.") % {"n": limit})

    def _end(self, how: RunState, why: str) -> None:
        if self.ending is not None:
            return
        self.ending, self.stopped = how, self.stopped or why
        for shot in self.shots.values():
            shot.cancelled.set()

    def _again(self, outcome: Outcome, place: Place) -> bool:
        """Never what has an unknown outcome: it may be running still."""
        retryable = outcome.state in (ResultState.FAILED, ResultState.TIMED_OUT)
        return retryable and not self.stopped and place.attempt < self.policy.get("retries", 0)

    def stop_if_bad(self) -> None:
        """Let nothing more begin once as many have failed as the policy bears."""
        bad, total = self.bad(), len(self.states)
        most, percent = self.policy.get("stop_after_failures"), self.policy.get("stop_after_percent")
        if self.stopped or not bad or not self.waiting:
            return
        if (most and bad >= most) or (percent and bad * 100 >= percent * total):
            self.stopped = _("Stopped after %(bad)d of %(all)d servers failed.") % {"bad": bad, "all": total}
        elif any(self.states[pk] in BAD_RESULTS for pk in self.canary):
            self.stopped = _("Stopped: it failed on the first servers.")

    # What is next

    def next_places(self, room: int) -> list[Place]:
        """Who begins now, at most ``room``; each leaves the line."""
        chosen: list[Place] = []
        room = min(room, self.policy.get("width", 50) - len(self.shots))
        stagger, now = self.policy.get("stagger_seconds", 0), time.monotonic()
        for _turn in range(len(self.waiting)):
            if self.stopped or len(chosen) >= room or (stagger and now < self._next_start):
                break
            place = self.waiting.popleft()
            if not self._may_begin(place):
                self.waiting.append(place)
                continue
            chosen.append(place)
            self._next_start = now + stagger
        return chosen

    def _may_begin(self, place: Place) -> bool:
        if place.not_before and place.not_before > timezone.now():
            return False
        return place.result_id in self.canary or not any(self.states[pk] in OPEN_RESULTS for pk in self.canary)

    def leave_out(self) -> list[int]:
        """Once stopped: the ids of those that shall not begin any more; they leave the line."""
        if not self.stopped:
            return []
        left = [place.result_id for place in self.waiting]
        self.waiting.clear()
        return left

    def left_out_state(self) -> ResultState:
        return ResultState.CANCELLED if self.ending == RunState.CANCELLED else ResultState.SKIPPED

    # What came of it

    def bad(self) -> int:
        return sum(self.counts[state] for state in BAD_RESULTS)

    def is_done(self) -> bool:
        return not self.waiting and not self.shots

    def verdict(self) -> tuple[RunState, str]:
        """How the run as a whole ended, and why."""
        if self.ending is not None:
            return self.ending, self.stopped
        if not self.bad():
            ran = self.counts[ResultState.SUCCESS]
            return (RunState.SUCCESS, "") if ran else (RunState.SKIPPED, _("Every server was left alone."))
        numbers = {str(state): self.counts[state] for state in BAD_RESULTS}
        told = TOLD[tuple(state for state in BAD_RESULTS if self.counts[state])] % numbers
        return RunState.FAILED, f"{told} {self.stopped}".strip()
