"""What the OpenAPI document cannot see: our two ways to log in, paths without their last slash, the gateway."""

from typing import Any

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


def with_completions(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add the completions path: a plain ASGI application answers it, which no view describes."""
    content = {"application/json": {"schema": {"type": "object", "additionalProperties": True}}}
    answer = {"description": "OpenAI's chat completion, whole or as server-sent events.", "content": content}
    body = {
        "type": "object",
        "required": ["messages"],
        "properties": {
            "model": {"type": "string", "description": "Left out: the service's own."},
            "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "additionalProperties": True}},
            "stream": {"type": "boolean", "default": False},
        },
        "additionalProperties": True,
    }
    result["paths"]["/api/services/{id}/chat/completions"] = {
        "post": {
            "operationId": "services_chat_completions",
            "description": "Passed on to a ready instance of the service; unknown fields pass untouched.",
            "parameters": [{"in": "path", "name": "id", "required": True, "schema": {"type": "integer"}}],
            "tags": ["services"],
            "security": [{"key": []}, {"session": []}],
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": answer},
        }
    }
    for name in ("chat/completions", "completions", "embeddings", "rerank"):
        result["paths"][f"/v1/{name}"] = {
            "post": {
                "operationId": f"v1_{name.replace('/', '_')}",
                "description": "OpenAI's, from whatever serves `model`; unknown fields pass untouched.",
                "tags": ["v1"],
                "security": [{"key": []}, {"session": []}],
                "requestBody": {"required": True, "content": content},
                "responses": {"200": {"description": "The model server's own answer.", "content": content}},
            }
        }
    result["paths"]["/v1/models"] = {
        "get": {
            "operationId": "v1_models",
            "description": "The models that can be asked now.",
            "tags": ["v1"],
            "security": [{"key": []}, {"session": []}],
            "responses": {"200": {"description": "OpenAI's list of models.", "content": content}},
        }
    }
    return result
