"""`/finetune`: ask for an adapter, follow the job, cancel it."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from adapters.records import Job
from service.events import SSE_HEADERS, follow_job, last_event_id
from service.schemas.jobs import WireJob, WireJobList, wire_job
from service.state import ServiceState, State
from service.uploads import read_finetune_request

router = APIRouter(tags=["fine-tuning"])


@router.post("/finetune", status_code=202, response_model=WireJob)
@router.post("/v1/finetune", status_code=202, response_model=WireJob, include_in_schema=False)
async def create(
    request: Request,
    state: State,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Response:
    """Train an adapter on the data in this request. Answers once the job is durable; training follows."""
    async with read_finetune_request(request, state.incoming, idempotency_key) as asked:
        reply = await asyncio.to_thread(state.intake.accept, asked)
    state.metrics.jobs_submitted.inc()
    headers = {"Retry-After": "2"} | ({"Location": reply.location} if reply.location else {})
    return Response(reply.body, reply.status, headers, "application/json")


@router.get("/finetune")
@router.get("/v1/finetune", include_in_schema=False)
async def list_jobs(
    state: State,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> WireJobList:
    """Jobs, newest first."""
    jobs = list(await asyncio.to_thread(state.ledger.jobs.list, after=after, limit=limit + 1))
    page = [await shown(state, job) for job in jobs[:limit]]
    return WireJobList(
        object="list",
        data=page,
        has_more=len(jobs) > limit,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )


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
    after: Annotated[int, Query(ge=0)] = 0,
) -> StreamingResponse:
    """The job's log as server-sent events, from the start or after `Last-Event-ID`, until the job has ended."""
    await asyncio.to_thread(state.ledger.jobs.get, job_id)
    start = last_event_id(request.headers.get("last-event-id"), after)
    stream = follow_job(state.ledger.jobs, job_id, after=start)
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
    position = await asyncio.to_thread(state.ledger.jobs.position, job)
    return wire_job(
        job, position=position, now=time.time(), openai_status=state.openai_strict_status
    )
