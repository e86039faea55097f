"""The story of a scrape: what the ledger, the engines and the disk say right now, then everything as text.

Nothing here may keep Prometheus from what is known: where the database does not answer, that is a figure too.
"""

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.demand import QueueLoad
from adapters.errors import Unavailable
from adapters.ledger import Ledger
from service.catalog import Catalog
from service.engine.exposition import Exposition
from service.engines import EngineHost, Engines
from service.limits import Limits
from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Scrape:
    """Looks around, and tells."""

    ledger: Ledger
    limits: Limits
    catalog: Catalog
    engines: Engines
    metrics: Metrics
    home: Path

    async def own(self) -> bytes:
        """What this service knows, in Prometheus's text format."""
        await self._ask_the_ledger()
        self._look_at_the_disk()
        self._look_at_the_engines()
        return self.metrics.registry.as_text()

    async def engines_own(self) -> bytes:
        """What the engines that answer say of themselves: vLLM's own metrics, with the base model as a label."""
        told = Exposition()
        hosts = list(self.engines)
        texts = await asyncio.gather(*(_text_of(host) for host in hosts))
        for host, text in zip(hosts, texts, strict=True):
            told.add(host.model_id, text)
        return told.as_text().encode()

    async def _ask_the_ledger(self) -> None:
        house, jobs = self.metrics.house, self.metrics.jobs
        try:
            counts, loads = await asyncio.to_thread(self._read)
        except Unavailable:
            house.db_up.set(0)
            jobs.hide()
        else:
            house.db_up.set(1)
            jobs.show(counts, loads, time.time())

    def _read(self) -> tuple[Mapping[str, int], Mapping[str, QueueLoad]]:
        return self.ledger.jobs.count(), self.limits.loads()

    def _look_at_the_disk(self) -> None:
        disk = shutil.disk_usage(self.home)
        self.metrics.house.storage_free.set(disk.free)
        self.metrics.house.storage_size.set(disk.total)

    def _look_at_the_engines(self) -> None:
        weights = self.metrics.weights
        weights.registered.set(len(self.catalog.adapters))
        for host in self.engines:
            weights.resident.labels(host.model_id).set(len(host.residency.resident))
            weights.capacity.labels(host.model_id).set(host.residency.capacity)


async def _text_of(host: EngineHost) -> str:
    if not host.up:
        return ""
    try:
        return await host.engine.metrics()
    except Unavailable:
        return ""
