"""Stopping a job for a while, and letting it go on. The body may be empty: OpenAI's SDK sends none."""

import asyncio

from fastapi import APIRouter

from service.routes.finetune import shown
from service.schemas.jobs import WireJob
from service.state import State

router = APIRouter(tags=["fine-tuning"])


@router.post("/v1/fine_tuning/jobs/{job_id}/pause")
@router.post("/finetune/{job_id}/pause")
@router.post("/v1/finetune/{job_id}/pause", include_in_schema=False)
async def pause(job_id: str, state: State) -> WireJob:
    """Stop a job until it is resumed. What it has learned so far is kept."""
    return await shown(state, await asyncio.to_thread(state.ledger.jobs.pause, job_id))


@router.post("/v1/fine_tuning/jobs/{job_id}/resume")
@router.post("/finetune/{job_id}/resume")
@router.post("/v1/finetune/{job_id}/resume", include_in_schema=False)
async def resume(job_id: str, state: State) -> WireJob:
    """Let a paused job go on from where it was, in its old place in the queue."""
    return await shown(state, await asyncio.to_thread(state.ledger.jobs.resume, job_id))
