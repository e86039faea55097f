"""What routes are given: the parts of the running service, made once in `app.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request

from adapters.ledger import Ledger
from service.catalog import Catalog
from service.engines import Engines
from service.filing import Filing
from service.finetune import Intake
from service.generate import Generator
from service.importing import Importer
from service.limits import Limits
from service.looking import Lookout
from service.metrics import Metrics
from service.webhooks.courier import Courier
from service.webhooks.endpoints import Endpoints


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything that lives as long as the service."""

    ledger: Ledger
    catalog: Catalog
    engines: Engines
    generator: Generator
    intake: Intake
    filing: Filing
    importer: Importer
    limits: Limits
    lookout: Lookout
    metrics: Metrics
    endpoints: Endpoints
    courier: Courier
    #: Where uploads lie until the ledger has them.
    incoming: Path
    #: See `ServiceSettings`.
    openai_strict_status: bool = False


def _state(request: Request) -> ServiceState:
    state: ServiceState = request.state.service
    return state


State = Annotated[ServiceState, Depends(_state)]
