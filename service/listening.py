"""How the service listens: what uvicorn is told beside the application, its host and its port."""

from typing import TypedDict

from service.settings import ServiceSettings


class HttpOptions(TypedDict):
    """Arguments of `uvicorn.Config`."""

    access_log: bool
    log_config: None
    timeout_graceful_shutdown: int
    timeout_keep_alive: int


def http_options(settings: ServiceSettings) -> HttpOptions:
    """Those arguments, by the settings. Logs are ours (`middleware.py`, `adapters/logs.py`)."""
    return HttpOptions(
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_keep_alive=settings.keep_alive_seconds,
    )
