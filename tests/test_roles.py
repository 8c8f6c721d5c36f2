"""What the three groups hold."""

import pytest
from django.contrib.auth.models import Group

pytestmark = pytest.mark.django_db


def held(role: str) -> set[str]:
    rows = Group.objects.get(name=role).permissions.values_list("content_type__app_label", "codename")
    return {f"{app}.{code}" for app, code in rows}


def test_viewer_only_reads_and_chats() -> None:
    assert all(code.split(".")[1].startswith("view_") for code in held("viewer") - {"chat.use_chat"})
    assert {"inventory.view_server", "deployments.view_service", "chat.use_chat"} <= held("viewer")


def test_each_role_holds_the_lower_ones() -> None:
    assert held("viewer") < held("operator") < held("administrator")


def test_operator_deploys_but_does_not_manage_people_or_host_keys() -> None:
    assert "deployments.deploy_service" in held("operator")
    assert not {"infini.change_user", "infini.view_apikey", "inventory.repin_server"} & held("operator")
    assert {"infini.change_user", "infini.view_apikey", "inventory.repin_server"} <= held("administrator")
