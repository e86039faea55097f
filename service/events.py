"""A job's log as server-sent events (WHATWG HTML, section 9.2)."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from adapters.errors import Unavailable
from adapters.ledger import Changes, JobQueue, Topic
from adapters.records import Event, Job
from service.hearing import POLL_S, heard, job_may_have_changed
from service.schemas.jobs import wire_event, wire_job

SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_KEEP_ALIVE_S = 15.0
_RETRY_MS = 1000
_AT_ONCE = 1000


def last_event_id(header: str | None, after: int) -> int:
    """Where to continue: a client's `Last-Event-ID`, else the query's `after`."""
    return int(header) if header and re.fullmatch("[0-9]{1,9}", header) else after


async def follow_job(
    jobs: JobQueue, changes: Changes, job_id: str, *, after: int, created: str | None = None
) -> AsyncIterator[bytes]:
    """Everything in the log after a sequence number, then what comes, then `done` with the job itself.

    Read from the ledger and not from memory: it is the same after a restart of the service, and on every replica.
    `created` is the job as the answer to its creation has it, in JSON, which comes first as the event `job`.
    """
    yield format_sse_event(data_str=None, retry=_RETRY_MS)
    if created is not None:
        yield format_sse_event(data_str=created, event="job")
    spoke = time.monotonic()
    async with aclosing(_looks(jobs, changes, job_id, after)) as looks:
        async for job, events in looks:
            for event in events:
                body = json.dumps(wire_event(event).model_dump())
                yield format_sse_event(data_str=body, event=event.kind.value, id=str(event.seq))
            if job.status.terminal and not events:
                body = wire_job(job, now=time.time()).model_dump_json()
                yield format_sse_event(data_str=body, event="done")
                return
            if events:
                spoke = time.monotonic()
            elif time.monotonic() - spoke > _KEEP_ALIVE_S:
                yield KEEPALIVE_COMMENT
                spoke = time.monotonic()


async def _looks(
    jobs: JobQueue, changes: Changes, job_id: str, after: int
) -> AsyncGenerator[tuple[Job, Sequence[Event]]]:
    """The job, and what its log says since the look before; whenever there may be more, and now and then."""

    def look() -> tuple[Job, Sequence[Event]]:
        # The job before its events: what is terminal here has written all of them.
        return jobs.get(job_id), jobs.events(job_id, after=after, limit=_AT_ONCE)

    with heard(changes, Topic.LOGGED) as news:
        while True:
            news.clear()
            try:
                job, events = await asyncio.to_thread(look)
            except Unavailable:
                await asyncio.sleep(POLL_S)
                continue
            yield job, events
            after = events[-1].seq if events else after
            if not job.status.terminal and len(events) < _AT_ONCE:
                await job_may_have_changed(news, changes, within=_KEEP_ALIVE_S)
