"""The API's published description, and what every answer is held to."""

from pathlib import Path
from typing import Any

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from adapters.settings import LedgerSettings
from service.app import Configuration, create_app
from service.settings import EngineSettings, ServiceSettings, WebhookSettings

PROMISED = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)


def description(*, auth: bool) -> Any:
    """What a service with these settings publishes of itself."""
    configuration = Configuration(
        LedgerSettings(home=Path("nowhere")),
        ServiceSettings(auth=auth),
        EngineSettings(),
        WebhookSettings(),
    )
    return schemathesis.openapi.from_dict(create_app(configuration).openapi())
