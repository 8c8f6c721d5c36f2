"""`manage.py demo`: the whole site, and a small model deployed on it through its own API."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import requests
from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils import timezone

from infini import first_start, keys
from infini.errors import InfiniError
from infini.management.commands.up import run_site
from infini.models import User
from infini.site import Site, address

MODEL_NAME, SERVICE_NAME, SERVER_NAME = "demo-ngram", "demo", "local"
QUESTION = "What is a service, and how do I deploy one?"
PORTS_TRIED = 5
DEPLOY_SECONDS = 120.0
KEY_LIFE = timedelta(minutes=10)


class DemoFailed(InfiniError):
    """What went wrong, with the site's own reason."""

    code = "demo_failed"

    def __init__(self, message: str) -> None:
        super().__init__(f"The demo failed. {message}")


class Command(BaseCommand):
    help = "Run the whole site, deploy a small model on it, ask it a question, then go on serving."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            sys.exit(run_site(show))
        except KeyboardInterrupt:
            sys.exit(130)


def show(site: Site) -> None:
    """Deploy and ask, as any client would, with a key made for this. Raises DemoFailed."""
    admin = User.objects.get(username=first_start.ADMIN)
    key, text = keys.create_key(user=admin, name="make demo", by=admin, expires_at=timezone.now() + KEY_LIFE)
    try:
        demo = Demo(site, text)
        service_id = demo.deploy()
        try:
            demo.ask(service_id)
        except BaseException:
            demo.stop(service_id)
            raise
    finally:
        keys.revoke_key(key, by=admin)


class Demo:
    """The steps of the demo, each over the REST API; any of them raises DemoFailed."""

    def __init__(self, site: Site, key: str) -> None:
        self._site = site
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {key}"

    def deploy(self) -> int:
        """Have the service run and ready; one that does already is left alone. Returns its id."""
        service = self._service()
        if service["deploy_status"] != "deployed":
            self._site.say(f"Deploying the service {SERVICE_NAME!r} on the server {SERVER_NAME!r} ...")
        self._wait_until_deployed(service)
        return int(service["id"])

    def ask(self, service_id: int) -> None:
        """Ask one question and show the answer as it arrives."""
        with self._site.console.alone():
            self._site.say(f"\nQuestion: {QUESTION}\nAnswer:   ", end="")
            words = 0
            for piece in self._answer(service_id):
                self._site.say(piece, end="")
                words += 1
            self._site.say("\n")
        if not words:
            raise DemoFailed("The model answered nothing.")

    def stop(self, service_id: int) -> None:
        """Stop what was deployed, as far as that still works: a failed demo leaves nothing running."""
        try:
            self._call("POST", f"/api/services/{service_id}/stop")
            self._poll(service_id, lambda service: not any(i["pid"] for i in service["instances"]), seconds=8)
        except (DemoFailed, OSError):
            self._site.say("What was deployed could not be stopped; `make down` does it.")

    def _service(self) -> dict[str, Any]:
        """The demo's service with a deployment begun, if it needs one."""
        self._call("POST", "/api/services/refresh-status")
        found = self._find("/api/services", SERVICE_NAME)
        command = _command()
        if found is None:
            model = self._find("/api/models", MODEL_NAME) or self._call("POST", "/api/models", {"name": MODEL_NAME})
            server = self._find("/api/servers", SERVER_NAME)
            if server is None:
                raise DemoFailed(f"There is no server {SERVER_NAME!r}.")
            body = {"name": SERVICE_NAME, "model_id": model["id"], "server_ids": [server["id"]]}
            return self._call("POST", "/api/services", {**body, "deploy_command": command})
        if found["deploy_command"] != command:  # the project moved, or another Python runs it
            found = self._call("PATCH", f"/api/services/{found['id']}", {"deploy_command": command})
        elif found["deploy_status"] == "deployed":
            return found
        if found["deploy_status"] != "deploying":
            self._call("POST", f"/api/services/{found['id']}/deploy")
        return found

    def _wait_until_deployed(self, service: dict[str, Any]) -> None:
        number = service["id"]
        for _attempt in range(PORTS_TRIED):
            if self._poll(number, lambda now: now["deploy_status"] == "deployed", seconds=DEPLOY_SECONDS):
                return
            log = self._call("GET", f"/api/services/{number}/deploy-log")
            if not any("already taken" in (result["reason"] or "") for result in log["results"]):
                break
            self._site.say("A stranger has that port; trying the next ...")
            self._call("POST", f"/api/services/{number}/deploy")
        reasons = [
            f"{result['server']}: {result['state']}, {result['reason'] or 'no reason given'}\n{_tail(result)}"
            for result in log["results"]
        ]
        raise DemoFailed("The demo's service was not deployed. " + "\n".join(reasons).strip())

    def _poll(self, service_id: int, holds: Any, *, seconds: float) -> bool:
        """Whether ``holds(service)`` came true before the time was up, or before its operation failed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._site.supervisor.ending:
            if holds(self._call("GET", f"/api/services/{service_id}")):
                return True
            if self._call("GET", f"/api/services/{service_id}/deploy-log")["state"] in ("failed", "cancelled"):
                return holds(self._call("GET", f"/api/services/{service_id}"))
            time.sleep(0.3)
        return False

    def _answer(self, service_id: int) -> Iterator[str]:
        body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "max_tokens": 80}
        path = f"/api/services/{service_id}/chat/completions"
        answer = self._send("POST", path, body, stream=True, timeout=60)
        with answer:
            for line in answer.iter_lines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    yield _piece(json.loads(line[6:]))

    def _find(self, path: str, name: str) -> dict[str, Any] | None:
        return next((row for row in self._call("GET", path) if row["name"] == name), None)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._send(method, path, body, timeout=30).json()

    def _send(self, method: str, path: str, body: dict[str, Any] | None, **options: Any) -> requests.Response:
        try:
            answer = self._session.request(method, address().rstrip("/") + path, json=body, **options)
        except requests.RequestException as error:
            raise DemoFailed(f"{method} {path}: {error}") from None
        if answer.status_code >= 400:
            raise DemoFailed(f"{method} {path} was answered {answer.status_code}: {answer.text[:500]}")
        return answer


def _command() -> str:
    script = settings.BASE_DIR / "agent" / "demo_model.py"
    program = f"exec {shlex.quote(sys.executable)} {shlex.quote(str(script))}"
    return f"{program} --host {{host}} --port {{port}} --model {MODEL_NAME}"


def _piece(event: dict[str, Any]) -> str:
    if "error" in event:
        raise DemoFailed(f"The answer broke off: {event['error'].get('message')}")
    return "".join(choice.get("delta", {}).get("content") or "" for choice in event.get("choices", []))


def _tail(result: dict[str, Any]) -> str:
    lines = result.get("log_tail") or []
    text = lines if isinstance(lines, str) else "\n".join(lines)
    return "\n".join(f"    {line}" for line in text.splitlines()[-10:])
