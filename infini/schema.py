"""What the OpenAPI document cannot see by itself: our two ways to log in, and paths without their last slash."""

from drf_spectacular.authentication import SessionScheme
from drf_spectacular.extensions import OpenApiAuthenticationExtension


def without_last_slash(endpoints: list[tuple]) -> list[tuple]:
    """Both forms answer; the document names the one without."""
    return [(path.rstrip("/"), *rest) for path, *rest in endpoints]


class KeyScheme(OpenApiAuthenticationExtension):
    target_class = "infini.access.KeyAuthentication"
    name = "key"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class SiteSessionScheme(SessionScheme):
    target_class = "infini.access.SessionOrNothing"
    name = "session"
