"""The steps of an installation. Each looks at what is there and changes only what differs, so that a run that was
cut off anywhere is completed by the next one from its first step on.
"""

import hashlib
import time

from django.utils.translation import gettext_noop as _  # stored; said in the reader's language when shown

from infini import secrets
from inventory.agents import AgentError, AgentRefusesToken, AgentUnreachable
from inventory.installation import certificates
from inventory.installation.access import record_agent_access, record_first_report
from inventory.installation.release import is_older, own_release
from inventory.installation.remote import RemoteRefusal
from inventory.installation.states import StepState
from inventory.installation.work import Outcome, StepFailed, Work, agent_part, counted, running_instances
from inventory.models import Server
from inventory.ssh.errors import SshError

LEAST_FREE_BYTES = 64 * 1024 * 1024
FIRST_REPORT_SECONDS = 30.0


def look(work: Work) -> Outcome:
    """Log in, see what the machine is and what is there already; refuse what could not end well."""
    work.facts = facts = work.remote.ask("look")
    if facts["not_writable"]:
        raise StepFailed(facts["not_writable"])
    if facts["free_bytes"] < LEAST_FREE_BYTES:
        raise StepFailed(
            _("Only %(mib)d MiB are free where the agent would be; it needs 64.")
            % {"mib": facts["free_bytes"] // 1024**2}
        )
    if facts["port_taken_by"]:
        port = work.server.agent_port
        raise StepFailed(
            _("Port %(port)d on %(server)s is taken by %(by)s. End that, or give the server another agent port.")
            % {"port": port, "server": work.server.name, "by": facts["port_taken_by"]}
        )
    owner = _whose_agent(work)
    if owner:
        raise StepFailed(
            _("The agent there is that of %(server)s, which is the same machine. Remove one of the two servers.")
            % {"server": owner}
        )
    how = {
        "root": _("as root"),
        "sudo": _("as root by sudo"),
        "sudo-password": _("as root by sudo with the stored password"),
    }
    who = how.get(work.remote.privilege.way) or _("as %(account)s, without root: in its home directory") % facts
    python = f"Python {facts['python_version']} ({facts['python']})"
    text = _("The machine: %(system)s, %(machine)s, %(python)s; the site works there %(who)s.")
    text %= {"system": facts["system"], "machine": facts["machine"], "python": python, "who": who}
    if facts["instances"]:
        text += " " + _("Running there: %(instances)s.") % {"instances": counted(facts["instances"])}
    return Outcome(StepState.DONE, text)


def copy_file(work: Work) -> Outcome:
    own, there = own_release(), work.facts["version"]
    folder = work.facts["folder"]
    if there and is_older(own.version, there):
        return Outcome(
            StepState.UNCHANGED, _("Version %(version)s is there, newer than ours; it stays.") % {"version": there}
        )

    values = {"file": f"{folder}/infini_agent.py", "version": own.version, "before": there, "folder": folder}
    over = _("Write version %(version)s to %(file)s over %(before)s.")

    def copy() -> tuple[str, str]:
        output = work.do("source", source=own.source).get("output", "")
        text = (
            _("%(file)s is version %(version)s, it was %(before)s.") if there else _("%(file)s is version %(version)s.")
        )
        return text % values, output

    return work.outcome(
        work.facts["source"] != own.sha256,
        right=_("Version %(version)s is in %(folder)s.") % values,
        would=(over if there else _("Write version %(version)s to %(file)s.")) % values,
        do=copy,
    )


def put_token(work: Work) -> Outcome:
    """The stored token where server and site agree on it, else a new one on both."""
    known = work.server.agent_token
    agreed = bool(known) and work.facts["token"] == _digest(known)
    token = known if agreed or (known and not work.facts["token"]) else secrets.make_token()

    def put() -> tuple[str, str]:
        work.secrets.append(token)
        if agreed:
            work.do("close_secrets")
            return _("The token and key were readable by others; now by their owner alone."), ""
        work.do("token", token=token)
        work.server.agent_token = token
        return _("A token is on the server, mode 0600."), ""

    return work.outcome(
        not agreed or work.facts["token_open"],
        right=_("Server and site agree on the token."),
        would=_("Close the token and key to others.") if agreed else _("Write a token, mode 0600."),
        do=put,
    )


def put_certificate(work: Work) -> Outcome:
    """Keep the server's certificate while it is good, since SSH vouches for it; then store by what it is reached.

    What the site stores is written after what the server holds: cut off in between, the next run finds them apart.
    """
    found = work.facts["certificate"]
    good = bool(found) and certificates.is_usable(found)
    pinned = good and _same(found, work.server.agent_certificate)

    def put() -> tuple[str, str]:
        identity = None if good else certificates.make_identity(work.server.host_ip)
        if identity:
            work.do("certificate", certificate=identity.certificate, key=identity.key)
        work.server.agent_certificate = identity.certificate if identity else found
        text = _("A certificate was made and pinned.") if identity else _("The server's certificate is pinned.")
        return text, ""

    outcome = work.outcome(
        not pinned,
        right=_("Server and site agree on the certificate."),
        would=_("Pin the certificate that is there.") if good else _("Make a certificate, write it, and pin it."),
        do=put,
    )
    if not work.dry_run:
        record_agent_access(
            work.server.pk,
            token=work.server.agent_token,
            certificate=work.server.agent_certificate,
            by=work.installation.by,
        )
    return outcome


def supervise(work: Work) -> Outcome:
    paths = ", ".join(work.facts["supervision_paths"])
    where = {
        "systemd": f"systemd ({paths})",
        "cron.d": f"cron ({paths})",
        "crontab": _("the account's crontab (%(paths)s)") % {"paths": paths},
    }
    what = {"what": where[work.facts["supervision"]]}
    missing = work.facts["cron_missing"]
    warning = f" {missing} " + _("After a reboot nothing starts it.") if missing else ""

    def write() -> tuple[str, str]:
        text = _("It starts at boot and is kept running by %(what)s.") % what
        return text + warning, work.do("supervise").get("output", "")

    return work.outcome(
        not work.facts["supervised"],
        right=_("It is started at boot and kept running by %(what)s already.") % what + warning,
        would=_("Have it started at boot and kept running by %(what)s.") % what + warning,
        do=write,
    )


def start(work: Work) -> Outcome:
    """Start it, or again when it runs with something else than what is there now."""
    written = work.changed & {"source", "token", "certificate", "supervise"}
    wrong = work.facts["wrong"] or (_("something of it was changed") if written else "")
    again, instances = work.facts["runs"], ""
    if work.facts["instances"]:
        instances = " " + _("Running on meanwhile: %(instances)s.") % {"instances": counted(work.facts["instances"])}

    def run() -> tuple[str, str]:
        output = work.do("start", seconds=120).get("output", "")
        fresh = _("The agent was started and answers on its machine.")
        return (_("The agent was started again and answers on its machine.") if again else fresh) + instances, output

    would = _("Start it again: %(why)s.") if again else _("Start it: %(why)s.")

    return work.outcome(
        bool(wrong) or _planned_before(work),
        right=_("It runs, with all that is there."),
        would=would % {"why": wrong or _("something of it is changed")} + instances,
        do=run,
    )


def wait_for_report(work: Work) -> Outcome:
    """Ask it as the monitor will, from here; then its version is known."""
    if work.dry_run:
        return Outcome(StepState.PLANNED, _("Wait for its first report, at %(where)s.") % {"where": _where(work)})
    report = first_report(work)
    record_first_report(work.server.pk, report)
    return Outcome(StepState.DONE, reports_text(report))


def reports_text(report: dict) -> str:
    version, running = agent_part(report).get("version"), counted(running_instances(report))
    return _("Version %(version)s reports, with %(instances)s.") % {"version": version, "instances": running}


def first_report(work: Work) -> dict:
    """The agent's report, waited for; raises StepFailed with the agent's own log."""
    until = time.monotonic() + FIRST_REPORT_SECONDS
    while True:
        report = work.report()
        if not isinstance(report, AgentError):
            return report
        if time.monotonic() > until or work.cancelled.wait(0.5):
            raise StepFailed(_why_silent(work, report), agent_log(work))


def agent_log(work: Work) -> str:
    """The last lines of the agent's log on the server; empty when they cannot be had."""
    try:
        return str(work.remote.ask("tail").get("output", ""))
    except (SshError, RemoteRefusal):
        return ""


def _why_silent(work: Work, error: AgentError) -> str:
    if isinstance(error, AgentUnreachable):
        text = _(
            "It runs there and cannot be reached from here. Open %(where)s in its firewall. The answer was: %(why)s"
        )
        return text % {"where": _where(work), "why": error.message}
    if isinstance(error, AgentRefusesToken):
        return error.message + " " + _("Another agent may listen at %(where)s.") % {"where": _where(work)}
    return error.message


def _whose_agent(work: Work) -> str:
    """Another server of the site whose token is the one there: two rows of one machine would take turns to break it."""
    token = work.facts["token"]
    if not token or token == _digest(work.server.agent_token):
        return ""
    others = Server.objects.with_agent().exclude(pk=work.server.pk).only("name", "agent_token")
    return next((other.name for other in others if _digest(other.agent_token) == token), "")


def _where(work: Work) -> str:
    return f"{work.server.host_ip}:{work.server.agent_port}"


def _planned_before(work: Work) -> bool:
    """In a dry run: whether an earlier step would change something that the agent reads at its start."""
    return any(step["state"] == StepState.PLANNED for step in work.installation.steps)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()
