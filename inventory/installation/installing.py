"""The steps of an installation. Each looks at what is there and changes only what differs, so that a run that was
cut off anywhere is completed by the next one from its first step on.
"""

import hashlib
import time

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
        raise StepFailed(f"Only {facts['free_bytes'] // 1024**2} MiB are free where the agent would be; it needs 64.")
    if facts["port_taken_by"]:
        port = work.server.agent_port
        raise StepFailed(
            f"Port {port} on {work.server.name} is taken by {facts['port_taken_by']}. "
            "End that, or give the server another agent port."
        )
    owner = _whose_agent(work)
    if owner:
        raise StepFailed(
            f"The agent there is that of {owner}, which is the same machine. Remove one of the two servers."
        )
    how = {"root": "as root", "sudo": "as root by sudo", "sudo-password": "as root by sudo with the stored password"}
    who = how.get(work.remote.privilege.way, f"as {facts['account']}, without root: in its home directory")
    kept = f", {counted(facts['instances'])} running" if facts["instances"] else ""
    python = f"Python {facts['python_version']} ({facts['python']})"
    return Outcome(StepState.DONE, f"{facts['system']}, {facts['machine']}, {python}, {who}{kept}.")


def copy_file(work: Work) -> Outcome:
    own, there = own_release(), work.facts["version"]
    folder = work.facts["folder"]
    if there and is_older(own.version, there):
        return Outcome(StepState.UNCHANGED, f"Version {there} is there, newer than ours; it stays.")

    def copy() -> tuple[str, str]:
        output = work.do("source", source=own.source).get("output", "")
        return f"{folder}/infini_agent.py is version {own.version}" + (f", it was {there}." if there else "."), output

    return work.outcome(
        work.facts["source"] != own.sha256,
        right=f"Version {own.version} is in {folder}.",
        would=f"Write version {own.version} to {folder}/infini_agent.py" + (f" over {there}." if there else "."),
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
            return "The token and key were readable by others; now by their owner alone.", ""
        work.do("token", token=token)
        work.server.agent_token = token
        return "A token is on the server, mode 0600.", ""

    return work.outcome(
        not agreed or work.facts["token_open"],
        right="Server and site agree on the token.",
        would="Close the token and key to others." if agreed else "Write a token, mode 0600.",
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
        return ("A certificate was made and pinned." if identity else "The server's certificate is pinned."), ""

    outcome = work.outcome(
        not pinned,
        right="Server and site agree on the certificate.",
        would="Pin the certificate that is there." if good else "Make a certificate, write it, and pin it.",
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
        "crontab": f"the account's crontab ({paths})",
    }
    what = where[work.facts["supervision"]]
    warning = f" {work.facts['cron_missing']} After a reboot nothing starts it." if work.facts["cron_missing"] else ""

    def write() -> tuple[str, str]:
        return f"It starts at boot and is kept running by {what}.{warning}", work.do("supervise").get("output", "")

    return work.outcome(
        not work.facts["supervised"],
        right=f"{what} starts it at boot and keeps it running.{warning}",
        would=f"Have it started at boot and kept running by {what}.{warning}",
        do=write,
    )


def start(work: Work) -> Outcome:
    """Start it, or again when it runs with something else than what is there now."""
    written = work.changed & {"source", "token", "certificate", "supervise"}
    wrong = work.facts["wrong"] or ("something of it was changed" if written else "")
    again = work.facts["runs"]
    instances = f" Running on meanwhile: {counted(work.facts['instances'])}." if work.facts["instances"] else ""

    def run() -> tuple[str, str]:
        output = work.do("start", seconds=120).get("output", "")
        return f"The agent was started{' again' if again else ''} and answers on its machine.{instances}", output

    return work.outcome(
        bool(wrong) or _planned_before(work),
        right="It runs, with all that is there.",
        would=f"Start it{' again' if again else ''}: {wrong or 'something of it is changed'}.{instances}",
        do=run,
    )


def wait_for_report(work: Work) -> Outcome:
    """Ask it as the monitor will, from here; then its version is known."""
    if work.dry_run:
        return Outcome(StepState.PLANNED, f"Wait for its first report, at {_where(work)}.")
    report = first_report(work)
    record_first_report(work.server.pk, report)
    version, running = agent_part(report).get("version"), running_instances(report)
    return Outcome(StepState.DONE, f"Version {version} reports, with {counted(running)}.")


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
        return f"It runs there and cannot be reached from here: {error.message} Open {_where(work)} in its firewall."
    if isinstance(error, AgentRefusesToken):
        return f"{error.message} Another agent may listen at {_where(work)}."
    return error.message


def _whose_agent(work: Work) -> str:
    """Another server of the site whose token is the one there: two rows of one machine would take turns to break it."""
    token = work.facts["token"]
    if not token or token == _digest(work.server.agent_token):
        return ""
    others = Server.objects.with_agent().exclude(pk=work.server.pk).only("name", "agent_token")
    return next((other.name for other in others if _digest(other.agent_token) == token), "")


def _where(work: Work) -> str:
    return f"{work.server.host_ip} port {work.server.agent_port}"


def _planned_before(work: Work) -> bool:
    """In a dry run: whether an earlier step would change something that the agent reads at its start."""
    return any(step["state"] == StepState.PLANNED for step in work.installation.steps)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _same(one: str, other: str) -> bool:
    return one.split() == other.split()
