"""What routes are given: the parts of the running service, as whoever asks may see them. Made in `app.py`."""

from collections.abc import Callable
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
from service.keys.ring import Caller
from service.limits import Limits
from service.looking import Lookout
from service.metrics import Metrics
from service.rates import Rates
from service.scrape import Scrape
from service.webhooks.courier import Courier
from service.webhooks.endpoints import Endpoints


@dataclass(frozen=True, slots=True)
class ServiceState:
    """Everything that lives as long as the service, in the view of one tenant or of everybody."""

    ledger: Ledger
    catalog: Catalog
    engines: Engines
    generator: Generator
    rates: Rates
    intake: Intake
    filing: Filing
    importer: Importer
    limits: Limits
    lookout: Lookout
    metrics: Metrics
    scrape: Scrape
    endpoints: Endpoints
    courier: Courier
    #: Where uploads lie until the ledger has them.
    incoming: Path
    #: Whether the service has been told that it will be stopped.
    leaving: Callable[[], bool]
    #: See `ServiceSettings`.
    openai_strict_status: bool = False


class Views:
    """The service as each tenant sees it. A view costs some objects, and is kept."""

    def __init__(self, make: Callable[[str | None], ServiceState]) -> None:
        self._make = make
        self._views: dict[str, ServiceState] = {}
        #: As nobody who asks may see it: for what goes on beside requests, and for the operator.
        self.whole = make(None)

    def of(self, tenant: str) -> ServiceState:
        """What that tenant sees."""
        view = self._views.get(tenant)
        if view is None:
            view = self._views[tenant] = self._make(tenant)
        return view


def state_of(request: Request) -> ServiceState:
    """The one place where a request is given its caller's view. The gate sets the caller; without one there is none."""
    views: Views = request.state.service
    return views.of(tenant_of(request))


def tenant_of(request: Request) -> str:
    """Whose request it is. The gate sets the caller; without one there is no answer."""
    caller: Caller = request.state.caller
    return caller.tenant


def is_known(request: Request) -> bool:
    """Whether somebody asks for whom the gate vouches: not so on paths that are open where keys are on."""
    return hasattr(request.state, "caller")


# Coroutines, since FastAPI asks anything else in a thread: two changes of threads for each request.
async def _state(request: Request) -> ServiceState:
    return state_of(request)


async def _tenant(request: Request) -> str:
    return tenant_of(request)


async def whole(request: Request) -> ServiceState:
    """Everything, for routes that speak of nobody's own things."""
    views: Views = request.state.service
    return views.whole


State = Annotated[ServiceState, Depends(_state)]
Tenant = Annotated[str, Depends(_tenant)]
Whole = Annotated[ServiceState, Depends(whole)]
