"""`/v1/files`: upload a dataset once, train on it by id."""

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from service.repeats import Repeated
from service.room import RequireRoom
from service.schemas.adapters import WireDeleted
from service.schemas.files import WireFile, WireFileList, wire_file
from service.state import State
from service.uploads import answer, read_file_upload

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", response_model=WireFile, dependencies=[RequireRoom])
async def upload(request: Request, state: State, repetition: Repeated) -> Response:
    """Keep a file: a form with the file in `file`, and its `purpose`."""
    async with read_file_upload(request, state.incoming) as (saved, options):
        reply = await asyncio.to_thread(
            state.filing.keep, saved.path, saved.filename, options, repetition
        )
    return answer(reply)


@router.get("")
async def list_files(
    state: State,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> WireFileList:
    """Files, newest first unless told otherwise."""
    files = await asyncio.to_thread(
        state.ledger.files.list,
        after=after,
        limit=limit + 1,
        ascending=order == "asc",
        purpose=purpose,
    )
    return WireFileList.of(files, limit, wire_file)


@router.get("/{file_id}")
async def get_file(file_id: str, state: State) -> WireFile:
    """What is known of a file."""
    return wire_file(await asyncio.to_thread(state.ledger.files.get, file_id))


@router.get("/{file_id}/content")
async def content(file_id: str, state: State) -> FileResponse:
    """The bytes as they came."""
    file = await asyncio.to_thread(state.ledger.files.get, file_id)
    path = await asyncio.to_thread(state.ledger.files.path, file_id)
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.delete("/{file_id}")
async def delete(file_id: str, state: State) -> WireDeleted:
    """Forget a file."""
    await asyncio.to_thread(state.ledger.files.delete, file_id)
    return WireDeleted(id=file_id, object="file", deleted=True)
