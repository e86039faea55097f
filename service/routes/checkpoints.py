"""What a job's adapter was at the end of its latest epochs."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query

from service.schemas.checkpoints import WireCheckpointList, wire_checkpoint
from service.state import State

router = APIRouter(tags=["fine-tuning"])


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
@router.get("/finetune/{job_id}/checkpoints")
@router.get("/v1/finetune/{job_id}/checkpoints", include_in_schema=False)
async def list_checkpoints(
    job_id: str,
    state: State,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> WireCheckpointList:
    """A job's checkpoints, newest first. Each can be asked under its name."""
    found = await asyncio.to_thread(
        state.ledger.checkpoints.list, job_id, after=after, limit=limit + 1
    )
    return WireCheckpointList.of(found, limit, wire_checkpoint)
