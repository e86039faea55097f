"""The OpenAPI document as it is published: what FastAPI finds out by itself, put right where it cannot know.

Every operation may answer with an error, and every error is our envelope; what FastAPI calls 422 is our 400.
"""

from typing import Any

from fastapi import FastAPI

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "details": {"type": "array", "items": {"type": "object"}},
            },
        }
    },
}
#: Of FastAPI's own errors, which never leave the service.
_NEVER_SENT = ("HTTPValidationError", "ValidationError")


def publish(app: FastAPI) -> None:
    """Serve the corrected document instead of FastAPI's."""
    original = app.openapi

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _correct(original())
        return app.openapi_schema

    app.openapi = corrected  # type: ignore[method-assign]  # as FastAPI's documentation says to


def _correct(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _NEVER_SENT:
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    components["responses"] = {"Error": {"description": "What went wrong.", "content": content}}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    return document
