"""What goes on beside requests.

The ledger is followed, engines are watched, live versions are loaded ahead of use, webhooks are called.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from adapters.errors import GraftError
from adapters.names import CANARY, parse_fine_tuned_name
from adapters.records import Adapter, Version
from adapters.traces import Tracer, place_of_job
from service.settings import ServiceSettings
from service.state import ServiceState

log = logging.getLogger(__name__)

#: How many adapters are loaded ahead of the first request after an engine has come up.
_PRELOADED = 4
#: A version that is loaded later than this after its publication says nothing of how long publication takes.
_OLD_S = 3600.0


@asynccontextmanager
async def followed(
    state: ServiceState, settings: ServiceSettings, tracer: Tracer
) -> AsyncIterator[None]:
    """Inside the context the ledger is followed, the engines are watched and webhooks are called."""
    errands: set[asyncio.Task[None]] = set()
    news = News(time.time())

    def go_on(errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(errand)
        errands.add(task)
        task.add_done_callback(errands.discard)

    def on_change(changed: Sequence[Adapter]) -> None:
        for adapter in changed:
            _forget_deleted(state, adapter, news)
            go_on(_welcome(state, adapter, news, tracer))
            go_on(_take_out(state, adapter))

    def on_up(model_id: str) -> None:
        newest = sorted(state.catalog.adapters, key=_published_at, reverse=True)
        mine = [adapter for adapter in newest if adapter.base_model == model_id]
        for adapter in mine[:_PRELOADED]:
            go_on(_bring_in(state, adapter))

    state.catalog.listen(on_change)
    tasks = [
        asyncio.create_task(state.catalog.follow(state.ledger.changes, settings.refresh_seconds)),
        asyncio.create_task(state.engines.watch(on_up, silence_seconds=settings.canary_seconds)),
        asyncio.create_task(state.courier.run()),
    ]
    for task in tasks:
        task.add_done_callback(_stop_visibly)
    try:
        yield
    finally:
        for task in [*tasks, *errands]:
            task.cancel()
        await asyncio.gather(*tasks, *errands, return_exceptions=True)


class News:
    """Which versions are new, so that what is measured is how long publication takes, not promotion or a restart."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._known: dict[str, float] = {}

    def is_new(self, version: Version) -> bool:
        """True once of a version that was published while this service ran, within the last hour."""
        old = time.time() - _OLD_S
        self._known = {name: made for name, made in self._known.items() if made > old}
        if version.name in self._known or version.created_at <= max(self._since, old):
            return False
        self._known[version.name] = version.created_at
        return True

    def forget(self, adapter: str) -> None:
        """Once it is deleted."""
        of_adapter = f"{adapter}@"
        self._known = {
            name: made for name, made in self._known.items() if not name.startswith(of_adapter)
        }


async def _welcome(state: ServiceState, adapter: Adapter, news: News, tracer: Tracer) -> None:
    """Load the live version, and take the time from its publication on."""
    new = adapter.live if adapter.live is not None and news.is_new(adapter.live) else None
    if new is None or new.job_id is None:
        await _bring_in(state, adapter)
    else:
        about = {"graft.version": new.name}
        place = place_of_job(new.job_id)
        with tracer.begin_at(place, "graft.adapter.activate", about, since=new.created_at):
            await _bring_in(state, adapter)
    host = state.engines.get(adapter.base_model)
    if new is not None and host is not None and host.residency.holds(new):
        seconds = max(0.0, time.time() - new.created_at)
        state.metrics.weights.activation_seconds.labels(adapter.base_model).observe(seconds)


async def _bring_in(state: ServiceState, adapter: Adapter) -> None:
    """Load the live version, and the one that shares its requests."""
    host = state.engines.get(adapter.base_model)
    if host is None or not host.up:
        return
    canary = adapter.sharing(CANARY)
    for version in (adapter.live, canary[1] if canary else None):
        if version is None or version.quarantined:
            continue
        try:
            await host.residency.ensure(version)
        except GraftError as error:
            # The first request for it will try again and tell its caller.
            log.warning("could not load %s ahead of time: %s", version.name, error)


def _forget_deleted(state: ServiceState, adapter: Adapter, news: News) -> None:
    if adapter.versions:
        return
    news.forget(adapter.name)
    state.metrics.by_adapter.forget(adapter.name)
    host = state.engines.get(adapter.base_model)
    if host is not None:
        host.forget(adapter.name)


async def _take_out(state: ServiceState, adapter: Adapter) -> None:
    """Unload versions that are deleted or quarantined, and a deleted adapter's checkpoints.

    Once the last request that uses them has ended.
    """
    host = state.engines.get(adapter.base_model)
    if host is None:
        return
    living = {version.name for version in adapter.versions if not version.quarantined}
    of_adapter = f"{adapter.name}@"
    for name in host.residency.resident:
        made = parse_fine_tuned_name(name)
        orphan = made is not None and made.adapter == adapter.name and not adapter.versions
        if orphan or (name.startswith(of_adapter) and name not in living):
            try:
                await host.residency.drop(name)
            except GraftError as error:
                log.warning("could not unload %s: %s", name, error)


def _published_at(adapter: Adapter) -> float:
    return adapter.live.created_at if adapter.live else 0.0


def _stop_visibly(task: asyncio.Task[None]) -> None:
    # A service that no longer follows the ledger would serve yesterday's versions for ever: better dead than wrong.
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a background task died; stopping", exc_info=error)
        asyncio.get_running_loop().stop()
