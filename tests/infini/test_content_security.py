"""Pages load nothing from elsewhere and run no script written into them."""

import pytest
from django.test import Client

from infini.models import User

pytestmark = pytest.mark.django_db


def policy(client: Client, path: str) -> dict[str, str]:
    answer = client.get(path, headers={"accept": "text/html"})
    assert answer.status_code == 200, path
    return dict(part.strip().split(" ", 1) for part in answer["Content-Security-Policy"].split(";"))


def test_pages_allow_only_what_is_ours(administrator: User, client: Client) -> None:
    paths = ["/admin/login/", "/admin/", "/admin/inventory/server/", "/admin/account/", "/api/docs", "/api/servers"]
    for path in paths:
        if path != "/admin/login/":
            client.force_login(administrator)
        allowed = policy(client, path)
        assert (allowed["default-src"], allowed["object-src"]) == ("'self'", "'none'")
        assert "unsafe-inline" not in allowed.get("script-src", "")
        assert ("'unsafe-eval'" in allowed.get("script-src", "")) == path.startswith("/admin/")


@pytest.mark.parametrize("path", ["/admin/", "/admin/inventory/server/", "/admin/inventory/brand/add/", "/api/docs"])
def test_no_page_has_a_script_in_it(administrator: User, client: Client, path: str) -> None:
    client.force_login(administrator)
    html = client.get(path, headers={"accept": "text/html"}).content.decode()
    assert "<script>" not in html and " onclick=" not in html and "javascript:" not in html
