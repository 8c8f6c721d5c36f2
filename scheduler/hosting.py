"""A host carries out runs, many at a time, inside one job of the `runs` cluster; two hosts may work on one machine.

Every row of a run is written by the host that holds its claim, in transactions that ask for the claim first. A result
is marked running before its command is sent; so a host that dies leaves behind exactly those servers whose outcome
nobody knows. The host that takes over calls them lost, never runs them again, and goes on with the rest.

All database work is done by one thread. Commands run in others, which know no database.
"""

import logging
import queue
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from infini.errors import InfiniError
from infini.models import Lease
from inventory.models import Server
from inventory.ssh.access import SshAccess
from scheduler import claims, runs
from scheduler.fanout import Fanout, Place
from scheduler.models import Run, RunResult
from scheduler.shots import Outcome, Shot
from scheduler.states import OPEN_RUNS, ResultState, RunState
from scheduler.writing import write_results

logger = logging.getLogger(__name__)

HOSTS_PER_MACHINE = 2
THREADS = 256  # commands a host has going at most, of all its runs
RUNS_AT_ONCE = 50
LEASE = timedelta(seconds=15)
RENEW_SECONDS = 3.0
POLL_SECONDS = 0.2  # how long a queued run or a wish to cancel waits at most until it is seen
GATHER_SECONDS = 0.05  # what has ended waits at most so long for others to be written with,
GATHER_SHARE = 8  # until this share of what is under way has ended
FLUSH_SECONDS = 1.0
LINGER_SECONDS = 5.0  # an idle host stays so long: its connections are warm
LOST = ResultState.LOST


def carry_out_due(linger_seconds: float = LINGER_SECONDS) -> int:
    """Carry out all runs that are due, until none is left; returns how many. Returns at once when this machine has
    its hosts: they will see what is due.
    """
    carried_out = 0
    while True:
        with _slot() as lease:
            if lease is None:
                return carried_out
            host = Host(lease)
            carried_out += host.work(linger_seconds)
        # What was queued while we were about to go may have found our place still taken.
        if not Run.objects.claimable().exists():
            return carried_out


@contextmanager
def _slot() -> Iterator["Lease | None"]:
    """One of this machine's places for a host, given back at the end; None when all are taken."""
    holder = claims.own()
    for number in range(HOSTS_PER_MACHINE):
        name = f"{claims.HOST_LEASE}{socket.gethostname()[:60]}.{number}"
        if Lease.take(name, holder, seconds=LEASE.total_seconds()):
            try:
                yield Lease(name=name, holder=holder)
            finally:
                Lease.objects.filter(name=name, holder=holder).update(expires_at=timezone.now())
            return
    yield None


