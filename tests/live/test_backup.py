"""A running site as one file, and a site from it elsewhere."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.site import RealSite

pytestmark = pytest.mark.live

SECRET = "kept-in-a-backup"
READ = "from inventory.models import Server; print([(s.name, s.password) for s in Server.objects.order_by('name')])"


def test_restored_elsewhere_it_is_the_site_as_it_was(
    site: RealSite, new_site: Callable[..., RealSite], tmp_path: Path
) -> None:
    path = tmp_path / "infini.tar.gz"
    server = {"host_ip": "127.0.0.9", "username": "somebody", "password": SECRET}
    first = site.json("POST", "/api/servers", json=server | {"name": "backed-up"})["id"]
    done = site.manage("backup", str(path))
    later = site.json("POST", "/api/servers", json=server | {"name": "came-later"})["id"]
    for pk in (first, later):
        site.request("DELETE", f"/api/servers/{pk}")
    assert done.returncode == 0 and str(path) in done.stdout and "keep it as one" in done.stdout, done.stderr
    with tarfile.open(path) as tar:
        assert {"infini-backup.json", "infini.sqlite3", "secrets/field-keys", "admin-password"} <= set(tar.getnames())
        assert not [name for name in tar.getnames() if name.startswith(("logs", "agent"))]

    there = new_site(from_nothing=True)
    (there.data_dir / "uploads").mkdir(parents=True)
    (there.data_dir / "uploads" / "mine").write_text("of before")
    done = there.manage("restore", str(path))
    assert done.returncode == 0 and "Restored from" in done.stdout, done.stderr
    [aside] = there.data_dir.glob("before-restore-*")
    assert (aside / "uploads" / "mine").read_text() == "of before" and str(aside) in done.stdout
    read = there.manage("shell", "-v", "0", "-c", READ)
    assert f"('backed-up', '{SECRET}')" in read.stdout and "came-later" not in read.stdout, read.stderr
    there.start()
    assert "password as in" in there.output
    assert "backed-up" in [server["name"] for server in there.json("GET", "/api/servers")]
    refused = there.manage("restore", str(path))
    assert refused.returncode == 2 and "already runs" in refused.stderr and len(refused.stderr.splitlines()) == 1
    there.stop()
