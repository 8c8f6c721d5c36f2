"""`manage.py apikey` from the shell: a key alone on stdout, errors in one line."""

import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.utils import timezone

from infini import keys
from infini.errors import Invalid
from infini.management.commands.apikey import Refused
from infini.models import ApiKey, Event, User

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.django_db


def run(*args: str) -> str:
    out = StringIO()
    call_command("apikey", *args, stdout=out)
    return out.getvalue()


def test_create_prints_the_key_and_nothing_else(viewer: User) -> None:
    text = run("create", "--user", "viewer", "--name", "ci")
    assert text.count("\n") == 1 and " " not in text
    found = keys.find_key(text.strip())
    assert found and (found.user, found.name, found.expires_at) == (viewer, "ci", None)
    assert Event.objects.filter(kind="apikey.created").count() == 1


def test_a_key_can_expire(viewer: User) -> None:
    run("create", "--user", "viewer", "--name", "ci", "--expires-days", "7")
    expires_at = ApiKey.objects.get().expires_at
    assert expires_at and 6.9 < (expires_at - timezone.now()).total_seconds() / 86400 <= 7


def test_a_key_can_be_narrow_and_limited(viewer: User) -> None:
    run("create", "--user", "viewer", "--name", "ci", "--use", "models", "--models", "b, a", "--concurrency", "3")
    key = ApiKey.objects.get()
    assert (key.scopes, key.limits) == ({"use": "models", "models": ["a", "b"]}, {"concurrency": 3})
    changed = keys.change_key(key, by=viewer, limits={"concurrency": None, "tokens_per_month": 5}, name="ci two")
    changed.refresh_from_db()
    assert (changed.name, changed.limits, changed.scopes["use"]) == ("ci two", {"tokens_per_month": 5}, "models")
    assert Event.objects.filter(kind="apikey.changed").count() == 1
    with pytest.raises(Invalid):
        keys.change_key(key, by=viewer, limits={"concurrency": 0})


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["create", "--user", "ghost", "--name", "ci"], "There is no user 'ghost'. Create one"),
        (["create", "--user", "viewer", "--name", " "], "A key needs a name."),
        (["create", "--user", "viewer", "--name", "ci", "--expires-days", "0"], "between 1 and 36500"),
        (["create", "--user", "viewer", "--name", "ci", "--expires-days", "99999999"], "between 1 and 36500"),
        (["create", "--user", "viewer", "--name", "ci", "--concurrency", "0"], "concurrency must be a whole number"),
        (["revoke", "--prefix", "inf_none"], "no key with the prefix"),
    ],
)
def test_what_cannot_be_done_is_refused(viewer: User, args: list[str], says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        run(*args)
    assert "\n" not in str(refused.value)
    assert not ApiKey.objects.exists()


def test_list_and_revoke(viewer: User, make_user: Callable[..., User]) -> None:
    text = run("create", "--user", "viewer", "--name", "ci box").strip()
    prefix = ApiKey.objects.get().prefix
    assert run("list").split() == [prefix, "viewer", "unlimited", "ci", "box"]
    assert text not in run("list")
    run("revoke", "--prefix", prefix)
    assert keys.find_key(text) is None
    assert run("list").split()[2] == "revoked"


def test_as_a_process_an_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "apikey", "create", "--user", "admin", "--name", "ci"],
        cwd=ROOT,
        env={"INFINI_DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "Has the site been started once?" in done.stderr
