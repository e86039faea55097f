"""A job's events, through broken connections and restarts of the service."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from cli.client import GraftClient, Refused, Unreachable
from cli.sse import ServerEvent
from cli.wire import Job, JobEvent

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The connection is gone; it will be tried again in so many seconds."""

    seconds: float


def follow(
    client: GraftClient, job_id: str, sleep: Callable[[float], None] = time.sleep
) -> Iterator[JobEvent | Interrupted | Job]:
    """Every event once, in order; the last item is the ended job.

    The server keeps the log and numbers it. So a break costs nothing but time: we name the last event that we have.

    Raises:
        Refused: the server knows no such job.
    """
    seen, pause = "", FIRST_PAUSE
    while True:
        try:
            with client.events(job_id, seen) as events:
                for event in events:
                    seen, pause = event.id or seen, FIRST_PAUSE
                    item = _read(event)
                    yield item
                    if isinstance(item, Job):
                        return
        except Unreachable:
            pass  # told below, like a connection that ended politely but too early
        except Refused as refused:
            if not refused.passing:
                raise
        yield Interrupted(pause)
        sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def history(client: GraftClient, job_id: str) -> Iterator[JobEvent]:
    """What has happened so far: a replay ends with the job, or with a second of silence."""
    with suppress(Unreachable), client.events(job_id, "", silence=1.0) as events:
        for event in events:
            item = _read(event)
            if isinstance(item, Job):
                return
            yield item


def _read(event: ServerEvent) -> JobEvent | Job:
    if event.event == "done":
        return Job.model_validate_json(event.data)
    told = JobEvent.model_validate_json(event.data)
    return told.model_copy(update={"type": event.event})  # the body knows only OpenAI's two types
