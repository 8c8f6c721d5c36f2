from django.apps import AppConfig
from django.db.models.signals import post_migrate


class InfiniConfig(AppConfig):
    name = "infini"
    verbose_name = "Infini"

    def ready(self) -> None:
        from django.contrib.auth.signals import user_logged_in, user_logged_out

        from infini import (
            logins,
            schema,  # noqa: F401  (registers itself)
        )
        from infini.roles import grant_permissions
        from infini.visibility import register, subjects_within

        # Permissions exist only after migrations have run, so the groups get theirs here, every time.
        post_migrate.connect(grant_permissions, dispatch_uid="infini.roles")
        user_logged_in.connect(logins.note_login, dispatch_uid="infini.logins")
        user_logged_out.connect(logins.note_logout, dispatch_uid="infini.logins")
        for name in ("event", "alert"):
            register(f"infini.{name}", lambda rows, environments: rows.filter(subjects_within(environments)))
        # What others call their filters may name what lies elsewhere.
        register("infini.savedlist", lambda rows, environments: rows.none(), told_of=True)
