"""What the environment tells the command line. Read here only; arguments win over it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8000"
#: Names of the variables that options name too (typer reads those itself).
URL_VARIABLE = "GRAFT_URL"
HOME_VARIABLE = "GRAFT_HOME"
AUTH_VARIABLE = "GRAFT_SERVICE_AUTH"
HOST_VARIABLE = "GRAFT_SERVICE_HOST"
PORT_VARIABLE = "GRAFT_SERVICE_PORT"
_OURS = "graft-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The environment, as far as it concerns a client."""

    #: A server without keys accepts any; the SDK insists on one.
    api_key: str = field(repr=False)


def read_settings() -> Settings:
    """From the environment as it is now.

    What stands in OPENAI_API_KEY is sent only if it is one of ours: somebody else's key is not for this server to see.
    """
    others = os.environ.get("OPENAI_API_KEY", "")
    spare = others if others.startswith(_OURS) else "graft"
    return Settings(api_key=os.environ.get("GRAFT_API_KEY") or spare)


def child_environment(
    home: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    *,
    auth: bool | None = None,
) -> Mapping[str, str]:
    """The environment of everything that `graft up` starts: our own, and what the options say.

    What they leave open is the configuration file's to say, so it is not set here.
    """
    options = {HOME_VARIABLE: home, HOST_VARIABLE: host, PORT_VARIABLE: port, AUTH_VARIABLE: auth}
    told = {name: str(value) for name, value in options.items() if value is not None}
    return {**os.environ, "PYTHONUNBUFFERED": "1", **told}
