"""A server's secrets: kept, replaced, cleared, and never told to anybody."""

import json
import logging
from collections.abc import Callable
from io import StringIO

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from django.db import connection
from rest_framework.test import APIClient

from infini.models import Event
from inventory.models import Server

Make = Callable[..., dict]
SECRETS = ("password", "private_key", "passphrase", "agent_token")


def openssh(key: object, passphrase: str = "", form: str = "OpenSSH") -> str:
    hidden = serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
    private = getattr(serialization.PrivateFormat, form)
    return key.private_bytes(serialization.Encoding.PEM, private, hidden).decode()  # type: ignore[attr-defined]


ED25519 = openssh(ed25519.Ed25519PrivateKey.generate())
LOCKED = openssh(ed25519.Ed25519PrivateKey.generate(), "open sesame")


def problem(answer) -> dict:
    assert answer.status_code == 400, answer.content
    return answer.json()["error"]["fields"]


@pytest.mark.parametrize(
    "key",
    [
        ED25519,
        openssh(ec.generate_private_key(ec.SECP256R1())),
        openssh(ec.generate_private_key(ec.SECP384R1()), form="TraditionalOpenSSL"),
        openssh(rsa.generate_private_key(65537, 2048)),
        openssh(rsa.generate_private_key(65537, 2048), form="TraditionalOpenSSL").replace("\n", "\r\n"),
    ],
    ids=["ed25519", "ecdsa", "ecdsa-pem", "rsa", "rsa-pem-crlf"],
)
def test_every_kind_of_key_is_taken_and_usable(make: Make, key: str) -> None:
    made = make("/api/servers", name="gpu-1", host_ip="10.0.0.1", private_key=f"  {key}  ")
    assert made["private_key_set"] is True
    stored = Server.objects.get().private_key
    kinds = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    assert any(_loads(kind, stored) for kind in kinds)


def _loads(kind, text: str) -> bool:
    try:
        return bool(kind.from_private_key(StringIO(text)))
    except (paramiko.SSHException, ValueError):
        return False


def test_a_locked_key_needs_its_passphrase(api: APIClient, make: Make) -> None:
    body = {"name": "gpu-1", "host_ip": "10.0.0.1", "private_key": LOCKED}
    assert "passphrase" in problem(api.post("/api/servers", body, format="json"))["private_key"][0]
    wrong = api.post("/api/servers", {**body, "passphrase": "wrong"}, format="json")
    assert problem(wrong).keys() == {"private_key"}
    made = make("/api/servers", **body, passphrase="open sesame")
    path = f"/api/servers/{made['id']}"
    for value in ("wrong", ""):
        assert problem(api.patch(path, {"passphrase": value}, format="json")).keys() == {"passphrase"}
    replaced = api.patch(path, {"private_key": ED25519, "passphrase": ""}, format="json").json()
    assert (replaced["private_key_set"], replaced["passphrase_set"]) == (True, False)


@pytest.mark.parametrize("key", ["x", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"])
def test_what_is_no_key_is_refused(api: APIClient, key: str) -> None:
    body = {"name": "gpu-1", "host_ip": "10.0.0.1", "private_key": key}
    assert problem(api.post("/api/servers", body, format="json")).keys() == {"private_key"}
    truncated = {**body, "private_key": ED25519[: len(ED25519) // 2]}
    assert problem(api.post("/api/servers", truncated, format="json")).keys() == {"private_key"}


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_kept_replaced_and_cleared(api: APIClient, make: Make, secret: str) -> None:
    first = ED25519 if secret == "private_key" else " first "
    made = make("/api/servers", name="gpu-1", host_ip="10.0.0.1", **{secret: first})
    path = f"/api/servers/{made['id']}"

    def stored() -> str:
        return getattr(Server.objects.get(), secret)

    assert made[f"{secret}_set"] is True and stored() == (first if secret in SECRETS[:3] else "first")
    for method, body in (("patch", {"maintenance": True}), ("put", {"name": "gpu-1", "host_ip": "10.0.0.1"})):
        assert getattr(api, method)(path, body, format="json").json()[f"{secret}_set"] is True
    api.patch(path, {secret: "", "name": "gpu-1"})  # a form's empty box
    assert stored() != ""
    assert api.patch(path, {secret: ""}, format="json").json()[f"{secret}_set"] is False
    assert stored() == ""


def test_no_secret_is_ever_told(api: APIClient, caplog: pytest.LogCaptureFixture) -> None:
    """Canaries through every path that reads or writes a server, and those that fail."""
    caplog.set_level(logging.DEBUG)
    canaries = {name: f"canary-{name}-1f3b" for name in SECRETS}
    key = openssh(ed25519.Ed25519PrivateKey.generate(), canaries["passphrase"])
    body = {"name": "gpu-1", "host_ip": "127.0.0.1", **canaries, "private_key": key}
    created = api.post("/api/servers", body, format="json")
    assert created.status_code == 201
    path = f"/api/servers/{created.json()['id']}"
    answers = [
        created,
        api.get(path),
        api.get("/api/servers"),
        api.get(path, HTTP_ACCEPT="text/html"),
        api.patch(path, {"password": "canary-second"}, format="json"),
        api.post("/api/servers", body, format="json"),
        api.post("/api/servers", {**body, "name": "x", "port": 0}, format="json"),
        api.post("/api/servers", {**body, "name": "x", "private_key": "canary-broken-key"}, format="json"),
        api.post("/api/servers", {**body, "name": "x", "agent_token": "canary token"}, format="json"),
        api.patch(path, {"password": "canary-third", "version": 77}, format="json"),
        api.generic("POST", "/api/servers", json.dumps(body)[:-1], content_type="application/json"),
        api.post("/api/servers/987654", body, format="json"),
        api.delete(path),
    ]
    assert [answer.status_code for answer in answers[5:12]] == [400, 400, 400, 400, 409, 400, 405]
    heard = "".join(answer.content.decode() for answer in answers)
    heard += json.dumps(list(Event.objects.values_list("data", "subject_name"))) + caplog.text
    key_line = key.splitlines()[2]
    assert "canary" not in heard and key_line not in heard


def test_secrets_are_encrypted_at_rest(make: Make) -> None:
    make("/api/servers", name="gpu-1", host_ip="10.0.0.1", password="canary-pass", agent_token="canary-token")
    with connection.cursor() as cursor:
        cursor.execute("SELECT password, agent_token FROM inventory_server")
        row = cursor.fetchone()
    assert all(text.startswith("enc1:") and "canary" not in text for text in row)


def test_the_timeline_tells_that_a_secret_was_set(api: APIClient, server: dict) -> None:
    api.patch(f"/api/servers/{server['id']}", {"password": "x"}, format="json")
    assert Event.objects.get(kind="server.changed").data == {"password": ["", "set"]}
    assert Event.objects.get(kind="server.changed").actor_name == "operator"
