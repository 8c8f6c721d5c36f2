"""What an agent is asked to run: the revision with its placeholders filled in."""

import ipaddress
import json
import re
import shlex
from typing import Any

from deployments.device_claims import device_environment
from deployments.models import Instance, Service
from inventory.models import Server

_PLACEHOLDER = re.compile(r"\{(port|host|service|model)\}")


def fill(command: str, values: dict[str, str]) -> str:
    """Replace exactly ``{port} {host} {service} {model}``, shell-quoted; all other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda found: shlex.quote(values[found.group(1)]), command)


def placeholders(service: Service, server: Server, port: int | None) -> dict[str, str]:
    """What stands for them in a command of ``service`` on ``server``."""
    model = service.served_model or (service.model.name if service.model else service.name)
    return {"port": str(port or ""), "host": server.host_ip, "service": service.name, "model": model}


def deploy_body(instance: Instance, service: Service) -> dict[str, Any]:
    """The body of the agent's deploy request; see docs/agent-protocol.md."""
    revision = instance.revision
    values = placeholders(service, instance.placement.server, instance.port)
    secret = json.loads(revision.secret_env) if revision.secret_env else {}
    body: dict[str, Any] = {
        "command": fill(revision.command, values),
        "env": {**revision.env, **secret, **device_environment(instance)},
        "generation": instance.generation,
        "restart": revision.restart,
    }
    optional = {
        "cwd": revision.cwd,
        "user": revision.run_as,
        "port": instance.port,
        "probes": _probes(instance),
        "stop_command": fill(revision.stop_command, values),
    }
    return body | {name: value for name, value in optional.items() if value}


def _probes(instance: Instance) -> dict[str, Any]:
    """The revision's probes, aimed at the address the site will use: a server bound elsewhere is not ready for it."""
    probes = dict(instance.revision.probes)
    host = instance.placement.server.host_ip
    if instance.port and probes.get("type") != "none" and _is_ip(host):
        probes.setdefault("host", host)
    return probes


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
