"""The shape of the code itself: which way imports point, and what must not be there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each app may import besides itself. The wiring (settings, urls, asgi) may import everything.
MAY_IMPORT = {
    "infini": set(),
    "inventory": {"infini"},
    "deployments": {"infini", "inventory"},
    "chat": {"infini", "inventory", "deployments"},
    "scheduler": {"infini", "inventory"},
    "agent": set(),
}
WIRING = {"infini/settings.py", "infini/urls.py", "infini/asgi.py"}
# Inside an app verbs know nothing of the edges that call them.
EDGES = {
    "admin",
    "api",
    "urls",
    "serializers",
    "consumers",
    "logs_api",
    "unknown_api",
    "device_api",
    "gateway_api",
    "conversation_api",
    "usage_page",
    "gateway",
    "serving",
    "installation_api",
    "files_api",
    "terminals_api",
    "tasks",
    "management",
    "pages",
}
TERMINALS = ["buffer", "models", "opening", "outlet", "recording", "registry", "rows", "session", "surroundings"]
VERBS = {
    "deployments": [
        "alarms",
        *("lifecycle", "operations", "specs", "ports", "device_claims", "steps", "closing", "rollout", "reports"),
        *("reconcile", "presets", "probes", "logs", "feeds", "queueing", "selectors", "models"),
        *("wanting", "trials", "returning", "unknown", "adoption", "revisions", "freeing", "plans"),
    ],
    "inventory": [
        *("agents", "checks", "devices", "resources", "servers", "selectors", "models", "reference", "local"),
        *("imports/table", "imports/lines"),
        *("installation/" + name for name in ("access", "asking", "installing", "plans", "queueing", "release")),
        *("installation/" + name for name in ("remote", "removing", "runner", "upgrading", "work")),
        *(f"ssh/{name}" for name in ("access", "errors", "pins", "host_keys", "connections", "logins", "transports")),
        *(f"ssh/{name}" for name in ("shells", "commands", "scripts", "files", "figures", "handshakes")),
        *("transfers", *(f"terminals/{name}" for name in TERMINALS)),
    ],
    "chat": [
        *(
            "history",
            "transcript",
            "models",
            "usage",
            "book",
            "metering",
            "endpoints",
            "addresses",
            "balance",
            "capacity",
        ),
        *("conversations", "threads", "parameters", "exports", "completion", "generation", "watching", "rooms"),
        *("limits", "shared_limits", "callers", "targets", "directory", "upstream", "wire", "exchange", "asking"),
    ],
    "scheduler": [
        *("schedules", "planning", "firing", "runs", "targets", "parameters", "library", "output", "shots", "fanout"),
        *("hosting", "retention", "rounding", "selectors", "models", "grouping", "writing"),
    ],
    "infini": [
        *("events", "keys", "key_rules", "records", "roles", "models", "errors", "fields", "alerts", "alert_delivery"),
        *("event_tail", "logins", "two_step", "account", "finding", "badges"),
    ],
}


def sources() -> Iterator[Path]:
    for app in MAY_IMPORT:
        for path in (ROOT / app).rglob("*.py"):
            if "migrations" not in path.parts:
                yield path


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", list(sources()), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    if name in WIRING:
        return
    app = name.split("/")[0]
    reached = {module.split(".")[0] for module in imported(path)} & set(MAY_IMPORT)
    assert reached <= MAY_IMPORT[app] | {app}, f"{name} reaches {reached - MAY_IMPORT[app] - {app}}"
    if app == "agent":
        assert not reached, "the agent imports nothing of the project"


@pytest.mark.parametrize("app", VERBS)
def test_verbs_do_not_know_their_edges(app: str) -> None:
    for module in VERBS[app]:
        path = ROOT / app / f"{module}.py"
        if not path.exists():
            continue
        for name in imported(path):
            parts = name.split(".")
            assert not (parts[0] == app and len(parts) > 1 and parts[1] in EDGES), f"{path} imports {name}"


def test_the_admin_theme_is_imported_in_one_place() -> None:
    users = {str(p.relative_to(ROOT)) for p in sources() if any(m.split(".")[0] == "unfold" for m in imported(p))}
    assert users == {"infini/theme.py"}
