"""Who makes the calls: takes deliveries out of the outbox, one after another for each endpoint, until none is due.

At least once. A service that dies between a call and its record leaves a lease behind; when that has run out, the call
is made again, with the same `webhook-id`. Several services may do this beside each other.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from adapters.clock import Clock
from adapters.errors import GraftError
from adapters.ledger import Changes, Topic, Webhooks
from adapters.webhooks import Announcement, Endpoint, Errand, Outcome
from service.hearing import happens, heard
from service.metrics import Metrics
from service.schemas.webhooks import event_body
from service.settings import WebhookSettings
from service.webhooks.sign import signed_headers

log = logging.getLogger(__name__)

#: How often an empty outbox is looked at while the ledger tells of news: a message may be lost.
_BEHIND_S = 5.0
#: How much longer a lease lasts than a call may: time to write down how it went.
_MARGIN_S = 30.0


class Caller(Protocol):
    """Makes one call."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Whatever the other side does is an outcome and no exception."""
        ...


class Courier:
    """Tells endpoints what the outbox holds for them."""

    def __init__(
        self,
        webhooks: Webhooks,
        changes: Changes,
        caller: Caller,
        settings: WebhookSettings,
        *,
        metrics: Metrics,
        clock: Clock = time.time,
    ) -> None:
        self._webhooks, self._changes = webhooks, changes
        self._caller, self._settings = caller, settings
        self._metrics, self._clock = metrics, clock
        self._under_way: dict[asyncio.Task[None], Errand] = {}
        self._returned = asyncio.Event()

    async def run(self) -> None:
        """Deliver for ever: every `poll_seconds` while there is anything to send, else when something is announced."""
        try:
            with heard(self._changes, Topic.ANNOUNCED) as news:
                while True:
                    news.clear()
                    empty = await self._try_to_set_out()
                    await happens(self._returned, within=self._settings.poll_seconds)
                    self._returned.clear()
                    if empty and self._changes.told:
                        await happens(news, within=_BEHIND_S)
        finally:
            await self._turn_back()

    @property
    def under_way(self) -> int:
        """How many calls have not come back yet."""
        return len(self._under_way)

    async def set_out(self) -> None:
        """Begin every delivery that is due, as far as there is room. Raises Unavailable."""
        lease = self._settings.timeout_seconds + _MARGIN_S
        while len(self._under_way) < self._settings.max_at_once:
            if not await asyncio.to_thread(self._webhooks.waits):
                return
            errand = await asyncio.to_thread(self._webhooks.claim, lease_seconds=lease)
            if errand is None:
                return
            task = asyncio.create_task(self._deliver(errand))
            self._under_way[task] = errand
            task.add_done_callback(self._came_back)

    async def _try_to_set_out(self) -> bool:
        """Whether there is nothing left to send, now or later."""
        try:
            await self.set_out()
            return not self._under_way and await asyncio.to_thread(self._webhooks.is_empty)
        except GraftError as error:
            log.warning("the outbox could not be read: %s", error)
            return False

    async def send(self, endpoint: Endpoint, announcement: Announcement) -> Outcome:
        """Tell an endpoint something now, beside the outbox."""
        body, now = event_body(announcement), self._clock()
        signed = signed_headers(
            endpoint.secrets(now), message_id=announcement.id, timestamp=int(now), body=body
        )
        headers = {"Content-Type": "application/json", "User-Agent": "graft", **signed}
        return await self._caller.post(endpoint.url, body, headers)

    async def _deliver(self, errand: Errand) -> None:
        outcome = await self.send(errand.endpoint, errand.delivery.announcement)
        told = "ok" if outcome.error is None else "failed"
        self._metrics.jobs.webhook_deliveries.labels(told).inc()
        if outcome.error is not None:
            log.info("%s to %s: %s", errand.delivery.id, errand.endpoint.id, outcome.error)
        await asyncio.to_thread(partial(self._webhooks.settle, errand, outcome))

    async def _turn_back(self) -> None:
        """Break off what is under way. The next service need not wait for leases to run out."""
        left = dict(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for task, errand in left.items():
            if task.cancelled():
                await asyncio.to_thread(self._webhooks.give_back, errand)

    def _came_back(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)
        self._returned.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Nothing was recorded, so it is sent again when the lease has run out.
            log.error("a delivery could not be recorded", exc_info=error)
