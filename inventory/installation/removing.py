"""The steps of a removal. The agent goes; instances stay, unless it was asked to stop them. May be repeated."""

from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from inventory.agents import AgentError
from inventory.installation.access import forget_agent_access
from inventory.installation.states import StepState
from inventory.installation.work import Outcome, StepFailed, Work, counted
from inventory.ssh.errors import SshNotSetUp

BY_HAND = _("Remove it by hand: python3 install_agent.py --remove")


def look(work: Work) -> Outcome:
    """See what is there. An agent that answers and is not where we install was brought by somebody else."""
    try:
        work.facts = facts = work.remote.ask("look")
    except SshNotSetUp as error:
        raise StepFailed(f"{error.message} {BY_HAND}") from None
    ours = facts["version"] or facts["runs"] or facts["supervised"]
    if not ours and work.server.agent_token and not isinstance(work.report(), AgentError):
        raise StepFailed(
            _(
                "The agent that answers was not installed by the site: nothing is in %(folder)s. "
                "End it by hand, then clear token and certificate at the server."
            )
            % facts
        )
    if not ours:
        return Outcome(StepState.DONE, _("No agent is there any more."))
    if not facts["version"]:
        return Outcome(StepState.DONE, _("An agent of unknown version in %(folder)s, %(system)s.") % facts)
    return Outcome(StepState.DONE, _("Version %(version)s in %(folder)s, %(system)s.") % facts)


def see_to_instances(work: Work) -> Outcome:
    running = work.facts["instances"]
    if not running:
        return Outcome(StepState.UNCHANGED, _("No instance runs."))
    if not work.installation.stop_instances:
        return Outcome(
            StepState.UNCHANGED,
            _("Left running, with nobody to watch until an agent is installed again: %(instances)s.")
            % {"instances": counted(running)},
        )

    def stop() -> tuple[str, str]:
        stopped = work.do("stop_instances", seconds=150)["stopped"]
        work.facts["instances"] = []
        return _("Stopped %(instances)s.") % {"instances": counted(stopped)}, ""

    would = _("Stop these: %(instances)s.") % {"instances": counted(running)}
    return work.outcome(True, right="", would=would, do=stop)


def end(work: Work) -> Outcome:
    """Nothing starts it any more, then it ends: a reboot in between brings nothing back."""
    there = work.facts["runs"] or work.facts["supervised"]

    def run() -> tuple[str, str]:
        return _("It is not started at boot any more, and has ended."), work.do("end").get("output", "")

    return work.outcome(there, right=_("It does not run."), would=_("Have it started no more, and end it."), do=run)


def erase(work: Work) -> Outcome:
    kept = work.facts["instances"]
    there = work.facts["version"] or work.facts["token"] or (work.facts["state_exists"] and not kept)
    folder, state = work.facts["folder"], work.facts["state"]
    values = {"folder": folder, "state": state, "instances": counted(kept)}
    staying = " " + _("%(state)s stays, for %(instances)s.") % values if kept else ""
    would = _("Remove its files from %(folder)s.") if kept else _("Remove its files from %(folder)s and %(state)s.")

    def remove() -> tuple[str, str]:
        done = work.do("erase")
        gone = (
            _("Removed %(n)d files from %(folder)s.")
            if kept
            else _("Removed %(n)d files from %(folder)s and %(state)s.")
        )
        return gone % {**values, "n": len(done["removed"])} + staying, ""

    return work.outcome(bool(there), right=_("Its files are gone."), would=would % values + staying, do=remove)


def forget(work: Work) -> Outcome:
    """Token and certificate leave the site together: from here on nobody is asked and nobody could answer."""
    known = bool(work.server.agent_token or work.server.agent_certificate)

    def clear() -> tuple[str, str]:
        forget_agent_access(work.server.pk, by=work.installation.by)
        return _("Token and certificate are forgotten; the server is not asked any more."), ""

    return work.outcome(known, right=_("Nothing is stored of it."), would=_("Forget token and certificate."), do=clear)
