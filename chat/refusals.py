"""What the gateway says when it cannot answer: always in OpenAI's shape, so that any client understands it."""

import json

from django.utils import translation

from infini.said import said

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """An answer other than the one asked for.

    ``elsewhere``: nothing was begun at the upstream, so another instance may be asked instead.
    ``body``: the upstream's own error, passed on as it came.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
        elsewhere: bool = False,
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or {}
        self.elsewhere = elsewhere
        self.body = body

    def said_in(self, language: str) -> "Refusal":
        """The same for somebody who reads ``language``; messages are English, whoever wrote them."""
        with translation.override(language):
            message = said(self.message)
        if message == self.message:
            return self
        return Refusal(self.status, message, self.code, param=self.param, headers=self.headers, body=self.body)

    def as_bytes(self) -> bytes:
        """The body of an answer that has this status."""
        return self.body if self.body is not None else json.dumps(self.as_json()).encode()

    def as_event(self) -> bytes:
        """The same inside a stream whose status has already been sent."""
        return b"data: " + json.dumps(self.as_json()).encode() + b"\n\n"

    def as_json(self) -> dict:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_gateway(message: str, code: str = "bad_upstream_answer", *, elsewhere: bool = False) -> Refusal:
    """The model server failed us."""
    return Refusal(502, message, code, elsewhere=elsewhere)
