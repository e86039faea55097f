"""What the environment tells the command line. Read here only; arguments win over it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8000"
#: Names of the variables that options name too (typer reads those itself).
URL_VARIABLE = "GRAFT_URL"
HOME_VARIABLE = "GRAFT_HOME"
HOST_VARIABLE = "GRAFT_SERVICE_HOST"
PORT_VARIABLE = "GRAFT_SERVICE_PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment, as far as it concerns a client."""

    #: A server without keys accepts any; the SDK insists on one.
    api_key: str


def read_settings() -> Settings:
    """From the environment as it is now."""
    return Settings(api_key=os.environ.get("GRAFT_API_KEY") or "graft")


def child_environment(home: Path, host: str, port: int) -> Mapping[str, str]:
    """The environment of everything that `graft up` starts: our own, and where to live and listen."""
    told = {HOME_VARIABLE: str(home), HOST_VARIABLE: host, PORT_VARIABLE: str(port)}
    return {**os.environ, "PYTHONUNBUFFERED": "1", **told}
