"""Answers to `POST /finetune` that wait for more than a durable job: for its end, or for its events."""

import asyncio
import json
import re
import time
from collections.abc import Iterable

from adapters.errors import Unavailable
from adapters.ledger import Changes, JobQueue, Topic
from adapters.records import Job, Reply
from service.hearing import heard, job_may_have_changed

#: Proxies cut connections that are silent for longer.
LONGEST_WAIT_S = 60
_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE | re.ASCII)
_EVENTS, _JSON = "text/event-stream", "application/json"


def preferred_wait(headers: Iterable[str]) -> int | None:
    """Seconds that `Prefer: wait=N` asks for (RFC 7240), at most 60; None where it does not. The first one counts."""
    for preference in ",".join(headers).split(","):
        if found := _WAIT.fullmatch(preference.partition(";")[0].strip()):
            return min(int(found[1]), LONGEST_WAIT_S)
    return None


def prefers_events(accept: str | None) -> bool:
    """Whether an `Accept` header names server-sent events, and does not like JSON better."""
    liked = dict(map(_media_range, (accept or "").split(",")))
    events = liked.get(_EVENTS, 0.0)
    return events > 0 and events >= liked.get(_JSON, 0.0)


def job_id_of(reply: Reply) -> str:
    """The job that an answer speaks of, also one that is given again for its idempotency key."""
    job_id: str = json.loads(reply.body)["id"]
    return job_id


async def wait_for_job(jobs: JobQueue, changes: Changes, job_id: str, seconds: float) -> Job | None:
    """The job as it stands once it has ended, or when the time is up; None where the database did not answer."""
    deadline, job = time.monotonic() + seconds, None
    with heard(changes, Topic.LOGGED) as news:
        while True:
            news.clear()
            try:
                job = await asyncio.to_thread(jobs.get, job_id)
            except Unavailable:
                job = None
            left = deadline - time.monotonic()
            if left <= 0 or (job is not None and job.status.terminal):
                return job
            await job_may_have_changed(news, changes, within=left)


def _media_range(text: str) -> tuple[str, float]:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    given = [one.partition("=")[2] for one in parameters if one.startswith("q=")]
    try:
        return media, float(given[0]) if given else 1.0
    except ValueError:
        return media, 0.0
