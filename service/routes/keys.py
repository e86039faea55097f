"""`/v1/keys`: the operator's view of everybody's API keys. The first key is made with `graft keys create`."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.schemas.adapters import WireDeleted
from service.schemas.fields import checked
from service.schemas.keys import (
    KeyOptions,
    WireKeyList,
    WireMadeKey,
    wire_key,
    wire_made_key,
)
from service.state import Whole
from service.uploads import read_json, require_plain

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("")
async def create(request: Request, state: Whole) -> WireMadeKey:
    """Make a key for a tenant. It is shown here and never again."""
    body = await read_json(request)
    require_plain(body)
    options = checked(KeyOptions, body, where="POST /v1/keys")
    return wire_made_key(await asyncio.to_thread(state.ledger.keys.make, options.new_key()))


@router.get("")
async def list_keys(
    state: Whole,
    tenant: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> WireKeyList:
    """Keys, newest first, revoked and expired ones too."""
    found = await asyncio.to_thread(
        state.ledger.keys.list, tenant=tenant, after=after, limit=limit + 1
    )
    page = [wire_key(key) for key in found[:limit]]
    return WireKeyList(
        object="list",
        data=page,
        has_more=len(found) > limit,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
    )


@router.delete("/{key_id}")
async def revoke(key_id: str, state: Whole) -> WireDeleted:
    """Make a key good for nothing, within seconds. Again, it answers the same."""
    key = await asyncio.to_thread(state.ledger.keys.revoke, key_id)
    return WireDeleted(id=key.id, object="api_key.deleted", deleted=True)
