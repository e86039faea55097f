"""`/healthz`: the process lives. `/readyz`: it can answer from every base model. `/metrics`: for Prometheus."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.state import Whole, is_known

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Always 200 while the process serves."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(request: Request, state: Whole) -> JSONResponse:
    """200 when ledger and engines answer and the service stays, else 503. Counts jobs where there are no keys."""
    counts = await asyncio.to_thread(state.ledger.jobs.count)
    engines: dict[str, Any] = {
        model_id: "up" if up else f"starting, about {state.engines[model_id].retry_after():.0f} s"
        for model_id, up in state.engines.up.items()
    }
    leaving = state.leaving()
    ready = all(state.engines.up.values()) and not leaving
    status = "leaving" if leaving else "ready" if ready else "starting"
    body: dict[str, Any] = {"status": status, "engines": engines}
    if is_known(request):
        body["jobs"] = counts
    return JSONResponse(body, 200 if ready else 503, {} if ready else {"Retry-After": "5"})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(state: Whole) -> Response:
    """Every instrument in Prometheus's text format."""
    for status, number in (await asyncio.to_thread(state.ledger.jobs.count)).items():
        state.metrics.jobs.labels(status).set(number)
    now = time.time()
    for model_id, load in (await asyncio.to_thread(state.limits.loads)).items():
        state.metrics.queue_depth.labels(model_id).set(load.queued)
        waited = max(0.0, now - load.oldest) if load.oldest is not None else 0.0
        state.metrics.queue_age_seconds.labels(model_id).set(waited)
    state.metrics.adapters.set(len(state.catalog.adapters))
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
