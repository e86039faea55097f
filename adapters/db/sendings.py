"""Statements about requests that come again without a key: OpenAI's SDK repeats a POST by itself and only counts.

The count says that a request is a repetition, not of which one. Whatever was asked for in the same words within the
last minutes is taken for it.
"""

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from adapters.db.schema import sendings
from adapters.db.tenancy import keyed
from adapters.demand import Sending

KEPT_SECONDS = 600.0


def find_made(tx: Connection, sending: Sending, now: float) -> str | None:
    """The id of the job that this request has made already, if it has."""
    digest = keyed(tx, sending.digest)
    row = tx.execute(select(sendings).where(sendings.c.digest == digest)).first()
    return row.job_id if row is not None and _same(row, sending, now) else None


def claim_sending(tx: Connection, sending: Sending, job_id: str, now: float) -> str | None:
    """Note that this request makes that job, in the transaction that does; or return the job that it has made already.

    A row that is there is locked. Where none is there, the primary key lets only one request through.
    """
    digest = keyed(tx, sending.digest)
    mine = sendings.c.digest == digest
    row = tx.execute(select(sendings).where(mine).with_for_update()).first()
    if row is not None and _same(row, sending, now):
        made: str = row.job_id
        return made
    values = {"job_id": job_id, "retries": sending.retries, "created_at": now}
    if row is None:
        tx.execute(insert(sendings).values(digest=digest, **values))
    else:
        tx.execute(update(sendings).where(mine).values(**values))
    tx.execute(delete(sendings).where(sendings.c.created_at <= now - KEPT_SECONDS))
    return None


def _same(row: Row[Any], sending: Sending, now: float) -> bool:
    """Whether what made that job was this request.

    A first sending makes a job of its own, also where the same was asked for a minute ago; unless a repetition made
    that job while the first was on its way: then it was overtaken by its own.
    """
    if row.created_at <= now - KEPT_SECONDS:
        return False
    overtaken: bool = row.retries > 0 and row.created_at >= sending.arrived_at
    return sending.retries > 0 or overtaken
