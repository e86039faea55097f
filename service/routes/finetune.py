"""`/finetune`: ask for an adapter, follow the job, cancel it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from adapters.records import Job, Reply
from service.events import SSE_HEADERS, follow_job, last_event_id
from service.repeats import Repeated
from service.room import RequireRoom
from service.schemas.jobs import WireJob, WireJobList, wire_job
from service.state import ServiceState, State
from service.uploads import read_finetune_request, replayed
from service.waiting import job_id_of, preferred_wait, prefers_events, wait_for_job

router = APIRouter(tags=["fine-tuning"])


@router.post("/finetune", status_code=202, response_model=WireJob, dependencies=[RequireRoom])
@router.post(
    "/v1/finetune",
    status_code=202,
    response_model=WireJob,
    dependencies=[RequireRoom],
    include_in_schema=False,
)
async def create(
    request: Request,
    state: State,
    repetition: Repeated,
    prefer: Annotated[list[str] | None, Header()] = None,
) -> Response:
    """Train an adapter on the data in this request. Answers once the job is durable; training follows.

    `Accept: text/event-stream` streams the job's events; `Prefer: wait=N` answers when the job has ended, or after N
    seconds. Whoever leaves early cancels nothing. With `dry_run` there is no job, but an estimate of one.
    """
    async with read_finetune_request(
        request, state.incoming, repetition.key, beside=("dry_run",)
    ) as asked:
        if asked.aside.dry_run:
            estimate = await state.lookout.estimate(asked)
            return Response(estimate.model_dump_json(), 200, media_type="application/json")
        reply = await asyncio.to_thread(state.intake.accept, asked)
    if not reply.replayed:
        state.metrics.jobs.submitted.inc()
    room = await asyncio.to_thread(state.limits.told)
    if prefers_events(request.headers.get("accept")):
        return _streamed(state, reply, room)
    seconds = preferred_wait(prefer or [])
    return _told(reply, room) if seconds is None else await _awaited(state, reply, seconds, room)


@router.get("/finetune")
@router.get("/v1/finetune", include_in_schema=False)
async def list_jobs(
    state: State,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> WireJobList:
    """Jobs, newest first."""
    jobs = list(await asyncio.to_thread(state.ledger.jobs.list, after=after, limit=limit + 1))
    return await listed(state, jobs, limit)


@router.get("/finetune/{job_id}")
@router.get("/v1/finetune/{job_id}", include_in_schema=False)
async def get_job(job_id: str, state: State) -> WireJob:
    """One job, as it stands now."""
    return await shown(state, await asyncio.to_thread(state.ledger.jobs.get, job_id))


@router.get("/finetune/{job_id}/events")
@router.get("/v1/finetune/{job_id}/events", include_in_schema=False)
async def events(
    job_id: str,
    request: Request,
    state: State,
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> StreamingResponse:
    """The job's log as server-sent events, from the start or after `Last-Event-ID`, until the job has ended."""
    await asyncio.to_thread(state.ledger.jobs.get, job_id)
    start = last_event_id(request.headers.get("last-event-id"), after)
    stream = follow_job(state.ledger.jobs, state.ledger.changes, job_id, after=start)
    return StreamingResponse(stream, 200, SSE_HEADERS, "text/event-stream")


@router.post("/finetune/{job_id}/cancel")
@router.post("/v1/finetune/{job_id}/cancel", include_in_schema=False)
@router.delete("/finetune/{job_id}")
@router.delete("/v1/finetune/{job_id}", include_in_schema=False)
async def cancel(job_id: str, state: State) -> WireJob:
    """Stop a job. What it has learned so far is not published."""
    return await shown(state, await asyncio.to_thread(state.ledger.jobs.cancel, job_id))


async def shown(state: ServiceState, job: Job) -> WireJob:
    """The job as clients see it now."""
    return (await asyncio.to_thread(_wire, state, [job]))[0]


async def listed(state: ServiceState, jobs: Sequence[Job], limit: int) -> WireJobList:
    """A page of them; `jobs` has one more than `limit` where there is another page."""
    return await asyncio.to_thread(_page, state, jobs, limit)


def _page(state: ServiceState, jobs: Sequence[Job], limit: int) -> WireJobList:
    shown = jobs[:limit]
    wired = {job.id: wire for job, wire in zip(shown, _wire(state, shown), strict=True)}
    return WireJobList.of(jobs, limit, lambda job: wired[job.id])


def _wire(state: ServiceState, jobs: Sequence[Job]) -> list[WireJob]:
    places, strict = state.ledger.queue.places(jobs), state.openai_strict_status
    return [
        wire_job(job, place=places.get(job.id), now=time.time(), openai_status=strict)
        for job in jobs
    ]


def _told(reply: Reply, more: dict[str, str]) -> Response:
    headers = _beside(reply) | {"Retry-After": "2"} | more
    return Response(reply.body, reply.status, headers, "application/json")


async def _awaited(
    state: ServiceState, reply: Reply, seconds: int, room: dict[str, str]
) -> Response:
    """The job once it has ended, with 200; else as it stands when the time is up, with the status it was taken in."""
    applied = room | {"Preference-Applied": f"wait={seconds}"}
    job = await wait_for_job(state.ledger.jobs, state.ledger.changes, job_id_of(reply), seconds)
    if job is None:
        return _told(reply, applied)
    body = (await shown(state, job)).model_dump_json()
    if not job.status.terminal:
        return _told(replace(reply, body=body), applied)
    return Response(body, 200, _beside(reply) | applied, "application/json")


def _streamed(state: ServiceState, reply: Reply, room: dict[str, str]) -> StreamingResponse:
    stream = follow_job(
        state.ledger.jobs, state.ledger.changes, job_id_of(reply), after=0, created=reply.body
    )
    headers = _beside(reply) | SSE_HEADERS | room
    return StreamingResponse(stream, 200, headers, "text/event-stream")


def _beside(reply: Reply) -> dict[str, str]:
    location = {"Location": reply.location} if reply.location else {}
    return location | replayed(reply)
