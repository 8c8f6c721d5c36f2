"""The server this site itself runs on, known to it as ``local``."""

from ipaddress import ip_address

from django.conf import settings

from infini import records, secrets
from inventory.models import Server

NAME, HOST = "local", "127.0.0.1"


def ensure_local_server() -> Server:
    """Make ``local``, or bring its agent's port and token up to date; a deleted one is made again.

    Site and agent read the token from one file, made here when it is missing. A server of this name that
    a person pointed elsewhere is left alone: the token is for this machine only.
    """
    token = secrets.read_or_create(settings.AGENT_STATE_DIR / "token", secrets.make_token)
    server = Server.objects.filter(name__iexact=NAME).first()
    if server is None:
        made = Server(name=NAME, host_ip=HOST, agent_port=settings.AGENT_PORT, agent_token=token)
        return records.create(made, by=None)
    if not _is_here(server.host_ip):
        return server
    server.agent_port, server.agent_token = settings.AGENT_PORT, token
    return records.change(server, ["agent_port", "agent_token"], by=None)


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_own(server: Server) -> bool:
    """Whether ``server`` is the one whose agent the site itself runs."""
    return server.name.lower() == NAME and _is_here(server.host_ip)
