"""What goes on beside requests: the ledger is followed, engines are watched, live versions are loaded ahead of use."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from adapters.errors import GraftError
from adapters.records import Adapter
from service.settings import ServiceSettings
from service.state import ServiceState

log = logging.getLogger(__name__)

#: How many adapters are loaded ahead of the first request after an engine has come up.
_PRELOADED = 4


@asynccontextmanager
async def followed(state: ServiceState, settings: ServiceSettings) -> AsyncIterator[None]:
    """Inside the context the ledger is followed and the engines are watched."""
    preloads: set[asyncio.Task[None]] = set()

    def preload(adapters: Sequence[Adapter]) -> None:
        for adapter in adapters:
            task = asyncio.create_task(_bring_in(state, adapter))
            preloads.add(task)
            task.add_done_callback(preloads.discard)

    async def on_change(changed: Sequence[Adapter]) -> None:
        preload(changed)

    def on_up(model_id: str) -> None:
        newest = sorted(state.catalog.adapters, key=_published_at, reverse=True)
        mine = [adapter for adapter in newest if adapter.base_model == model_id]
        preload(mine[:_PRELOADED])

    tasks = [
        asyncio.create_task(state.catalog.follow(settings.refresh_seconds, on_change)),
        asyncio.create_task(state.engines.watch(on_up)),
    ]
    for task in tasks:
        task.add_done_callback(_stop_visibly)
    try:
        yield
    finally:
        for task in [*tasks, *preloads]:
            task.cancel()
        await asyncio.gather(*tasks, *preloads, return_exceptions=True)


async def _bring_in(state: ServiceState, adapter: Adapter) -> None:
    host = state.engines[adapter.base_model]
    if adapter.live is None or not host.up:
        return
    try:
        await host.residency.ensure(adapter.live)
    except GraftError as error:
        # The first request for it will try again and tell its caller.
        log.warning("could not load %s ahead of time: %s", adapter.live.name, error)


def _published_at(adapter: Adapter) -> float:
    return adapter.live.created_at if adapter.live else 0.0


def _stop_visibly(task: asyncio.Task[None]) -> None:
    # A service that no longer follows the ledger would serve yesterday's versions for ever: better dead than wrong.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a background task died; stopping", exc_info=error)
        asyncio.get_running_loop().stop()
