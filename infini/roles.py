"""The three roles. Each is a group whose permissions are this table's; users may be given more one by one."""

from typing import Any

from django.apps import AppConfig
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.utils.translation import gettext_lazy as _

VIEWER, OPERATOR, ADMINISTRATOR = "viewer", "operator", "administrator"
ROLES = (VIEWER, OPERATOR, ADMINISTRATOR)
WORDS = {VIEWER: _("viewer"), OPERATOR: _("operator"), ADMINISTRATOR: _("administrator")}

_OWN_APPS = ("inventory", "deployments", "chat", "scheduler")
# Somebody else's keys and chats are nobody's to read; recordings, users and where alerts go are an administrator's.
_ADMINISTRATORS_ONLY_CODES = {
    *("repin_server", "manage_terminal"),
    *("add_endpoint", "change_endpoint", "delete_endpoint"),
}
_ADMINISTRATORS_ONLY = {"user", "group", "apikey", "recording", "alerttarget", "alertdelivery", "environmentlimit"}


def role_may(role: str, permission: Permission) -> bool:
    """Whether ``role`` holds ``permission``; the one place that decides."""
    app, codename = permission.content_type.app_label, permission.codename
    model = permission.content_type.model
    if role == ADMINISTRATOR:
        return app in (*_OWN_APPS, "infini") or (app, model) == ("auth", "group")
    if model in _ADMINISTRATORS_ONLY:
        return False
    if app == "infini":
        return codename in ("view_event", "view_alert")
    if app not in _OWN_APPS:
        return False
    if role == OPERATOR:
        return codename not in _ADMINISTRATORS_ONLY_CODES
    return codename.startswith("view_") or codename == "use_chat"


def grant_permissions(sender: AppConfig, **options: Any) -> None:
    """Give each group what the table says, and take what it does not. Runs after every migrate; safe to repeat."""
    create_permissions(sender, verbosity=0)  # ours may run before Django's own receiver does it
    permissions = list(Permission.objects.select_related("content_type"))
    for role in ROLES:
        group, _made = Group.objects.get_or_create(name=role)
        group.permissions.set([p for p in permissions if role_may(role, p)])
