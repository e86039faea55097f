"""`/v1/webhook_endpoints`: who is told what becomes of jobs, and what they were told."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from adapters.webhooks import Happening
from service.schemas.adapters import WireDeleted
from service.schemas.webhooks import (
    EndpointChange,
    EndpointOptions,
    RotationOptions,
    TestOptions,
    WireDelivery,
    WireDeliveryList,
    WireEndpoint,
    WireEndpointList,
    WireEndpointWithSecret,
    parse,
    wire_delivery,
    wire_endpoint,
    wire_endpoint_with_secret,
)
from service.state import State

router = APIRouter(prefix="/v1", tags=["webhooks"])
Fields = Annotated[dict[str, Any], Body()]
Limit = Annotated[int, Query(ge=1, le=100)]
_ONE = "/webhook_endpoints/{endpoint_id}"


@router.post("/webhook_endpoints")
async def create(body: Fields, state: State) -> WireEndpointWithSecret:
    """Tell a URL what becomes of jobs. The secret is shown here and never again."""
    asked = parse(EndpointOptions, body, where="POST /v1/webhook_endpoints")
    made = await asyncio.to_thread(state.endpoints.create, asked)
    return wire_endpoint_with_secret(made)


@router.get("/webhook_endpoints")
async def list_endpoints(
    state: State, after: str | None = None, limit: Limit = 20
) -> WireEndpointList:
    """Endpoints, newest first."""
    found = await asyncio.to_thread(state.ledger.webhooks.list, after=after, limit=limit + 1)
    return WireEndpointList.of(found, limit, wire_endpoint)


@router.get("/webhook_event_types")
async def event_types() -> dict[str, Any]:
    """What can be told."""
    return {"object": "list", "data": [happening.value for happening in Happening]}


@router.get(_ONE)
async def get_endpoint(endpoint_id: str, state: State) -> WireEndpoint:
    """One endpoint."""
    return wire_endpoint(await asyncio.to_thread(state.ledger.webhooks.get, endpoint_id))


@router.post(_ONE)
async def update(endpoint_id: str, body: Fields, state: State) -> WireEndpoint:
    """Change what is given; `enabled` and a new URL bring a disabled endpoint back."""
    asked = parse(EndpointChange, body, where="an update of a webhook endpoint")
    return wire_endpoint(await asyncio.to_thread(state.endpoints.update, endpoint_id, asked))


@router.delete(_ONE)
async def delete(endpoint_id: str, state: State) -> WireDeleted:
    """Tell it nothing more, also not what is still waiting."""
    await asyncio.to_thread(state.ledger.webhooks.delete, endpoint_id)
    return WireDeleted(id=endpoint_id, object="webhook_endpoint.deleted", deleted=True)


@router.post(_ONE + "/test")
async def test(endpoint_id: str, body: Fields, state: State) -> dict[str, Any]:
    """Send a signed sample now, and answer with the status that came back."""
    asked = parse(TestOptions, body, where="a test of a webhook endpoint")
    endpoint = await asyncio.to_thread(state.ledger.webhooks.get, endpoint_id)
    status = await state.endpoints.test(endpoint, asked.event_type)
    return {
        "object": "webhook_endpoint.test",
        "event_type": asked.event_type.value,
        "status_code": status,
        "success": True,
        "webhook_endpoint_id": endpoint_id,
    }


@router.post(_ONE + "/rotate_secret")
async def rotate_secret(
    endpoint_id: str, state: State, body: Annotated[dict[str, Any] | None, Body()] = None
) -> WireEndpointWithSecret:
    """Sign with a fresh secret, and for a day with the old one too if that is asked for."""
    asked = parse(RotationOptions, body or {}, where="a rotation")
    keep = asked.keep_old_secret_active_for_24_hours
    rotated = await asyncio.to_thread(state.endpoints.rotate, endpoint_id, keep_old=keep)
    return wire_endpoint_with_secret(rotated)


@router.get(_ONE + "/deliveries")
async def deliveries(
    endpoint_id: str, state: State, after: str | None = None, limit: Limit = 20
) -> WireDeliveryList:
    """What the endpoint was told and is to be told, newest first."""
    found = await asyncio.to_thread(
        state.ledger.webhooks.deliveries, endpoint_id, after=after, limit=limit + 1
    )
    return WireDeliveryList.of(found, limit, wire_delivery)


@router.post(_ONE + "/deliveries/{delivery_id}/retry")
async def retry(endpoint_id: str, delivery_id: str, state: State) -> WireDelivery:
    """Make a delivery again, now."""
    again = await asyncio.to_thread(state.ledger.webhooks.retry, endpoint_id, delivery_id)
    return wire_delivery(again)
