"""What an agent is asked to run: the revision with its placeholders filled in."""

import json
import re
import shlex
from typing import Any

from deployments.models import Instance, Service

_PLACEHOLDER = re.compile(r"\{(port|host|service|model)\}")


def fill(command: str, values: dict[str, str]) -> str:
    """Replace exactly ``{port} {host} {service} {model}``, shell-quoted; all other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda found: shlex.quote(values[found.group(1)]), command)


def deploy_body(instance: Instance, service: Service) -> dict[str, Any]:
    """The body of the agent's deploy request; see docs/agent-protocol.md."""
    revision, server = instance.revision, instance.placement.server
    model = service.served_model or (service.model.name if service.model else service.name)
    values = {
        "port": str(instance.port or ""),
        "host": server.host_ip,
        "service": service.name,
        "model": model,
    }
    secret = json.loads(revision.secret_env) if revision.secret_env else {}
    body: dict[str, Any] = {
        "command": fill(revision.command, values),
        "env": {**revision.env, **secret},
        "generation": instance.generation,
        "restart": "never",
    }
    optional = {
        "cwd": revision.cwd,
        "user": revision.run_as,
        "port": instance.port,
        "probes": revision.probes,
        "stop_command": fill(revision.stop_command, values),
    }
    return body | {name: value for name, value in optional.items() if value}
