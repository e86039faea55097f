"""`/adapters`: what has been trained, and its files."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import StreamingResponse

from adapters.errors import AdapterNotFound, InvalidRequest
from adapters.names import parse_fine_tuned_name, parse_model_name
from adapters.records import Adapter, Version
from adapters.sharing import Use
from service.schemas.adapters import (
    WireAdapterEntry,
    WireAdapterList,
    WireDeleted,
    wire_adapter,
)
from service.state import ServiceState, State, Tenant
from service.tar import tar_stream

router = APIRouter(tags=["adapters"])


@router.get("/adapters")
@router.get("/v1/adapters", include_in_schema=False)
async def list_adapters(state: State, tenant: Tenant) -> WireAdapterList:
    """All adapters, by name: one's own, and what others share."""
    adapters = await asyncio.to_thread(state.ledger.registry.list)
    entries = [shown(state, adapter, asking=tenant) for adapter in adapters]
    return WireAdapterList(object="list", data=entries, has_more=False)


@router.get("/adapters/{name}")
@router.get("/v1/adapters/{name}", include_in_schema=False)
async def get_adapter(name: str, state: State, tenant: Tenant) -> WireAdapterEntry:
    """One adapter with its versions."""
    adapter = await asyncio.to_thread(state.ledger.registry.get, name, Use.ASK)
    return shown(state, adapter, asking=tenant)


@router.post("/adapters/{name}/recheck")
@router.post("/v1/adapters/{name}/recheck", include_in_schema=False)
async def recheck(
    name: str, version: Annotated[int, Body(embed=True, ge=1, lt=2**31)], state: State
) -> WireAdapterEntry:
    """Compare a version with its probes anew before it is used again. It may have been quarantined."""
    await asyncio.to_thread(state.ledger.verdicts.recheck, name, version)
    await state.catalog.refresh()
    adapter = await asyncio.to_thread(state.ledger.registry.get, name)
    host, meant = state.engines.get(adapter.base_model), adapter.version(version)
    if host is not None and meant is not None:
        host.residency.doubt(meant)
    return shown(state, adapter)


@router.get("/adapters/{name}/download")
@router.get("/v1/adapters/{name}/download", include_in_schema=False)
async def download(name: str, state: State) -> StreamingResponse:
    """A version's PEFT directory as a tar; the bare name means the live version, `name@alias` the alias's."""
    version = await _find_version(state, name, Use.DOWNLOAD)
    directory = await asyncio.to_thread(state.ledger.registry.directory, version)
    headers = {
        "Content-Disposition": f'attachment; filename="{version.adapter}-{version.number}.tar"'
    }
    return StreamingResponse(
        tar_stream(directory, version.name.replace("@", "-")), 200, headers, "application/x-tar"
    )


@router.delete("/adapters/{name}")
@router.delete("/v1/adapters/{name}", include_in_schema=False)
async def delete(name: str, state: State) -> WireDeleted:
    """Delete an adapter with all versions, or `name@N` alone. Requests that are running finish."""
    registry = state.ledger.registry
    if parse_model_name(name).selector is None and parse_fine_tuned_name(name) is None:
        await asyncio.to_thread(registry.delete, name)
    else:
        version = await _find_version(state, name, Use.CHANGE)
        _refuse_alias(name, version)
        await asyncio.to_thread(registry.delete_version, version.adapter, version.number)
    await state.catalog.refresh()
    return WireDeleted(id=name, object="adapter", deleted=True)


async def _find_version(state: ServiceState, name: str, use: Use) -> Version:
    if parse_fine_tuned_name(name) is not None:
        return await asyncio.to_thread(state.ledger.registry.resolve, name, use)
    parsed = parse_model_name(name)
    adapter = await asyncio.to_thread(state.ledger.registry.get, parsed.adapter, use)
    found = adapter.select(parsed.selector)
    if found is None:
        known = ", ".join(version.name for version in adapter.versions)
        raise AdapterNotFound(f"There is no version '{name}'. There are: {known}.", param="name")
    return found


def _refuse_alias(name: str, version: Version) -> None:
    """An alias may be moved by somebody else at any moment; what is deleted for good is named itself."""
    alias = parse_model_name(name).selector
    if parse_fine_tuned_name(name) is None and f"{version.adapter}@{alias}" != version.name:
        raise InvalidRequest(
            f"'{name}' is an alias, of {version.name}. DELETE /adapters/{version.adapter}/aliases/{alias} removes "
            f"the alias; DELETE /adapters/{version.name} the version, once no alias points at it.",
            param="name",
        )


def shown(state: ServiceState, adapter: Adapter, *, asking: str | None = None) -> WireAdapterEntry:
    """The adapter on the wire, with what its engine has loaded; see `wire_adapter`."""
    host = state.engines.get(adapter.base_model)
    resident = frozenset(host.residency.resident) if host else frozenset()
    return wire_adapter(adapter, resident, asking=asking)
