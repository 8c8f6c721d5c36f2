"""Who may do what: every address of the site, each socket, and the least role it takes. Data alone.

docs/roles.md is written from it; tests/roles/test_table.py holds the site and that page to it. A new address without a
row here fails. ``<server>`` in an address is one server, and so on: somebody limited to environments finds nothing
there about a server of another one.
"""

from dataclasses import dataclass, field

# Least to most. NOBODY may: there is a page in Django's admin, and it is refused to all.
ANYONE, LOGGED_IN, VIEWER, OPERATOR, ADMINISTRATOR, NOBODY = range(6)
Least = dict[str, int]

READ: Least = {"GET": VIEWER}
LIST: Least = {"GET": VIEWER, "POST": OPERATOR}
ROW: Least = {"GET": VIEWER, "PUT": OPERATOR, "PATCH": OPERATOR, "DELETE": OPERATOR}
DO: Least = {"POST": OPERATOR}
OWN: Least = {"GET": LOGGED_IN}
CHAT_ROW: Least = {"GET": VIEWER, "PATCH": VIEWER, "DELETE": VIEWER}
ADMINS_LIST: Least = {"GET": ADMINISTRATOR, "POST": ADMINISTRATOR}
ADMINS_ROW: Least = dict.fromkeys(("GET", "PUT", "PATCH", "DELETE"), ADMINISTRATOR)

# Pages of our own. What is refused answers 403, at once and naming the permission; without a login one is led there.
PAGES: dict[str, Least] = {
    "/": {"GET": ANYONE},
    "/healthz": {"GET": ANYONE},
    "/readyz": {"GET": ANYONE},
    "/static/<file>": {"GET": ANYONE},
    "/i18n/setlang/": {"POST": ANYONE},
    "/admin/login/": {"GET": ANYONE, "POST": ANYONE},
    "/admin/login/code/": {"GET": ANYONE, "POST": ANYONE},
    "/admin/jsi18n/": OWN,
    "/admin/": OWN,
    "/admin/<app>/": READ,
    "/admin/<anything>": OWN,
    "/admin/r/<type>/<id>/": OWN,
    "/admin/find/": OWN,
    "/admin/search/": OWN,
    "/admin/autocomplete/": OWN,
    "/admin/logout/": {"POST": ANYONE},
    "/admin/password_change/": {"GET": LOGGED_IN, "POST": LOGGED_IN},
    "/admin/password_change/done/": OWN,
    "/admin/account/": OWN,
    "/admin/account/preferences/": {"POST": LOGGED_IN},
    "/admin/account/two-step/begin/": {"POST": LOGGED_IN},
    "/admin/account/two-step/on/": {"POST": LOGGED_IN},
    "/admin/account/two-step/off/": {"POST": LOGGED_IN},
    "/admin/account/sessions/end/": {"POST": LOGGED_IN},
    "/admin/lists/save/": {"POST": LOGGED_IN},
    "/admin/lists/columns/": {"POST": LOGGED_IN},
    "/admin/lists/<saved>/change/": {"POST": LOGGED_IN},
    "/admin/lists/<saved>/remove/": {"POST": LOGGED_IN},
    "/admin/chat/usage/": OWN,
    "/admin/chat/conversation/": READ,
    "/admin/chat/conversation/compare/": READ,
    "/admin/chat/conversation/<conversation>/": READ,
    "/admin/chat/service/<service>/": READ,
    "/admin/chat/endpoint/<endpoint>/chat/": READ,
    "/admin/chat/model/<model>/": READ,
    "/admin/inventory/card/compare/": READ,
    "/admin/inventory/server/import/": {"GET": OPERATOR, "POST": OPERATOR},
    "/admin/inventory/server/install/": {"GET": OPERATOR, "POST": OPERATOR},
    "/admin/inventory/server/install/<batch>/": LIST,
    "/admin/inventory/server/<server>/host-key/": DO,
    "/admin/inventory/terminal/": {"GET": OPERATOR},
    "/admin/deployments/service/plan/": READ,
    "/admin/deployments/service/<service>/revisions/": READ,
    "/admin/deployments/service/<service>/revisions/<number>/roll-back/": DO,
    "/admin/deployments/service/instance/<instance>/free-devices/": {"GET": OPERATOR, "POST": OPERATOR},
    "/admin/deployments/unknowninstance/<unknown>/adopt/": DO,
    "/admin/scheduler/run/<run>/output/": READ,
    "/admin/scheduler/run/<run>/results.csv": READ,
    "/admin/infini/user/<user>/password/": {"GET": ADMINISTRATOR, "POST": ADMINISTRATOR},
}


