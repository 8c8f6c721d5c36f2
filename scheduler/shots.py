"""One command on one server, over SSH, in a thread of its own. It reads and writes no rows: a slow server holds no
connection to the database.
"""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db import connections
from django.utils import timezone
from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from infini.errors import InfiniError
from inventory.ssh.access import SshAccess
from inventory.ssh.commands import CommandResult, run
from inventory.ssh.errors import SshConnectionLost
from scheduler.output import KeptOutput, Printed
from scheduler.states import ResultState

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
# Beyond its limits: what ending the processes and closing may take. Then nobody waits for it any more.
OVERDUE_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended."""

    result_id: int
    state: ResultState
    exit_status: int | None
    reason: str
    started_at: datetime
    finished_at: datetime


@dataclass
class Shot:
    """One attempt: begun by ``fire`` in a thread, watched from another."""

    run_id: int
    result_id: int
    access: SshAccess
    command: str
    environment: Mapping[str, str]
    timeout_seconds: float
    cancelled: threading.Event = field(default_factory=threading.Event)
    begun: float = field(default_factory=time.monotonic)
    shown_bytes: int = 0  # how much of the output the row told last
    output: KeptOutput = field(default_factory=lambda: KeptOutput(settings.RUN_OUTPUT_MAX_BYTES))
    error: KeptOutput = field(default_factory=lambda: KeptOutput(settings.RUN_OUTPUT_MAX_BYTES // 4))

    def fire(self, done: "queue.SimpleQueue[Outcome]") -> None:
        """Run the command and put what came of it; never raises."""
        started_at = timezone.now()
        try:
            state, exit_status, reason = self._run()
        except SshConnectionLost as error:
            state, exit_status, reason = ResultState.LOST, None, error.message
        except InfiniError as error:
            state, exit_status, reason = ResultState.FAILED, None, error.message
        except Exception:  # whatever it is, the run must hear that this server is through
            logger.exception("run.shot_failed", extra={"run_id": self.run_id, "result_id": self.result_id})
            state, exit_status, reason = ResultState.FAILED, None, _("A fault of Infini's own; its log tells more.")
        finally:
            connections.close_all()  # the SSH layer writes down a host key it does not know
        done.put(Outcome(self.result_id, state, exit_status, reason[:500], started_at, timezone.now()))

    def _run(self) -> tuple[ResultState, int | None, str]:
        if self.cancelled.is_set():
            return ResultState.CANCELLED, None, ""
        result = run(
            self.access,
            self.command,
            environment=self.environment,
            timeout_seconds=self.timeout_seconds,
            connect_timeout_seconds=CONNECT_SECONDS,
            output_max_bytes=0,  # kept here
            on_output=self._take,
            cancelled=self.cancelled,
        )
        return _judged(result, self.timeout_seconds)

    def _take(self, stream: str, piece: bytes) -> None:
        (self.output if stream == "stdout" else self.error).add(piece)

    def overdue(self) -> bool:
        limit = self.timeout_seconds + CONNECT_SECONDS + OVERDUE_SECONDS
        return time.monotonic() - self.begun > limit

    def printed_bytes(self) -> int:
        return self.output.total_bytes + self.error.total_bytes

    def printed(self) -> tuple[Printed, Printed]:
        return self.output.printed(), self.error.printed()

    def digest(self) -> str:
        """Equal for equal output and error output."""
        return hashlib.sha256(f"{self.output.digest()}/{self.error.digest()}".encode()).hexdigest()


def _judged(result: CommandResult, timeout_seconds: float) -> tuple[ResultState, int | None, str]:
    if result.cancelled:
        return ResultState.CANCELLED, result.exit_status, ""
    if result.timed_out:
        return ResultState.TIMED_OUT, result.exit_status, _("Ended after %(n)g s.") % {"n": timeout_seconds}
    if result.success:
        return ResultState.SUCCESS, 0, ""
    if result.signal:
        return ResultState.FAILED, None, _("Ended by signal %(name)s.") % {"name": result.signal}
    if result.exit_status is None:
        return ResultState.FAILED, None, _("The server told no exit status: it may have refused to run the command.")
    return ResultState.FAILED, result.exit_status, _("Exit status %(n)s.") % {"n": result.exit_status}
