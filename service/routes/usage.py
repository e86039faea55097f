"""`GET /v1/usage`: what a tenant uses, and what it may use."""

import asyncio

from fastapi import APIRouter

from service.rates import Rate
from service.schemas.usage import WireQueued, WireRate, WireStored, WireUsage
from service.state import ServiceState, State, Tenant

router = APIRouter(tags=["keys"])


@router.get("/v1/usage")
async def get_usage(state: State, tenant: Tenant) -> WireUsage:
    """Bytes that are kept, jobs that wait, requests and tokens of the last minute; each with its bound."""
    return await asyncio.to_thread(_look, state, tenant)


def _look(state: ServiceState, tenant: str) -> WireUsage:
    storage, board, rates = state.ledger.storage, state.ledger.queue, state.rates.look()
    stored, room = storage.measure(), board.room()
    return WireUsage(
        object="usage",
        tenant=tenant,
        stored=WireStored(
            bytes=stored.total,
            limit=storage.limit,
            files=stored.files,
            uploads=stored.uploads,
            versions=stored.versions,
            checkpoints=stored.checkpoints,
        ),
        jobs=WireQueued(
            queued=room.queued, limit=room.limit, highest_priority=board.highest_priority.value
        ),
        requests=_wired(rates.get("requests")),
        tokens=_wired(rates.get("tokens")),
    )


def _wired(rate: Rate | None) -> WireRate | None:
    if rate is None:
        return None
    return WireRate(
        limit_per_minute=rate.limit, remaining=rate.remaining, reset_seconds=round(rate.reset, 3)
    )
