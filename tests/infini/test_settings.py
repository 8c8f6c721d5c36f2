"""Settings come from the environment, checked at start; wrong ones end any command with one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib import admin
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from infini import env, site

ROOT = Path(__file__).resolve().parents[2]


def manage(tmp_path: Path, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"INFINI_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        [sys.executable, "manage.py", *args], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def shown(tmp_path: Path, expression: str, **variables: str) -> str:
    done = manage(
        tmp_path, "shell", "-v", "0", "-c", f"from django.conf import settings as s; print(({expression}))", **variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("INFINI_PORT", "http", "must be a whole number"),
        ("INFINI_PORT", "65536", "between 1 and 65535"),
        ("INFINI_AGENT_PORT", "-1", "between 1 and 65535"),
        ("INFINI_TRUST_PROXY", "maybe", "write 1 or 0"),
        ("INFINI_MONITOR_INTERVAL_SECONDS", "0", "at least 0.2"),
        ("INFINI_SMTP_TLS", "ssl", "must be one of starttls, tls, none"),
        ("INFINI_PORT_RANGE_LAST", "2000", "must lie between 10001"),
    ],
)
@pytest.mark.parametrize("command", ["up", "migrate"])
def test_a_wrong_value_is_one_line_and_exit_code_2(
    tmp_path: Path, command: str, name: str, value: str, says: str
) -> None:
    done = manage(tmp_path, command, **{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"infini: {name} is ") and says in done.stderr


def test_empty_variables_count_as_absent(tmp_path: Path) -> None:
    assert shown(tmp_path, "s.PORT, s.HOST", INFINI_PORT="", INFINI_HOST=" ") == "(8000, '127.0.0.1')"


def test_secrets_are_made_once_and_kept_to_their_owner(tmp_path: Path) -> None:
    first = shown(tmp_path, "s.SECRET_KEY, s.FIELD_KEYS")
    assert first == shown(tmp_path, "s.SECRET_KEY, s.FIELD_KEYS")
    files = list((tmp_path / "data" / "secrets").iterdir())
    assert {path.name for path in files} == {"signing-key", "field-keys"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_public_address_is_trusted_and_makes_cookies_secure(tmp_path: Path) -> None:
    expression = "'ai.example.com' in s.ALLOWED_HOSTS, s.CSRF_TRUSTED_ORIGINS, s.SESSION_COOKIE_SECURE"
    seen = shown(tmp_path, expression, INFINI_PUBLIC_URL="https://ai.example.com/")
    assert seen == "(True, ['https://ai.example.com'], True)"


@pytest.mark.parametrize(
    ("tls", "seen"),
    [("", "(587, True, False)"), ("tls", "(465, False, True)"), ("none", "(25, False, False)")],
)
def test_the_mail_port_follows_its_encryption(tmp_path: Path, tls: str, seen: str) -> None:
    assert shown(tmp_path, "s.EMAIL_PORT, s.EMAIL_USE_TLS, s.EMAIL_USE_SSL", INFINI_SMTP_TLS=tls) == seen


def test_every_named_step_and_check_exists() -> None:
    names = [*settings.FIRST_START_STEPS, *settings.START_STEPS, *settings.DOWN_STEPS, *settings.STALL_CHECKS.values()]
    assert all(callable(import_string(name)) for name in names)
    assert set(settings.STALL_CHECKS) <= {program.name for program in site.programs()}


def test_no_gzip_over_streams() -> None:
    assert not [name for name in settings.MIDDLEWARE if "GZip" in name]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("0.0.0.0", "http://127.0.0.1:8000/"),
        ("::", "http://[::1]:8000/"),
        ("::1", "http://[::1]:8000/"),
        ("ai.example.com", "http://ai.example.com:8000/"),
    ],
)
def test_the_address_shown_can_be_opened(settings: object, host: str, address: str) -> None:
    settings.HOST, settings.PORT = host, 8000  # type: ignore[attr-defined]
    assert site.address() == address


def test_booleans_are_read_as_people_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, value in {"1": True, "Yes": True, "off": False, "": False}.items():
        monkeypatch.setenv("INFINI_X", text)
        assert env.env_bool("INFINI_X") is value
    monkeypatch.setenv("INFINI_X", "2")
    with pytest.raises(ImproperlyConfigured):
        env.env_bool("INFINI_X")


def test_checks_find_nothing_with_every_page_registered(admin_pages: None) -> None:
    assert len(admin.site._registry) > 20
    assert run_checks() == []


def test_who_shows_no_pages_does_not_load_them(tmp_path: Path) -> None:
    """Worker and monitor are a third smaller for it."""
    code = "import django, sys; django.setup(); import deployments.tasks, deployments.monitor, scheduler.tasks; "
    code += "print(sorted({'unfold.admin', 'infini.urls', 'infini.admin_base'} & set(sys.modules)))"
    env = {
        "INFINI_DATA_DIR": str(tmp_path / "data"),
        "PATH": "/usr/bin:/bin",
        "DJANGO_SETTINGS_MODULE": "infini.settings",
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
