"""Webhooks: who is told, what is still to be told, and what becomes of it."""

from collections.abc import Sequence

from adapters.clock import Clock
from adapters.db import endpoints, outbox
from adapters.db.connect import Database
from adapters.errors import InvalidRequest
from adapters.webhooks import (
    DISABLED_AFTER_S,
    OLD_SECRET_S,
    RETRY_AFTER_S,
    Delivery,
    DeliveryStatus,
    Endpoint,
    Errand,
    Happening,
    NewEndpoint,
    Outcome,
)


class Webhooks:
    """Endpoints, and the outbox of what they are told."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._db, self._clock = database, clock

    def add(self, new: NewEndpoint) -> Endpoint:
        """Tell somebody of every job from now on."""
        with self._db.write() as tx:
            return endpoints.add_endpoint(tx, new, self._clock())

    def get(self, endpoint_id: str) -> Endpoint:
        """Raises EndpointNotFound."""
        with self._db.read() as tx:
            return endpoints.get_endpoint(tx, endpoint_id)

    def list(self, *, after: str | None = None, limit: int = 20) -> Sequence[Endpoint]:
        """Newest first, without those of single jobs. Raises EndpointNotFound for an unknown `after`."""
        with self._db.read() as tx:
            return endpoints.list_endpoints(tx, after=after, limit=limit)

    def update(
        self,
        endpoint_id: str,
        *,
        name: str | None = None,
        url: str | None = None,
        event_types: tuple[Happening, ...] | None = None,
        enabled: bool | None = None,
    ) -> Endpoint:
        """Change what is given. A new URL enables a disabled endpoint too. Raises EndpointNotFound, InvalidRequest."""
        with self._db.write() as tx:
            now, before = self._clock(), _of_all_jobs(endpoints.get_endpoint(tx, endpoint_id))
            asked = {"name": name, "url": url, "event_types": event_types}
            changed = {
                key: value
                for key, value in asked.items()
                if value is not None and value != getattr(before, key)
            }
            if enabled is None and "url" in changed:
                enabled = True
            if changed:
                endpoints.change_endpoint(tx, endpoint_id, **changed, updated_at=now)
            if enabled is not None and enabled != (before.disabled_at is None):
                endpoints.change_endpoint(tx, endpoint_id, updated_at=now)
                if enabled:
                    endpoints.enable_endpoint(tx, endpoint_id)
                else:
                    endpoints.disable_endpoint(tx, endpoint_id, "by request", now)
            return endpoints.get_endpoint(tx, endpoint_id)

    def rotate(self, endpoint_id: str, secret: str, *, keep_old: bool) -> Endpoint:
        """Sign with another secret; the old one signs too for a day if it is kept. Raises as `update`."""
        with self._db.write() as tx:
            now, before = self._clock(), _of_all_jobs(endpoints.get_endpoint(tx, endpoint_id))
            endpoints.change_endpoint(
                tx,
                endpoint_id,
                secret=secret,
                old_secret=before.secret if keep_old else None,
                old_secret_until=now + OLD_SECRET_S if keep_old else None,
                updated_at=now,
            )
            return endpoints.get_endpoint(tx, endpoint_id)

    def delete(self, endpoint_id: str) -> Endpoint:
        """Tell it nothing more. Raises EndpointNotFound."""
        with self._db.write() as tx:
            return endpoints.delete_endpoint(tx, endpoint_id, self._clock())

    def deliveries(
        self, endpoint_id: str, *, after: str | None = None, limit: int = 20
    ) -> Sequence[Delivery]:
        """What an endpoint was told or is to be told, newest first. Raises EndpointNotFound, DeliveryNotFound."""
        with self._db.read() as tx:
            endpoints.get_endpoint(tx, endpoint_id)
            return outbox.list_deliveries(tx, endpoint_id, after=after, limit=limit)

    def retry(self, endpoint_id: str, delivery_id: str) -> Delivery:
        """Have a delivery made again, now. Raises EndpointNotFound, DeliveryNotFound, InvalidRequest."""
        with self._db.write() as tx:
            endpoint = endpoints.get_endpoint(tx, endpoint_id)
            delivery = outbox.get_delivery(tx, endpoint_id, delivery_id)
            if endpoint.disabled_at is not None:
                raise InvalidRequest(
                    f"The endpoint {endpoint_id} is disabled: {endpoint.disabled_reason}. "
                    'Enable it first, with {"enabled": true}.',
                    param="id",
                )
            outbox.retry(tx, delivery, self._clock())
            return outbox.get_delivery(tx, endpoint_id, delivery_id)

    def purge(self, *, older_than: float, at_once: int = 500) -> int:
        """Strike from the log what ended that many seconds ago; returns how many deliveries. What is pending stays.

        `at_once` rows go in one transaction, so that nobody who writes waits long for it.
        """
        before, struck = self._clock() - older_than, 0
        while True:
            with self._db.read() as tx:
                ended = outbox.ended_deliveries(tx, before=before, limit=at_once)
            if not ended:
                return struck
            with self._db.write() as tx:
                outbox.forget_deliveries(tx, ended)
            struck += len(ended)

    def waits(self) -> bool:
        """Whether `claim` would find a delivery. A read, so that looking holds up nobody who writes."""
        with self._db.read() as tx:
            return outbox.waits(tx, self._clock())

    def is_empty(self) -> bool:
        """Whether the outbox holds nothing that is to be sent, now or later."""
        with self._db.read() as tx:
            return outbox.is_empty(tx)

    def claim(self, *, lease_seconds: float) -> Errand | None:
        """Take up a delivery that is due; nobody else gets it while the lease lasts."""
        with self._db.write() as tx:
            return outbox.claim(tx, now=self._clock(), lease_seconds=lease_seconds)

    def give_back(self, errand: Errand) -> None:
        """Let somebody else make a delivery that was taken up and not made, at once."""
        with self._db.write() as tx:
            outbox.settle(tx, errand.delivery)

    def settle(self, errand: Errand, outcome: Outcome) -> None:
        """Record an attempt: delivered, to be tried again later, or given up.

        A 410 disables the endpoint, and so does a failure when nothing has got through for five days.
        """
        delivery = errand.delivery
        with self._db.write() as tx:
            now = self._clock()
            endpoints.hold_endpoint(tx, delivery.endpoint_id)
            attempt = {
                "attempts": delivery.attempts + 1,
                "last_attempt_at": now,
                "last_status": outcome.status,
                "last_error": outcome.error,
            }
            if not outbox.settle(tx, delivery, **attempt, **_next(delivery, outcome, now)):
                return
            if outcome.error is None:
                endpoints.change_endpoint(tx, delivery.endpoint_id, failing_since=None)
                return
            since = errand.endpoint.failing_since or now
            endpoints.change_endpoint(tx, delivery.endpoint_id, failing_since=since)
            if outcome.gone:
                reason = "it answered 410 Gone"
                endpoints.disable_endpoint(tx, delivery.endpoint_id, reason, now)
            elif now - since >= DISABLED_AFTER_S:
                reason = "nothing has got through to it for five days"
                endpoints.disable_endpoint(tx, delivery.endpoint_id, reason, now)


def _next(delivery: Delivery, outcome: Outcome, now: float) -> dict[str, object]:
    if outcome.error is None:
        return {"status": DeliveryStatus.DELIVERED.value}
    if outcome.gone or delivery.attempts >= len(RETRY_AFTER_S):
        return {"status": DeliveryStatus.FAILED.value}
    return {"due_at": now + RETRY_AFTER_S[delivery.attempts]}


def _of_all_jobs(endpoint: Endpoint) -> Endpoint:
    if endpoint.job_id is not None:
        raise InvalidRequest(
            f"{endpoint.id} belongs to the job {endpoint.job_id} and stays as it was asked for. It can be deleted.",
            param="id",
        )
    return endpoint
