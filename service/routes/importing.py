"""`POST /adapters`: an adapter that was trained elsewhere."""

import asyncio

from fastapi import APIRouter, Request, Response

from service.room import RequireRoom
from service.schemas.adapters import WireImport, wire_import
from service.schemas.importing import SourceOptions
from service.state import State
from service.uploads import read_import

router = APIRouter(tags=["adapters"])


@router.post(
    "/adapters",
    status_code=201,
    dependencies=[RequireRoom],
    responses={200: {"model": WireImport, "description": "These files had been brought before."}},
)
@router.post("/v1/adapters", status_code=201, dependencies=[RequireRoom], include_in_schema=False)
async def bring_in(request: Request, response: Response, state: State) -> WireImport:
    """Make a PEFT adapter a version: a form with a tar in `archive`, or JSON with its `source`."""
    importer = state.importer
    async with read_import(request, state.incoming) as (archive, options):
        state.generator.check_defaults(options.defaults.given)
        if isinstance(options, SourceOptions):
            taken = asyncio.to_thread(importer.take_source, options, state.incoming)
        else:
            taken = asyncio.to_thread(importer.take_archive, archive, options)
        version, new = await taken
    await state.catalog.refresh()
    response.status_code = 201 if new else 200
    adapter = await asyncio.to_thread(state.ledger.registry.get, version.adapter)
    host = state.engines.get(adapter.base_model)
    resident = frozenset(host.residency.resident) if host else frozenset()
    return wire_import(adapter, version, resident)
