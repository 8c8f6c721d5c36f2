"""How the agent says in sentences how an instance stands: in English, so they are said in the reader's language."""

import re

from django.utils.translation import gettext_noop

_COUNTDOWN = re.compile(r"Restarts in \d+ s after: ")

# As agent/infini_agent.py writes them; a test compares.
SENTENCES = (
    gettext_noop("Exited with code %(code)s."),
    gettext_noop("Exited with code 127: the command, or one that it calls, was not found."),
    gettext_noop("Exited with code 126: the command could not be executed."),
    gettext_noop("Ended by signal %(signal)s (exit code %(code)d)."),
    gettext_noop("The process ended unseen, because the shim that watched it had died."),
    gettext_noop("Restarts in %(seconds)d s after: %(reason)s"),
    gettext_noop("Stopped on request."),
    gettext_noop("Stopped on request; it did not end within its grace after SIGTERM and was killed."),
    gettext_noop("Stopped on request; its exit code was not seen, because its shim had died."),
    gettext_noop("Stopped on request, while it waited to restart."),
    gettext_noop("The server rebooted while it ran; how it ended was not seen."),
    gettext_noop("It runs, but its %(kind)s probe fails."),
    gettext_noop("Give the absolute path of a directory that exists on this server."),
    gettext_noop("Give the name of an account."),
    gettext_noop("There is no such account on this server."),
    gettext_noop("The agent does not run as root, so it cannot start commands as others."),
    gettext_noop("Commands run as the agent's own account on Windows."),
    gettext_noop("Port %(port)d was already taken when it started."),
)


def lasting(reason: str) -> str:
    """``reason`` without what is true for a moment only: in how many seconds a restart is due. For what is kept."""
    return _COUNTDOWN.sub("", reason)
