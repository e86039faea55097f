"""`/healthz`: the process lives. `/readyz`: it can answer from every base model. `/metrics`: for Prometheus."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

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
    return Response(await state.scrape.own(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/metrics/engines", response_class=PlainTextResponse)
async def engine_metrics(state: Whole) -> Response:
    """What the engines that answer say of themselves: vLLM's own metrics, by base model."""
    return Response(await state.scrape.engines_own(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
