"""The steps of an upgrade: the agent takes its own place, keeping every instance; where it cannot, SSH does it.

May be repeated: what runs already is answered so by the agent, and over SSH nothing is written that is there.
"""

import time

from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from inventory.agents import AgentError, AgentRefusesToken, AgentRejects
from inventory.installation.access import record_first_report
from inventory.installation.installing import agent_log, copy_file, look, reports_text, start
from inventory.installation.release import is_older, own_release
from inventory.installation.states import StepState
from inventory.installation.work import Outcome, StepFailed, Work, agent_part, counted, running_instances
from inventory.ssh.errors import SshNotSetUp

# The agent's own guard takes a bad file back after 10 s, and under systemd waits 30 s more.
TAKES_PLACE_SECONDS = 45.0
SEND_SECONDS = 60.0


def ask_version(work: Work) -> Outcome:
    """What runs there now, and which instances, to compare afterwards. A silent agent may be mended over SSH."""
    report = work.report()
    if isinstance(report, AgentRefusesToken):
        raise StepFailed(
            f"{report.message} " + _("Install the agent instead: that brings token and certificate into agreement.")
        )
    if isinstance(report, AgentError):
        if not work.server.username:
            raise StepFailed(f"{report.message} " + _("There is no SSH account to upgrade it by either."))
        return Outcome(StepState.DONE, f"{report.message} " + _("It will be upgraded over SSH."))
    work.before = report
    values = {"version": agent_part(report).get("version"), "instances": counted(running_instances(report))}
    return Outcome(StepState.DONE, _("Version %(version)s answers, with %(instances)s.") % values)


def send(work: Work) -> Outcome:
    own, runs = own_release(), str(agent_part(work.before).get("version") or "")
    if runs and is_older(own.version, runs):
        return Outcome(StepState.UNCHANGED, _("It is newer than ours, %(version)s.") % {"version": own.version})
    if work.dry_run:
        if runs == own.version:
            return Outcome(StepState.UNCHANGED, _already())
        way = _("Send version %(version)s to the agent.") if runs else _("Copy version %(version)s over SSH.")
        return Outcome(StepState.PLANNED, way % {"version": own.version} + " " + _("Instances run on."))
    refusal = _send_to_agent(work) if runs else _("The agent does not answer.")
    if isinstance(refusal, Outcome):
        return refusal
    return _copy_over_ssh(work, refusal)


def restart(work: Work) -> Outcome:
    """Only where the file came over SSH; an agent that took it has executed it by itself."""
    if work.facts:
        return start(work)
    return Outcome(StepState.UNCHANGED, _("The agent does it itself."))


def wait_for_version(work: Work) -> Outcome:
    """Until the new version reports, with every instance that ran before as the same process."""
    if work.dry_run:
        return Outcome(StepState.PLANNED, _("Wait for its report, and compare the instances."))
    report = _new_report(work)
    record_first_report(work.server.pk, report)
    before, after = running_instances(work.before), running_instances(report)
    same = [key for key, pid in before.items() if after.get(key) == pid]
    other = sorted(set(before) - set(same))
    text = reports_text(report)
    if before:
        text += " " + _("%(n)d of %(all)d run on as the same process.") % {"n": len(same), "all": len(before)}
    if other:
        text += " " + _("Ended or restarted meanwhile: %(names)s.") % {"names": ", ".join(other)}
    return Outcome(StepState.DONE, text)


def _send_to_agent(work: Work) -> Outcome | str:
    """What came of it, or why the agent cannot do it by itself."""
    own = own_release()
    if not work.is_mine():
        raise StepFailed(_("Somebody else works on it."))
    body = {"sha256": own.sha256, "source": own.source}
    answer = work.agent("POST", "/agent/upgrade", body, seconds=SEND_SECONDS)
    if isinstance(answer, AgentRejects) and answer.status in (404, 409, 413):
        return answer.message
    if isinstance(answer, AgentRejects):
        raise StepFailed(_("The agent refuses the file: %(why)s") % {"why": answer.details or answer.message})
    if isinstance(answer, AgentError):
        return answer.message
    if answer.get("version") == own.version and agent_part(work.before).get("version") == own.version:
        return Outcome(StepState.UNCHANGED, _already())
    work.changed.add("sent")
    return Outcome(
        StepState.DONE, _("The agent took version %(version)s and its own place.") % {"version": own.version}
    )


def _copy_over_ssh(work: Work, refusal: str) -> Outcome:
    try:
        look(work)
    except SshNotSetUp as error:
        raise StepFailed(f"{refusal} {error.message}") from None
    if not work.facts["version"]:
        raise StepFailed(
            f"{refusal} " + _("Nor was this agent installed by the site: install it, or replace its file by hand.")
        )
    outcome = copy_file(work)
    return Outcome(outcome.state, " ".join([refusal, _("It goes over SSH."), outcome.text]), outcome.output)


def _already() -> str:
    return _("It is version %(version)s already.") % {"version": own_release().version}


def _new_report(work: Work) -> dict:
    wanted, before = own_release().version, agent_part(work.before)
    if "sent" not in work.changed and not work.facts:
        wanted = str(before.get("version"))
    until = time.monotonic() + TAKES_PLACE_SECONDS
    while True:
        report = work.report()
        if not isinstance(report, AgentError):
            there = agent_part(report)
            if not is_older(str(there.get("version")), wanted):
                return report
            told = _("Version %(version)s runs again: the new file did not do, and the agent took it back.")
            told %= {"version": there.get("version")}
        else:
            told = report.message
        if time.monotonic() > until or work.cancelled.wait(0.5):
            raise StepFailed(told, agent_log(work) if work.server.username else "")
