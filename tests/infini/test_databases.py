"""DATABASE_URL: what it may be, and what is said when it is not."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from infini.databases import postgresql


def test_an_address_in_all_its_parts() -> None:
    told = postgresql("postgresql://me%40here:p%2Fw@db.example.org:6432/infini?sslmode=require")
    parts = [told[name] for name in ("USER", "PASSWORD", "HOST", "PORT", "NAME")]
    assert parts == ["me@here", "p/w", "db.example.org", "6432", "infini"]
    assert told["OPTIONS"]["sslmode"] == "require" and told["OPTIONS"]["connect_timeout"] > 0


def test_a_socket_s_folder() -> None:
    assert postgresql("postgres:///infini?host=/run/postgresql")["HOST"] == "/run/postgresql"


@pytest.mark.parametrize("url", ["mysql://a:secret@h/n", "postgresql://a:secret@h", "postgresql://a:secret@h:port/n"])
def test_another_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL is not postgresql://") as refused:
        postgresql(url)
    assert "secret" not in str(refused.value)
