"""Working installations off: claims each by a lease, does its steps in order, writes down what came of each.

Why a run may die half-way or happen twice: a row is claimed by a conditional UPDATE whose lease runs out, and whoever
claims it next begins at the first step. Every step looks first and changes only what differs, files are replaced in one
step, and what the site stores is written after what the server holds. Before each change on the server the claim
is looked at, so somebody who was overtaken changes nothing more.
"""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from datetime import timedelta

from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from infini import events
from infini.clusters import LEASE_PREFIX
from infini.errors import InfiniError
from infini.models import Lease
from inventory.installation.asking import as_skipped
from inventory.installation.plans import PLANS, Step
from inventory.installation.queueing import AT_ONCE, due_installations
from inventory.installation.remote import RemoteRefusal
from inventory.installation.states import OPEN_STATES, State, StepState
from inventory.installation.work import LeaseLost, Outcome, StepFailed, Work, now_text
from inventory.models import Installation

logger = logging.getLogger(__name__)

LEASE = timedelta(seconds=30)
RENEW_SECONDS = 3.0
MOST_BEGINNINGS = 5  # of one row, asked for once: whatever ends its workers would end the next one too
KEPT = timedelta(days=90)
KEPT_AT_ONCE = 500


def work_off() -> int:
    """Work on what is due, ``AT_ONCE`` servers side by side, until nothing is; returns how many were worked on."""
    worked = 0
    with _Held() as held, ThreadPoolExecutor(AT_ONCE, thread_name_prefix="install") as pool:
        running: set[Future[None]] = set()
        while True:
            while len(running) < AT_ONCE and (claimed := held.claim_next()):
                running.add(pool.submit(_work_on, held, claimed))
                worked += 1
            if not running:
                forget_old()
                return worked
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()


def forget_old() -> None:
    """Delete what ended long ago, some at a time."""
    old = Installation.objects.exclude(state__in=OPEN_STATES).filter(created_at__lt=timezone.now() - KEPT)
    Installation.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:KEPT_AT_ONCE])).delete()


class _Held:
    """The claims of one task: keeps their leases ahead of the clock and hears of cancellations."""

    def __init__(self) -> None:
        self.claim = secrets.token_hex(16)
        self._cancelled: dict[int, threading.Event] = {}
        self._lost: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="installation-leases")
        self._lease = f"{LEASE_PREFIX}installation.{socket.gethostname()}:{os.getpid()}"

    def __enter__(self) -> "_Held":
        self._renew()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        Lease.objects.filter(name=self._lease).delete()

    def claim_next(self) -> int | None:
        now = timezone.now()
        for pk in due_installations().order_by("pk").values_list("pk", flat=True)[:AT_ONCE]:
            claimed = (
                due_installations()
                .filter(pk=pk)
                .update(state=State.RUNNING, claim=self.claim, leased_until=now + LEASE)
            )
            if claimed:
                self._lost.discard(pk)
                self._cancelled[pk] = threading.Event()
                return int(pk)
        return None

    def cancelled(self, pk: int) -> threading.Event:
        return self._cancelled[pk]

    def has(self, pk: int) -> bool:
        """Whether the claim on it is ours still; reads the database."""
        mine = Installation.objects.filter(
            pk=pk, claim=self.claim, state=State.RUNNING, leased_until__gt=timezone.now()
        )
        return pk not in self._lost and mine.exists()

    def release(self, pk: int) -> None:
        self._cancelled.pop(pk, None)

    def _keep(self) -> None:
        try:
            while not self._over.wait(RENEW_SECONDS):
                try:
                    self._renew()
                except DatabaseError as error:  # the next one may do; if none does, the lease runs out as it should
                    logger.warning("installation.lease_not_renewed", extra={"error": str(error)})
        finally:
            connection.close()

    def _renew(self) -> None:
        """A lease that ran out is not taken back: somebody else may have begun."""
        now = timezone.now()
        Lease.take(self._lease, self.claim, seconds=LEASE.total_seconds())
        mine = Installation.objects.filter(claim=self.claim, state=State.RUNNING, leased_until__gt=now)
        mine.update(leased_until=now + LEASE)
        asked = dict(mine.values_list("pk", "cancel_asked"))
        for pk, cancelled in list(self._cancelled.items()):
            if pk not in asked:
                self._lost.add(pk)
            if asked.get(pk, True):
                cancelled.set()


