"""Ends what a killed supervisor left. Run as ``python -I -S infini/guard.py``; standard library only.

It reads lines ``+GROUP`` and ``-GROUP`` from its standard input, the supervisor's pipe. When the pipe closes,
however the supervisor died, every process group still noted is killed. A parent-death signal would reach the
direct children alone: not the workers that a queue process forks.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Note groups until the supervisor is gone, then kill those left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line[0] == "+" else groups.discard
        change(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