@dataclass(frozen=True)
class Admin:
    """The admin's pages of one model: its list, a row's page and history, the forms, and what may be done to rows.

    ``kind`` names a row in addresses; ``page``: it has a page of its own beside the form; ``csv``: its list as a file.
    """

    kind: str
    see: int = VIEWER
    add: int = OPERATOR
    change: int = OPERATOR
    delete: int = OPERATOR
    page: bool = False
    csv: bool = False
    verbs: dict[str, int] = field(default_factory=dict)


_READ_ONLY = {"add": NOBODY, "change": NOBODY, "delete": NOBODY}
_ADMINS = {"see": ADMINISTRATOR, "add": ADMINISTRATOR, "change": ADMINISTRATOR, "delete": ADMINISTRATOR}
_DELETE = {"delete_selected": OPERATOR}

ADMIN: dict[str, Admin] = {
    "inventory/server": Admin(
        *("server",),
        page=True,
        csv=True,
        verbs={
            **{"check": OPERATOR, "resources": OPERATOR, "agent-install": OPERATOR, "agent-upgrade": OPERATOR},
            **{"agent-remove": OPERATOR, "delete_selected": OPERATOR, "command": OPERATOR},
            **{"maintenance-on": OPERATOR, "maintenance-off": OPERATOR},
        },
    ),
    "inventory/device": Admin("device", **_READ_ONLY, csv=True),
    "inventory/brand": Admin("brand", page=True, csv=True, verbs=_DELETE),
    "inventory/card": Admin("card", csv=True, verbs={"compare": VIEWER, **_DELETE}),
    "inventory/environment": Admin("environment", csv=True, verbs=_DELETE),
    "inventory/aimodel": Admin("model", csv=True, verbs=_DELETE),
    "inventory/installation": Admin(
        "installation", **_READ_ONLY, page=True, csv=True, verbs={"retry": OPERATOR, "cancel": OPERATOR}
    ),
    "inventory/terminalsession": Admin(
        "terminal", **{**_READ_ONLY, "see": OPERATOR}, csv=True, verbs={"end": OPERATOR}
    ),
    "inventory/recording": Admin(
        "recording",
        **{**_READ_ONLY, "see": ADMINISTRATOR},
        page=True,
        csv=True,
        verbs={"end": ADMINISTRATOR, "delete_selected": ADMINISTRATOR},
    ),
    "deployments/service": Admin(
        "service",
        page=True,
        csv=True,
        verbs=dict.fromkeys(("deploy", "restart", "roll_back", "stop", "delete"), OPERATOR),
    ),
    "deployments/operation": Admin("operation", **_READ_ONLY, page=True, csv=True),
    "deployments/unknowninstance": Admin(
        "unknown", **_READ_ONLY, page=True, verbs={"stop": OPERATOR, "forget": OPERATOR}
    ),
    "chat/trafficrule": Admin("rule", verbs=_DELETE),
    "chat/endpoint": Admin(
        "endpoint", VIEWER, ADMINISTRATOR, ADMINISTRATOR, ADMINISTRATOR, verbs={"delete_selected": ADMINISTRATOR}
    ),
    "scheduler/task": Admin(
        "task", page=True, csv=True, verbs={"run": OPERATOR, "enable": OPERATOR, "disable": OPERATOR, **_DELETE}
    ),
    "scheduler/run": Admin(
        "run", VIEWER, OPERATOR, NOBODY, NOBODY, page=True, csv=True, verbs={"retry": OPERATOR, "cancel": OPERATOR}
    ),
    "scheduler/savedcommand": Admin("command", verbs=_DELETE),
    "infini/event": Admin("event", **_READ_ONLY, csv=True),
    "infini/alert": Admin("alert", **_READ_ONLY, csv=True),
    # One's own keys are everybody's to make and revoke; all keys are an administrator's.
    "infini/apikey": Admin(
        "apikey", LOGGED_IN, LOGGED_IN, ADMINISTRATOR, NOBODY, csv=True, verbs={"revoke": LOGGED_IN}
    ),
    "infini/alerttarget": Admin(
        "target", **_ADMINS, page=True, verbs={"test": ADMINISTRATOR, "delete_selected": ADMINISTRATOR}
    ),
    "infini/user": Admin(
        "user", **_ADMINS, csv=True, verbs={"end_sessions": ADMINISTRATOR, "turn_off_two_step": ADMINISTRATOR}
    ),
    "auth/group": Admin("group", **_ADMINS),
}

