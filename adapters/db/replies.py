"""Statements about stored replies: what a repeated Idempotency-Key gets back."""

from sqlalchemy import Connection, delete, insert, select

from adapters.db.schema import replies
from adapters.db.tenancy import keyed
from adapters.errors import IdempotencyKeyReused
from adapters.records import IdempotencyKey, Reply

KEPT_SECONDS = 24 * 3600.0


def find_reply(tx: Connection, key: IdempotencyKey, now: float) -> Reply | None:
    """The reply that was given to this key within the last 24 hours.

    Raises:
        IdempotencyKeyReused: the key came with another request then.
    """
    row = tx.execute(
        select(replies).where(
            replies.c.key == keyed(tx, key.key), replies.c.created_at > now - KEPT_SECONDS
        )
    ).first()
    if row is None:
        return None
    if row.request_digest != key.request_digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used for a different request. Use a fresh key for each request."
        )
    return Reply(status=row.status, body=row.body, location=row.location, replayed=True)


def store_reply(tx: Connection, key: IdempotencyKey, reply: Reply, now: float) -> None:
    """Keep the reply, inside the transaction that does what it tells of. The primary key lets only one through."""
    tx.execute(delete(replies).where(replies.c.created_at <= now - KEPT_SECONDS))
    tx.execute(
        insert(replies).values(
            key=keyed(tx, key.key),
            request_digest=key.request_digest,
            status=reply.status,
            body=reply.body,
            location=reply.location,
            created_at=now,
        )
    )
