"""`/v1/fine_tuning`: the same jobs as `/finetune`, as OpenAI's clients ask for them."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from adapters.errors import InvalidValue
from service.events import SSE_HEADERS, follow_job, last_event_id
from service.finetune import FinetuneRequest
from service.repeats import Repeated
from service.results import read_points, thin
from service.routes.finetune import listed, shown
from service.schemas.dialect import parse_job_request
from service.schemas.jobs import WireEventList, WireJob, WireJobList, wire_event
from service.schemas.limits import WireLimits
from service.state import State
from service.uploads import answer, read_json, require_plain

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])

_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_EVENT = re.compile(r"ftevent-([0-9A-Za-z]+)-([0-9]{1,9})")


@router.post("/jobs", response_model=WireJob)
async def create(
    request: Request,
    state: State,
    repetition: Repeated,
) -> Response:
    """Train an adapter on an uploaded file. Bad rows fail the job; everything else that is wrong is said at once."""
    arrived_at = time.time()
    body = await read_json(request)
    require_plain(body)
    options = parse_job_request(body, state.catalog.base_models)
    if options.continue_from == body["model"]:
        await state.catalog.resolve(body["model"])
    asked = FinetuneRequest(
        options=options,
        data=None,
        validation=None,
        idempotency_key=repetition.key,
        openai=True,
        retries=repetition.tries_before,
        arrived_at=arrived_at,
    )
    reply = await asyncio.to_thread(state.intake.accept, asked)
    if not reply.replayed:
        state.metrics.jobs.submitted.inc()
    return answer(reply, await asyncio.to_thread(state.limits.told))


@router.get("/jobs")
async def list_jobs(
    request: Request,
    state: State,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> WireJobList:
    """Jobs, newest first: all, those with `metadata[k]=v`, or those without any (`metadata=null`)."""
    wanted, bare = _metadata(request.query_params.multi_items())
    jobs = await asyncio.to_thread(
        state.ledger.jobs.list, after=after, limit=limit + 1, metadata=wanted, bare=bare
    )
    return await listed(state, jobs, limit)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, state: State) -> WireJob:
    """One job, as it stands now."""
    job = await asyncio.to_thread(state.ledger.jobs.get, job_id)
    return await shown(state, job)


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, state: State) -> WireJob:
    """Stop a job; stopping it again is no error. There is no body to read."""
    job = await asyncio.to_thread(state.ledger.jobs.cancel, job_id)
    return await shown(state, job)


@router.get("/jobs/{job_id}/events", response_model=None)
async def events(
    job_id: str,
    request: Request,
    state: State,
    *,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    stream: bool = False,
) -> Response | WireEventList:
    """The log, newest first, in pages that go back from `after`; or, with `stream`, as it is written."""
    await asyncio.to_thread(state.ledger.jobs.get, job_id)
    seq = _seq(job_id, after) if after else None
    if stream:
        start = last_event_id(request.headers.get("last-event-id"), seq or 0)
        log = follow_job(state.ledger.jobs, state.ledger.changes, job_id, after=start)
        return StreamingResponse(log, 200, SSE_HEADERS, "text/event-stream")
    found = await asyncio.to_thread(
        state.ledger.jobs.latest_events, job_id, before=seq, limit=limit + 1
    )
    return WireEventList.of(found, limit, wire_event)


@router.get("/jobs/{job_id}/metrics")
async def metrics(
    job_id: str,
    state: State,
    step_from: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    to: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    resolution: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    """What the job has measured from step to step, in at most `resolution` points."""
    await asyncio.to_thread(state.ledger.jobs.get, job_id)
    measured = await asyncio.to_thread(read_points, state.ledger.jobs, job_id)
    last = measured[-1].step if to is None and measured else to or 0
    within = [point for point in measured if step_from <= point.step <= last]
    series = thin(within, resolution)
    return {"object": "list", "job_id": job_id, "steps": len(within), "data": series}


@router.get("/model_limits")
async def model_limits(state: State) -> dict[str, WireLimits]:
    """What may be asked for of each base model, and how busy it is."""
    return await asyncio.to_thread(state.limits.look)


def _metadata(query: Sequence[tuple[str, str]]) -> tuple[Mapping[str, str], bool]:
    """What `metadata[k]=v` asks for, and whether `metadata=null` does."""
    wanted: dict[str, str] = {}
    bare = False
    for name, value in query:
        if match := _METADATA.fullmatch(name):
            wanted[match[1]] = value
        elif name == "metadata":
            if value != "null":
                raise InvalidValue(
                    "Ask for metadata[key]=value, or for metadata=null.", param="metadata"
                )
            bare = True
    return wanted, bare


def _seq(job_id: str, event_id: str) -> int:
    match = _EVENT.fullmatch(event_id)
    if match is None or match[1] != job_id.removeprefix("ftjob-"):
        raise InvalidValue(f"The job {job_id} has no event '{event_id:.80}'.", param="after")
    return int(match[2])
