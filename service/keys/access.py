"""Which scope opens which path. What is not written down here wants `admin`, so that what is added is shut at first."""

from collections.abc import Mapping
from typing import Final

from adapters.keys import Scope

_READ: Final = frozenset({"GET", "HEAD"})
_INFER: Final = frozenset({Scope.INFER})
_TUNE: Final = frozenset({Scope.TUNE})
_ADMIN: Final = frozenset({Scope.ADMIN})
_MODELS: Final = "/v1/models"
_USAGE: Final = "/v1/usage"
#: A path is what its first part, or its first two, say.
_SCOPES: Final[Mapping[str, frozenset[Scope]]] = {
    "/v1/chat": _INFER,
    "/v1/completions": _INFER,
    "/v1/responses": _INFER,
    "/v1/messages": _INFER,
    "/tokenize": _INFER,
    "/v1/tokenize": _INFER,
    "/detokenize": _INFER,
    "/v1/detokenize": _INFER,
    _MODELS: _TUNE,
    "/finetune": _TUNE,
    "/v1/finetune": _TUNE,
    "/v1/fine_tuning": _TUNE,
    "/queue": _TUNE,
    "/v1/queue": _TUNE,
    "/datasets": _TUNE,
    "/v1/datasets": _TUNE,
    "/adapters": _TUNE,
    "/v1/adapters": _TUNE,
    "/v1/files": _TUNE,
    "/v1/uploads": _TUNE,
    "/v1/webhook_endpoints": _TUNE,
    "/v1/webhook_event_types": _TUNE,
    "/v1/keys": _ADMIN,
    "/metrics": _ADMIN,
}
_OPEN: Final = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs", "/redoc"})


def open_paths(*, metrics: bool) -> frozenset[str]:
    """What answers without a key: whether the service lives, and what its API is; the metrics if that is wanted."""
    return _OPEN | {"/metrics", "/metrics/engines"} if metrics else _OPEN


def scopes_for(method: str, path: str) -> frozenset[Scope]:
    """The scopes of which a key must have one."""
    parts = path.split("/")
    first = "/".join(parts[:2])
    area = "/".join(parts[:3]) if first == "/v1" else first
    if area == _USAGE or (area == _MODELS and method in _READ):
        return _INFER | _TUNE
    return _SCOPES.get(area, _ADMIN)
