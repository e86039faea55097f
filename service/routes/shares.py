"""`/adapters/{name}/shares`: who else may use an adapter, and for what."""

import asyncio

from fastapi import APIRouter, Request

from service.schemas.adapters import WireDeleted
from service.schemas.fields import checked
from service.schemas.shares import ShareOptions, WireShare, WireShareList, wire_share
from service.state import State
from service.uploads import read_json

router = APIRouter(tags=["adapters"])


@router.post("/adapters/{name}/shares", status_code=201)
@router.post("/v1/adapters/{name}/shares", status_code=201, include_in_schema=False)
async def put_share(name: str, request: Request, state: State) -> WireShare:
    """Let a tenant, or everybody (`*`), ask the adapter; and continue it, or fetch its files, if that is said."""
    body = await read_json(request)
    options = checked(ShareOptions, body, where="POST /adapters/{name}/shares")
    adapter = await asyncio.to_thread(state.ledger.sharing.put, name, options.share())
    await state.catalog.refresh()
    return next(wire_share(one) for one in adapter.shares if one.tenant == options.tenant)


@router.get("/adapters/{name}/shares")
@router.get("/v1/adapters/{name}/shares", include_in_schema=False)
async def list_shares(name: str, state: State) -> WireShareList:
    """With whom it is shared, by name. Its owner's to know."""
    shares = await asyncio.to_thread(state.ledger.sharing.list, name)
    return WireShareList(object="list", data=[wire_share(one) for one in shares], has_more=False)


@router.delete("/adapters/{name}/shares/{tenant}")
@router.delete("/v1/adapters/{name}/shares/{tenant}", include_in_schema=False)
async def end_share(name: str, tenant: str, state: State) -> WireDeleted:
    """Share it with that tenant, or with everybody, no longer. Requests that are running finish."""
    await asyncio.to_thread(state.ledger.sharing.end, name, tenant)
    await state.catalog.refresh()
    return WireDeleted(id=tenant, object="adapter.share", deleted=True)