class Host:
    """One job's work: ``fanouts`` are the runs it holds, by id."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.token = claims.own()
        self.fanouts: dict[int, Fanout] = {}
        self.done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.run_of: dict[int, int] = {}  # of each result under way
        self.carried_out = 0
        self._renewed = self._looked = self._flushed = 0.0
        self._flush_every = FLUSH_SECONDS
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="shot")

    def work(self, linger_seconds: float) -> int:
        idle_since = time.monotonic()
        try:
            self._look()
            self._write([])  # what was due begins before anything is waited for
            while self.fanouts or time.monotonic() - idle_since < linger_seconds:
                outcomes = self._wait()
                self._look()
                self._write(outcomes)
                self._show()
                if self.fanouts:
                    idle_since = time.monotonic()
        finally:
            for shot in self._shots():  # ours no more, whatever ended us: nobody would hear of their end
                shot.cancelled.set()
            self._pool.shutdown(wait=False)
        return self.carried_out

    def _shots(self) -> list[Shot]:
        return [shot for fanout in self.fanouts.values() for shot in fanout.shots.values()]

    def _wait(self) -> list[Outcome]:
        """All that has ended, waiting for the first a little, and where many are under way for a share of them: a
        transaction for each would cost more than their commands.
        """
        outcomes: list[Outcome] = []
        until = time.monotonic() + POLL_SECONDS
        with suppress(queue.Empty):
            while not outcomes or len(outcomes) < len(self.run_of) // GATHER_SHARE or not self.done.empty():
                outcomes.append(self.done.get(timeout=max(0.0, until - time.monotonic())))
                until = min(until, time.monotonic() + GATHER_SECONDS)
        return outcomes

    # Holding runs

    def _look(self) -> None:
        """Keep what is ours, see who wants what cancelled, and take on what is due."""
        now = time.monotonic()
        if now - self._renewed >= RENEW_SECONDS:
            self._renew()
            self._renewed = now
        if now - self._looked >= POLL_SECONDS * 0.9:
            self._looked = now
            self._look_at_held()
            self._claim()
        for fanout in self.fanouts.values():
            fanout.look_at_clock()
            self._give_up_overdue(fanout)

    def _renew(self) -> None:
        Lease.take(self.lease.name, self.lease.holder, seconds=LEASE.total_seconds())
        claims.give_back_of_the_dead()
        if self.fanouts:
            self._held().update(leased_until=timezone.now() + LEASE)

    def _held(self) -> Any:
        return Run.objects.filter(claim=self.token, state=RunState.RUNNING, pk__in=list(self.fanouts))

    def _look_at_held(self) -> None:
        if not self.fanouts:
            return
        held = {run.pk: run for run in self._held().only("pk", "cancel_asked_at", "cancel_asked_by")}
        for pk in set(self.fanouts) - set(held):
            self._abandon(pk)
        for pk, run in held.items():
            if run.cancel_asked_at:
                self.fanouts[pk].run.cancel_asked_by = run.cancel_asked_by
                self.fanouts[pk].cancel()

    def _abandon(self, pk: int) -> None:
        """Another holds it now, since we were held up too long: what we have going there is ended, and says nothing."""
        logger.warning("run.claim_lost", extra={"run_id": pk})
        for shot in self.fanouts.pop(pk).shots.values():
            shot.cancelled.set()

    def _claim(self) -> None:
        room = RUNS_AT_ONCE - len(self.fanouts)
        for run in Run.objects.claimable()[: max(0, room)] if room > 0 else ():
            if run.pk not in self.fanouts and self._take(run):
                self.fanouts[run.pk] = self._fanout(run)
                self.carried_out += 1

    def _take(self, run: Run) -> bool:
        """Claim it; False when another was faster, or its predecessor began meanwhile."""
        now = timezone.now()
        seen = Run.objects.filter(pk=run.pk, state__in=OPEN_RUNS, claim=run.claim, leased_until=run.leased_until)
        begun = {"started_at": run.started_at or now}
        try:
            with transaction.atomic():
                taken = seen.update(state=RunState.RUNNING, claim=self.token, leased_until=now + LEASE, **begun)
        except IntegrityError:
            return False
        run.started_at = run.started_at or now
        return bool(taken)

    def _fanout(self, run: Run) -> Fanout:
        """What is left to do of it. Those that were running when another host died have an unknown outcome."""
        why = _("Infini's worker ended while this ran; nobody knows how it ended.")
        with transaction.atomic():
            orphans = RunResult.objects.filter(run=run, run__claim=self.token, state=ResultState.RUNNING)
            orphans.update(state=LOST, reason=why, finished_at=timezone.now())
        rows = list(run.results.values_list("pk", "server_id", "attempt", "not_before", "state"))
        places = [Place(pk, server, attempt, at) for pk, server, attempt, at, state in rows if state == "waiting"]
        return Fanout(run, places, {row[0]: row[4] for row in rows})

    def _give_up_overdue(self, fanout: Fanout) -> None:
        for shot in [shot for shot in fanout.shots.values() if shot.overdue()]:
            now = timezone.now()
            why = _("It did not come back long after its limit; nobody knows how it ended.")
            self.done.put(Outcome(shot.result_id, LOST, None, why, now, now))

    # Writing and beginning

    def _write(self, outcomes: list[Outcome]) -> None:
        """One transaction for all that ended and all that begins; the threads start once it is committed."""
        endings = [(self.run_of.pop(outcome.result_id, 0), outcome) for outcome in outcomes]
        endings = [(pk, outcome) for pk, outcome in endings if pk in self.fanouts]
        begins = {pk: places for pk, fanout in self.fanouts.items() if (places := self._next(fanout))}
        concerned = {pk for pk, _outcome in endings} | set(begins)
        concerned |= {
            pk for pk, fanout in self.fanouts.items() if (fanout.stopped and fanout.waiting) or fanout.is_done()
        }
        if not concerned:
            return
        for shot in self._commit(endings, begins, concerned):
            self.run_of[shot.result_id] = shot.run_id
            self._pool.submit(shot.fire, self.done)

    def _commit(
        self, endings: list[tuple[int, Outcome]], begins: dict[int, list[Place]], concerned: set[int]
    ) -> list[Shot]:
        """Write it for the runs that are ours still; returns what may be fired now."""
        servers = self._servers(begins)
        ready: list[Shot] = []
        with transaction.atomic():
            held = set(self._held().select_for_update().values_list("pk", flat=True))
            ended_rows = [self._ending(self.fanouts[pk], outcome) for pk, outcome in endings if pk in held]
            write_results({result_id: values for result_id, values in ended_rows if values})
            for pk in held & set(begins):
                ready += self._write_begin(self.fanouts[pk], begins[pk], servers)
            ended = [pk for pk in held & concerned if self._write_rest(self.fanouts[pk])]
        for pk in ended:
            del self.fanouts[pk]
        for pk in set(self.fanouts) - held:
            self._abandon(pk)
        return ready

    def _next(self, fanout: Fanout) -> list[Place]:
        return fanout.next_places(THREADS - len(self.run_of))

    def _servers(self, begins: dict[int, list[Place]]) -> dict[int, Server]:
        ids = {place.server_id for places in begins.values() for place in places if place.server_id}
        rows = Server.objects.prefetch_related("jump").defer("figures", "agent_token")
        return rows.in_bulk(ids) if ids else {}

    def _ending(self, fanout: Fanout, outcome: Outcome) -> tuple[int, dict[str, Any]]:
        """The columns of a result whose attempt has ended; none when nobody waits for it any more."""
        shot = fanout.shots.get(outcome.result_id)
        if shot is None:
            return outcome.result_id, {}
        state, reason = outcome.state, outcome.reason
        if state == ResultState.CANCELLED:
            state = ResultState.TIMED_OUT if fanout.ending == RunState.TIMED_OUT else state
            reason = fanout.stopped
        outcome = Outcome(
            outcome.result_id, state, outcome.exit_status, reason, outcome.started_at, outcome.finished_at
        )
        again = fanout.take(outcome)
        values = _printed_columns(shot) | {
            "exit_status": outcome.exit_status,
            "reason": reason[:500],
            "started_at": outcome.started_at,
            "finished_at": outcome.finished_at,
            "digest": shot.digest(),
            "state": ResultState.WAITING if again else state,
        }
        if again:
            values |= {"attempt": again.attempt, "not_before": again.not_before}
        return outcome.result_id, values

    def _write_begin(self, fanout: Fanout, places: list[Place], servers: dict[int, Server]) -> list[Shot]:
        shots = []
        for place in places:
            try:
                shots.append(self._shot(fanout, place, servers))
            except InfiniError as error:
                fanout.fail(place)
                RunResult.objects.filter(pk=place.result_id).update(
                    state=ResultState.FAILED, reason=error.message[:500], finished_at=timezone.now()
                )
        ids = [shot.result_id for shot in shots]
        RunResult.objects.filter(pk__in=ids).update(
            **{"state": ResultState.RUNNING, "started_at": timezone.now(), "finished_at": None, "exit_status": None},
            **{"output": "", "error": "", "raw": None, "output_cut": 0, "error_cut": 0, "digest": "", "reason": ""},
        )
        for shot in shots:
            fanout.shots[shot.result_id] = shot
            fanout.mark(shot.result_id, ResultState.RUNNING)
        return shots

    def _shot(self, fanout: Fanout, place: Place, servers: dict[int, Server]) -> Shot:
        server = servers.get(place.server_id or 0)
        if server is None:
            raise InfiniError(_("This server was deleted before its turn."))
        access = SshAccess.of(server)
        if fanout.run.account:
            access = access.with_account(fanout.run.account)
        run, timeout = fanout.run, fanout.policy.get("timeout_seconds", 300)
        return Shot(run.pk, place.result_id, access, run.command, run.environment, timeout)

    def _write_rest(self, fanout: Fanout) -> bool:
        """Leave out whom a stop keeps from beginning, and close the run when it is through; True when it is."""
        left = fanout.leave_out()
        if left:
            state = fanout.left_out_state()
            RunResult.objects.filter(pk__in=left, state=ResultState.WAITING).update(
                state=state, reason=fanout.stopped[:500], finished_at=timezone.now()
            )
            for result_id in left:
                fanout.mark(result_id, state)
        if not fanout.is_done():
            return False
        runs.close(fanout.run, *fanout.verdict())
        return True

    def _show(self) -> None:
        """Write what running commands have printed since, of all runs together; slower where that takes long."""
        began = time.monotonic()
        if began - self._flushed < self._flush_every:
            return
        fresh = [(shot, size) for shot in self._shots() if (size := shot.printed_bytes()) != shot.shown_bytes]
        if fresh:
            with transaction.atomic():
                held = set(self._held().select_for_update().values_list("pk", flat=True))
                write_results({shot.result_id: _printed_columns(shot) for shot, _size in fresh if shot.run_id in held})
            for shot, size in fresh:
                shot.shown_bytes = size
        self._flushed = time.monotonic()
        self._flush_every = max(FLUSH_SECONDS, 10 * (self._flushed - began))


def _printed_columns(shot: Shot) -> dict[str, Any]:
    output, error = shot.printed()
    return {
        "output": output.text,
        "output_cut": output.cut_bytes,
        "error": error.text,
        "error_cut": error.cut_bytes,
        "raw": output.raw,
    }
