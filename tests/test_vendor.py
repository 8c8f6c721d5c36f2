"""Vendored files are what static/vendor/README.md says, with their licences, and ask for no maps that are not here."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "static" / "vendor"


def test_each_file_is_as_it_was_published() -> None:
    told = dict(
        reversed(line) for line in re.findall(r"^([0-9a-f]{64})  (\S+)$", (VENDOR / "README.md").read_text(), re.M)
    )
    files = {str(path.relative_to(VENDOR)): path for kind in ("js", "css") for path in VENDOR.rglob(f"*.{kind}")}
    assert set(told) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == told[name], name
        assert b"sourceMappingURL" not in path.read_bytes(), name
        assert (path.parent / "LICENSE").exists(), name
