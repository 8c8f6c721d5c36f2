"""The error tree. Verbs raise these; edges translate them. A message is a sentence a person can act on."""

from collections.abc import Mapping, Sequence

from infini.said import said

Fields = Mapping[str, Sequence[str]]


class InfiniError(Exception):
    """Base of all errors a user may see: ``code`` for programs, the message for people, ``fields`` for forms."""

    code = "error"
    http_status = 500

    def __init__(self, message: str, *, fields: Fields | None = None, code: str | None = None) -> None:
        self.message = str(message)  # a text that is translated when shown is shown now
        super().__init__(self.message)
        self.fields = {name: [str(text) for text in texts] for name, texts in (fields or {}).items()}
        self.code = code or self.code

    def as_json(self) -> dict:
        """The one shape of an error over HTTP."""
        body: dict = {"code": self.code, "message": said(self.message)}
        if self.fields:
            body["fields"] = {name: [said(text) for text in texts] for name, texts in self.fields.items()}
        return {"error": body}


class Invalid(InfiniError):
    code, http_status = "invalid", 400


class NotLoggedIn(InfiniError):
    code, http_status = "not_authenticated", 401


class Forbidden(InfiniError):
    code, http_status = "permission_denied", 403


class NotFound(InfiniError):
    code, http_status = "not_found", 404


class Conflict(InfiniError):
    code, http_status = "conflict", 409


class StaleVersion(Conflict):
    code = "stale_version"


class TooLarge(InfiniError):
    code, http_status = "too_large", 413


class Unavailable(InfiniError):
    """Something beyond our process did not do its part; ``http_status`` 502, 503 or 504."""

    code, http_status = "unavailable", 503
