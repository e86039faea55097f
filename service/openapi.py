"""The OpenAPI document as it is published: what FastAPI finds out by itself, put right where it cannot know.

Bodies that routes read for themselves (forms, unknown fields with suggestions) are named here. Every operation may
answer with an error, and every error is our envelope; what FastAPI calls 422 is our 400.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from adapters.sampling import Sampling
from service.schemas.aliases import AliasOptions, PromoteOptions, RollbackOptions
from service.schemas.files import Completion, FileOptions, UploadOptions
from service.schemas.finetune import FinetuneOptions
from service.schemas.importing import ImportOptions, SourceOptions
from service.schemas.keys import KeyOptions
from service.schemas.shares import ShareOptions
from service.schemas.webhooks import (
    EndpointChange,
    EndpointOptions,
    RotationOptions,
    TestOptions,
)

_OBJECTS: Final = {"type": "array", "items": {"type": "object"}}
_BINARY: Final = {"type": "string", "format": "binary"}
#: JSON bodies that are what a model says.
_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    "/adapters/{name}/shares": ShareOptions,
    "/v1/keys": KeyOptions,
    "/v1/uploads": UploadOptions,
    "/v1/uploads/{upload_id}/complete": Completion,
    "/v1/webhook_endpoints": EndpointOptions,
    "/v1/webhook_endpoints/{endpoint_id}": EndpointChange,
    "/v1/webhook_endpoints/{endpoint_id}/test": TestOptions,
    "/v1/webhook_endpoints/{endpoint_id}/rotate_secret": RotationOptions,
    "/adapters/{name}/promote": PromoteOptions,
}
#: The same of PUT, and of POST where the body may be left out.
_PUTS: Final[Mapping[str, type[BaseModel]]] = {
    "/adapters/{name}/aliases/{alias}": AliasOptions,
    "/adapters/{name}/defaults": Sampling,
}
_OPTIONAL: Final[Mapping[str, type[BaseModel]]] = {"/adapters/{name}/rollback": RollbackOptions}
#: Those that look at data, with what they take beside the options of a job.
_DATA: Final[Mapping[str, dict[str, Any]]] = {
    "/finetune": {"dry_run": {"type": "boolean", "default": False}},
    "/datasets/validate": {},
    "/v1/fine_tuning/estimate": {},
    "/v1/fine_tuning/preview": {"n": {"type": "integer", "minimum": 1, "maximum": 20}},
}
_JOB: Final = {
    "required": ["model", "training_file"],
    "properties": {
        "model": {"type": "string"},
        "training_file": {"type": "string"},
        "validation_file": {"type": ["string", "null"]},
        "suffix": {"type": ["string", "null"], "maxLength": 64},
        "seed": {"type": ["integer", "null"]},
        "priority": {"type": ["string", "null"], "enum": ["low", "normal", "high", None]},
        "metadata": {"type": ["object", "null"], "additionalProperties": {"type": "string"}},
        "hyperparameters": {"type": ["object", "null"]},
        "method": {"type": ["object", "null"]},
        "integrations": {"type": ["array", "null"], "items": {"type": "object"}},
    },
}
_ERROR: Final = {
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
                "details": _OBJECTS,
            },
        }
    },
}
#: Of FastAPI's own errors, which never leave the service.
_NEVER_SENT: Final = ("HTTPValidationError", "ValidationError")


def publish(app: FastAPI, *, open_paths: Collection[str] | None) -> None:
    """Serve the corrected document instead of FastAPI's. Where keys are on, all but the open paths want one."""
    original = app.openapi

    def corrected() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _correct(original())
            if open_paths is not None:
                _lock(app.openapi_schema, open_paths)
        return app.openapi_schema

    app.openapi = corrected  # type: ignore[method-assign]  # as FastAPI's documentation says to


def _correct(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in _NEVER_SENT:
        schemas.pop(name, None)
    schemas |= _definitions() | {"Error": _ERROR}
    components["responses"] = {
        "Error": {"description": "What went wrong.", "content": _json(_ref("Error"))}
    }
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"$ref": "#/components/responses/Error"}
    for path, content in _bodies():
        document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
    for path, model in _PUTS.items():
        body = {"required": True, "content": _json(_ref(model.__name__))}
        document["paths"][path]["put"]["requestBody"] = body
    for path, model in _OPTIONAL.items():
        document["paths"][path]["post"]["requestBody"] = {"content": _json(_ref(model.__name__))}
    return document


def _lock(document: dict[str, Any], open_paths: Collection[str]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    for path in document["paths"].keys() & open_paths:
        for operation in document["paths"][path].values():
            operation["security"] = []


def _definitions() -> dict[str, Any]:
    models: list[type[BaseModel]] = [
        *(*_MODELS.values(), *_PUTS.values(), *_OPTIONAL.values()),
        *(FileOptions, FinetuneOptions, ImportOptions, SourceOptions),
    ]
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = found["$defs"]
    return definitions


def _bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, model in _MODELS.items():
        yield path, _json(_ref(model.__name__))
    for path, beside in _DATA.items():
        rows = {"data": _OBJECTS, "validation_data": _OBJECTS}
        files = {"data": _BINARY, "validation_data": _BINARY}
        rows_or_form = _json(_with(FinetuneOptions, beside | rows))
        yield path, rows_or_form | _form(_with(FinetuneOptions, beside | files))
    yield "/v1/fine_tuning/jobs", _json({"type": "object", **_JOB})
    yield "/v1/files", _form(_with(FileOptions, {"file": _BINARY}, required=["file"]))
    archive = _form(_with(ImportOptions, {"archive": _BINARY}, required=["archive"]))
    yield "/adapters", _json(_ref("SourceOptions")) | archive
    data = {"type": "object", "required": ["data"], "properties": {"data": _BINARY}}
    yield "/v1/uploads/{upload_id}/parts", _form(data)


def _with(
    model: type[BaseModel], beside: dict[str, Any], required: Sequence[str] = ()
) -> dict[str, Any]:
    """A model's fields, and what else may be sent with them."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["properties"] = schema["properties"] | beside
    schema["required"] = [*schema.get("required", []), *required]
    return schema


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"multipart/form-data": {"schema": schema}}
