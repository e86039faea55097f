"""Every error leaves in OpenAI's envelope: {"error": {"message", "type", "param", "code"}}.

FastAPI's own `{"detail": …}` would lose its message in the OpenAI SDK, which reads `error` only.
"""

import errno
import json
import logging
import math
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adapters.errors import GraftError, StorageFull, Unavailable
from service.schemas.endpoints import Dialect

log = logging.getLogger(__name__)

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "file_too_large",
    415: "unsupported_media_type",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_RETRY_AFTER_S = 60
#: What a message repeats of a request may be as long as the request; who sent it knows it.
_LONGEST_MESSAGE, _LONGEST_PARAM = 4000, 200
_TRACEBACK = "Traceback (most recent call last)"
#: A path of this machine, two folders deep or deeper; those of our own API begin with a version.
_PATH = re.compile(r"(?<![\w.:/~-])/(?!v[0-9]/)(?:[\w.@+-]+/)+[\w.@+-]*")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


def envelope(error: GraftError) -> dict[str, Any]:
    """The body of an error response, and of an error inside a stream."""
    body: dict[str, Any] = {
        "message": _encodable(error.message, _LONGEST_MESSAGE),
        "type": error.type,
        "param": _encodable(error.param, _LONGEST_PARAM) if error.param is not None else None,
        "code": error.code,
    }
    if error.details is not None:
        body["details"] = error.details
    return {"error": body}


def error_response(error: GraftError, dialect: Dialect = "completions") -> JSONResponse:
    """The response for one of our errors. Anthropic's clients look for a `type` beside the error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry is not None:
        headers["x-should-retry"] = "true" if error.retry else "false"
    body = envelope(error)
    if dialect == "messages":
        body = {"type": "error", **body}
    return JSONResponse(body, error.status, headers)


def error_event(error: GraftError, dialect: Dialect, *, number: int) -> bytes:
    """The last event of a stream that ends too soon, in the words of its endpoint; `number` events came before it."""
    told = envelope(error)
    if dialect == "responses":
        flat = {name: told["error"][name] for name in ("code", "message", "param")}
        return _event("error", {"type": "error", **flat, "sequence_number": number})
    if dialect == "messages":
        return _event("error", {"type": "error", **told})
    return f"data: {json.dumps(told)}\n\n".encode()


def stopping() -> Unavailable:
    """What is told to whom the service cannot answer any more, since it must stop."""
    return Unavailable("The service is being stopped. Try again in a moment.", retry_after=1)


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def engine_error_body(raw: bytes, status: int, dialect: Dialect = "completions") -> bytes:
    """An error of the engine in our envelope: its message and field kept, its number made a code."""
    try:
        told = json.loads(raw)["error"]
        message, param = str(told["message"]), told.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        message, param = f"The engine answered {status}: {raw[:300].decode(errors='replace')}", None
    error = {
        "message": discreet(message),
        "type": _type_of(status),
        "param": param,
        "code": "invalid_value" if _is_clients(status) else "engine_error",
    }
    body: dict[str, Any] = {"error": error}
    return json.dumps({"type": "error", **body} if dialect == "messages" else body).encode()


def _type_of(status: int) -> str:
    return "invalid_request_error" if _is_clients(status) else "server_error"


def _is_clients(status: int) -> bool:
    return status < HTTPStatus.INTERNAL_SERVER_ERROR


def discreet(message: str) -> str:
    """What an engine says, without what it should keep to itself: folders of the machine, addresses in memory, code."""
    told = message[:_LONGEST_MESSAGE].partition(_TRACEBACK)[0].rstrip()
    return _ADDRESS.sub("0x...", _PATH.sub("(a path)", told)) or "The engine failed."


def _encodable(text: str, most: int) -> str:
    """The text with half surrogate pairs escaped: a client's JSON may hold them, a response may not."""
    shown = text if len(text) <= most else f"{text[:most]}..."
    return shown.encode(errors="backslashreplace").decode()


def install_error_handlers(app: FastAPI) -> None:
    """Translate whatever a route raises."""
    app.add_exception_handler(GraftError, _ours)
    app.add_exception_handler(OSError, _the_systems)
    app.add_exception_handler(HTTPException, _starlettes)
    app.add_exception_handler(RequestValidationError, _fastapis)


def _ours(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GraftError)
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("internal error", exc_info=error)
    return error_response(error)


def _the_systems(_request: Request, error: Exception) -> JSONResponse:
    """A full disk is nobody's mistake, and ends. Whatever else the system refuses is unforeseen."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        raise error
    log.error("the disk is full: %s", error)
    told = StorageFull(
        "The disk is full, and nothing was stored. Delete files or adapters, or ask who runs this service.",
        retry_after=_RETRY_AFTER_S,
    )
    return error_response(told)


def _starlettes(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = _encodable(request.url.path, _LONGEST_PARAM)
    messages = {
        404: f"There is nothing at {request.method} {path}.",
        405: f"{path} does not take {request.method}.",
    }
    body = {
        "message": messages.get(error.status_code, str(error.detail)),
        "type": _type_of(error.status_code),
        "param": None,
        "code": _CODES.get(error.status_code, "invalid_request"),
    }
    return JSONResponse({"error": body}, error.status_code, error.headers)


def _fastapis(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    body = {
        "message": _encodable(f"{where}: {first['msg']}", _LONGEST_MESSAGE),
        "type": "invalid_request_error",
        "param": _encodable(where, _LONGEST_PARAM) or None,
        "code": "invalid_value",
    }
    return JSONResponse({"error": body}, 400)
