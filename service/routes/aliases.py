"""Which version of an adapter answers: aliases, promoting, rolling back; and with what sampling defaults."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body

from adapters.records import Adapter
from adapters.sampling import Sampling
from service.routes.adapters import shown
from service.schemas.adapters import WireAdapterEntry
from service.schemas.aliases import AliasOptions, PromoteOptions, RollbackOptions
from service.schemas.fields import checked
from service.state import ServiceState, State

router = APIRouter(tags=["adapters"])
Fields = Annotated[dict[str, Any], Body()]
MaybeFields = Annotated[dict[str, Any] | None, Body()]


@router.put("/adapters/{name}/aliases/{alias}")
@router.put("/v1/adapters/{name}/aliases/{alias}", include_in_schema=False)
async def point(name: str, alias: str, body: Fields, state: State) -> WireAdapterEntry:
    """Point an alias at a version, and give `canary` or `shadow` a share of the requests for the bare name."""
    asked = checked(AliasOptions, body, where="an alias")
    adapter = await asyncio.to_thread(
        state.ledger.aliases.point,
        name,
        alias,
        asked.version,
        weight=asked.weight,
        expected=asked.expected,
    )
    return await _followed(state, adapter)


@router.delete("/adapters/{name}/aliases/{alias}")
@router.delete("/v1/adapters/{name}/aliases/{alias}", include_in_schema=False)
async def remove(name: str, alias: str, state: State) -> WireAdapterEntry:
    """Remove an alias other than `live`; one that is not there is no error."""
    return await _followed(state, await asyncio.to_thread(state.ledger.aliases.remove, name, alias))


@router.post("/adapters/{name}/promote")
@router.post("/v1/adapters/{name}/promote", include_in_schema=False)
async def promote(name: str, body: Fields, state: State) -> WireAdapterEntry:
    """Make a version the live one: from the next request on, the bare name means it."""
    asked = checked(PromoteOptions, body, where="a promotion")
    aliases = state.ledger.aliases
    if asked.alias is not None:
        adapter = await asyncio.to_thread(
            aliases.promote_alias, name, asked.alias, expected=asked.expected
        )
    else:
        adapter = await asyncio.to_thread(
            aliases.promote, name, asked.chosen, expected=asked.expected
        )
    return await _followed(state, adapter)


@router.post("/adapters/{name}/rollback")
@router.post("/v1/adapters/{name}/rollback", include_in_schema=False)
async def rollback(name: str, state: State, body: MaybeFields = None) -> WireAdapterEntry:
    """Make the version live again that was live before. The body may be empty."""
    asked = checked(RollbackOptions, body or {}, where="a rollback")
    adapter = await asyncio.to_thread(state.ledger.aliases.roll_back, name, expected=asked.expected)
    return await _followed(state, adapter)


@router.put("/adapters/{name}/defaults")
@router.put("/v1/adapters/{name}/defaults", include_in_schema=False)
async def set_defaults(name: str, body: Fields, state: State) -> WireAdapterEntry:
    """Replace what requests for the adapter are given where they leave something open; `{}` takes all away."""
    sampling = checked(Sampling, body, where="sampling defaults").given
    state.generator.check_defaults(sampling)
    adapter = await asyncio.to_thread(state.ledger.aliases.set_sampling, name, sampling)
    return await _followed(state, adapter)


async def _followed(state: ServiceState, adapter: Adapter) -> WireAdapterEntry:
    """The answer, once this process goes by what has changed; others follow when they are told."""
    await state.catalog.refresh()
    return shown(state, adapter)
