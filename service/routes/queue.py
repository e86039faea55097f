"""`/queue`: what runs, what waits, and in which order."""

import asyncio
import time

from fastapi import APIRouter

from service.lines import Lines
from service.schemas.queue import WireQueues
from service.state import State, Tenant

router = APIRouter(tags=["fine-tuning"])


@router.get("/queue")
@router.get("/v1/queue", include_in_schema=False)
async def get_queue(state: State, tenant: Tenant) -> WireQueues:
    """For each base model what runs, and what waits in the order in which it would be taken up. Of others how many."""
    lines = Lines(state.ledger.queue, state.catalog.base_models)
    return await asyncio.to_thread(lines.look, tenant, time.time())