def _work_on(held: _Held, pk: int) -> None:
    try:
        with _own_connection():
            _Run(held, pk).go()
    except LeaseLost:
        logger.info("installation.lease_lost", extra={"installation": pk})
    finally:
        held.release(pk)


@contextmanager
def _own_connection() -> Iterator[None]:
    try:
        yield
    finally:
        connection.close()


class _Run:
    """One run of one claimed installation."""

    def __init__(self, held: _Held, pk: int) -> None:
        self.held, self.pk = held, pk
        self.row = Installation.objects.select_related("server", "by").get(pk=pk)
        self.cancelled = held.cancelled(pk)

    def go(self) -> None:
        if self.row.server is None:
            return self._end(State.FAILED, gettext_noop("The server was deleted meanwhile."))
        if self.row.attempts >= MOST_BEGINNINGS:
            return self._end(
                State.FAILED,
                gettext_noop("It was begun %(attempts)s times and its worker ended each time.")
                % {"attempts": self.row.attempts},
            )
        self._write(started_at=timezone.now(), attempts=self.row.attempts + 1, steps=self._reset_steps())
        self._event("begun")
        work = Work(self.row, self.row.server, self.cancelled, is_mine=lambda: self.held.has(self.pk))
        for index, step in enumerate(PLANS[self.row.kind]):
            if self.cancelled.is_set():
                return self._end_cancelled()
            if not self._do(work, index, step):
                return self._end_cancelled() if self._was_skipped() else self._end(State.FAILED, self._failed_text())
        self._end(State.DONE, "")

    def _do(self, work: Work, index: int, step: Step) -> bool:
        self._step(index, state=StepState.RUNNING.value, started_at=now_text())
        try:
            outcome = step.run(work)
        except LeaseLost:
            raise
        except (StepFailed, RemoteRefusal) as error:
            outcome = Outcome(StepState.FAILED, error.message, error.output)
        except InfiniError as error:
            outcome = Outcome(StepState.FAILED, error.message)
        except Exception:
            # A fault of ours must not leave the row running for ever; what it was stands in the site's own log.
            logger.exception("installation.fault", extra={"installation": self.pk, "step": step.name})
            outcome = Outcome(StepState.FAILED, gettext_noop("The site failed at this step; its log says why."))
        if outcome.state == StepState.FAILED and self._was_skipped():
            outcome = Outcome(StepState.CANCELLED, gettext_noop("Cancelled while it was under way."), outcome.output)
        text, output = work.without_secrets(outcome.text), work.without_secrets(outcome.output.strip())
        self._step(index, state=outcome.state.value, text=text, output=output, finished_at=now_text())
        return outcome.state not in (StepState.FAILED, StepState.CANCELLED)

    def _reset_steps(self) -> list[dict[str, str]]:
        empty = {"text": "", "output": "", "started_at": "", "finished_at": "", "state": StepState.WAITING.value}
        return [step | empty for step in self.row.steps]

    def _step(self, index: int, **values: str) -> None:
        self.row.steps[index] = self.row.steps[index] | values
        self._write(steps=self.row.steps)

    def _write(self, **values: object) -> None:
        """Only while the claim is ours; raises LeaseLost."""
        if not Installation.objects.filter(pk=self.pk, claim=self.held.claim, state=State.RUNNING).update(**values):
            raise LeaseLost
        for name, value in values.items():
            setattr(self.row, name, value)

    def _was_skipped(self) -> bool:
        return Installation.objects.filter(pk=self.pk, cancel_asked=True).exists()

    def _failed_text(self) -> str:
        return next((step["text"] for step in self.row.steps if step["state"] == StepState.FAILED), "")

    def _end_cancelled(self) -> None:
        if self.pk and not self._was_skipped():
            raise LeaseLost
        self._end(State.CANCELLED, gettext_noop("Cancelled. What was done stays; a retry goes on from it."))

    def _end(self, state: State, reason: str) -> None:
        assert state not in OPEN_STATES
        with transaction.atomic():
            self._write(
                state=state,
                reason=reason[:500],
                steps=as_skipped(self.row.steps),
                finished_at=timezone.now(),
                leased_until=None,
                claim="",
            )
            self._event({State.DONE: "done", State.FAILED: "failed"}.get(state, "cancelled"), reason)

    def _event(self, what: str, reason: str = "") -> None:
        if self.row.dry_run or self.row.server is None:
            return
        data = {"installation": self.pk} | ({"reason": reason} if reason else {})
        events.record(f"server.agent_{self.row.kind}_{what}", self.row.server, by=self.row.by, data=data)
