"""The gateway's paths and what each takes."""

import re
from dataclasses import dataclass

_SERVICE_PATH = re.compile(r"/api/services/([0-9]{1,18})/chat/completions/?")
_V1 = "/v1"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked for: ``path`` below the upstream's base address; ``streams``: it may come as events."""

    path: str
    name: str
    streams: bool = False


CHAT = Kind("chat/completions", "chat", streams=True)
KINDS = {
    kind.path: kind
    for kind in (
        CHAT,
        Kind("completions", "completions", streams=True),
        Kind("embeddings", "embeddings"),
        Kind("rerank", "rerank"),
    )
}


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request of the gateway's goes: to one service, to a model by name, or to the list of models."""

    kind: Kind | None = None
    service_id: int = 0
    models: bool = False
    model: str = ""

    @property
    def method(self) -> str:
        return "GET" if self.models else "POST"


_KNOWN = {f"{_V1}/{path}": Route(kind) for path, kind in KINDS.items()}


def route_of(path: str) -> Route | None:
    """None when the path is not the gateway's; below ``/v1`` all are, also those that lead nowhere."""
    known = _KNOWN.get(path)
    if known:
        return known
    if path.startswith(_V1) and path[3:4] in ("", "/"):
        below = path[4:].rstrip("/")
        if below == "models" or below.startswith("models/"):
            return Route(models=True, model=below[7:])
        return Route(kind=KINDS.get(below))
    match = _SERVICE_PATH.fullmatch(path)
    return Route(kind=CHAT, service_id=int(match[1])) if match else None