# Below /api. Refused: 403, without a login 401, never a redirect.
API: dict[str, Least] = {
    "/metrics": READ,
    "/api/schema": OWN,
    "/api/docs": OWN,
    "/api/stats": OWN,
    "/api/history": READ,
    "/api/upload": DO,
    "/api/uploads/<filename>": OWN,
    "/api/alerts": READ,
    "/api/alert-targets": ADMINS_LIST,
    "/api/alert-targets/<target>": ADMINS_ROW,
    "/api/alert-targets/<target>/test": {"POST": ADMINISTRATOR},
    "/api/keys": {"GET": LOGGED_IN, "POST": LOGGED_IN},
    "/api/keys/<apikey>": {"GET": LOGGED_IN, "PATCH": ADMINISTRATOR},
    "/api/keys/<apikey>/revoke": {"POST": LOGGED_IN},
    "/api/environments": LIST,
    "/api/environments/<environment>": ROW,
    "/api/brands": LIST,
    "/api/brands/reorder": DO,
    "/api/brands/<brand>": ROW,
    "/api/brands/<brand>/accelerators": LIST,
    "/api/accelerators": READ,
    "/api/accelerators/<card>": ROW,
    "/api/models": LIST,
    "/api/models/<model>": ROW,
    "/api/devices": READ,
    "/api/servers": LIST,
    "/api/servers/check-all": DO,
    "/api/servers/resources": {"POST": VIEWER},
    "/api/servers/agents/install": DO,
    "/api/servers/agents/upgrade": DO,
    "/api/servers/<server>": ROW,
    "/api/servers/<server>/check": DO,
    "/api/servers/<server>/host-key": LIST,
    "/api/servers/<server>/host-key/scan": DO,
    "/api/servers/<server>/resources": READ,
    "/api/servers/<server>/history": READ,
    "/api/servers/<server>/agent/install": DO,
    "/api/servers/<server>/agent/upgrade": DO,
    "/api/servers/<server>/agent/remove": DO,
    "/api/servers/<server>/files": {"GET": OPERATOR},
    "/api/servers/<server>/files/download": {"GET": OPERATOR},
    "/api/servers/<server>/files/upload": {"POST": OPERATOR, "DELETE": OPERATOR},
    "/api/servers/<server>/unknown-instances": READ,
    "/api/servers/<server>/unknown-instances/<key>": {"GET": VIEWER, "DELETE": OPERATOR},
    "/api/servers/<server>/unknown-instances/<key>/adopt": DO,
    "/api/servers/<server>/unknown-instances/<key>/stop": DO,
    "/api/installations": READ,
    "/api/installations/<installation>": READ,
    "/api/installations/<installation>/retry": DO,
    "/api/installations/<installation>/cancel": DO,
    "/api/terminals": {"GET": OPERATOR},
    "/api/terminals/<terminal-key>": {"GET": OPERATOR, "DELETE": OPERATOR},
    "/api/recordings": {"GET": ADMINISTRATOR},
    "/api/recordings/<recording>": {"GET": ADMINISTRATOR, "DELETE": ADMINISTRATOR},
    "/api/recordings/<recording>/cast": {"GET": ADMINISTRATOR},
    "/api/presets": READ,
    "/api/services": LIST,
    "/api/services/plan": {"POST": VIEWER},
    "/api/services/refresh-status": {"POST": VIEWER},
    "/api/services/<service>": ROW,
    "/api/services/<service>/deploy": DO,
    "/api/services/<service>/restart": DO,
    "/api/services/<service>/stop": DO,
    "/api/services/<service>/roll-back": DO,
    "/api/services/<service>/revisions": READ,
    "/api/services/<service>/revisions/diff": READ,
    "/api/services/<service>/deploy-log": READ,
    "/api/services/<service>/traffic": {"GET": VIEWER, "PUT": OPERATOR, "DELETE": OPERATOR},
    "/api/services/<service>/chat": {"GET": VIEWER, "POST": VIEWER, "DELETE": VIEWER},
    "/api/instances/<instance>/logs": READ,
    "/api/instances/<instance>/logs/download": READ,
    "/api/instances/<instance>/free-devices": DO,
    "/api/endpoints": {"GET": VIEWER, "POST": ADMINISTRATOR},
    "/api/endpoints/<endpoint>": {**ADMINS_ROW, "GET": VIEWER},
    "/api/usage": OWN,
    "/api/usage/history": OWN,
    "/api/chat/services": READ,
    "/api/conversations": {"GET": VIEWER, "POST": VIEWER},
    "/api/conversations/<conversation>": CHAT_ROW,
    "/api/conversations/<conversation>/turns": READ,
    "/api/conversations/<conversation>/branch": {"PUT": VIEWER},
    "/api/conversations/<conversation>/export": READ,
    "/api/tasks": LIST,
    "/api/tasks/preview": {"POST": VIEWER},
    "/api/tasks/<task>": ROW,
    "/api/tasks/<task>/execute": DO,
    "/api/tasks/<task>/result": READ,
    "/api/runs": LIST,
    "/api/runs/<run>": READ,
    "/api/runs/<run>/cancel": DO,
    "/api/runs/<run>/retry-failed": DO,
    "/api/runs/<run>/output": READ,
    "/api/commands": LIST,
    "/api/commands/<command>": ROW,
}

# The gateway's. A narrower key opens less: docs/gateway.md.
GATEWAY: dict[str, Least] = {
    "/v1/models": {"GET": VIEWER},
    "/v1/models/<name>": {"GET": VIEWER},
    "/v1/chat/completions": {"POST": VIEWER},
    "/v1/completions": {"POST": VIEWER},
    "/v1/embeddings": {"POST": VIEWER},
    "/v1/rerank": {"POST": VIEWER},
    "/api/services/<service>/chat/completions": {"POST": VIEWER},
}

# Without a login a socket is refused before it opens; a role too low closes it with 4403, an object not seen with 4404.
SOCKETS: dict[str, int] = {
    "/ws/events": VIEWER,
    "/ws/instances/<instance>/logs": VIEWER,
    "/ws/chat": VIEWER,
    "/ws/servers/<server>/terminal": OPERATOR,
}


def admin_rows() -> dict[str, Least]:
    """The addresses that ``ADMIN`` stands for."""
    rows: dict[str, Least] = {}
    for place, model in ADMIN.items():
        base, one = f"/admin/{place}/", f"/admin/{place}/<{model.kind}>/"
        rows[base] = {"GET": model.see}
        rows[f"{base}add/"] = {"GET": model.add, "POST": model.add}
        rows[one] = {"GET": model.see if model.page else LOGGED_IN}  # without a page: on to the form
        rows[f"{one}change/"] = {"GET": model.see, "POST": model.change}
        rows[f"{one}delete/"] = {"GET": model.delete, "POST": model.delete}
        rows[f"{one}history/"] = {"GET": model.see}
        if model.csv:
            rows[f"{base}csv/"] = {"GET": model.see}
        if model.page:
            rows |= {f"{one}do/{verb}/": {"POST": least} for verb, least in model.verbs.items()}
    return rows


def all_rows() -> dict[str, Least]:
    return {**PAGES, **admin_rows(), **API, **GATEWAY}
