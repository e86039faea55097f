"""`/v1/uploads`: a file too large for one request, in parts."""

import asyncio

from fastapi import APIRouter, Request, Response

from service.repeats import Repeated
from service.schemas.fields import checked
from service.schemas.files import (
    Completion,
    UploadOptions,
    WirePart,
    WireUpload,
    wire_part,
    wire_upload,
)
from service.state import State
from service.uploads import answer, read_json, read_part

router = APIRouter(prefix="/v1/uploads", tags=["files"])


@router.post("", response_model=WireUpload)
async def create(request: Request, state: State, repetition: Repeated) -> Response:
    """Begin an upload: what the file is called, what it is for, how many bytes it will have."""
    options = checked(UploadOptions, await read_json(request), where="POST /v1/uploads")
    reply = await asyncio.to_thread(state.filing.begin, options, repetition)
    return answer(reply)


@router.post("/{upload_id}/parts")
async def add_part(upload_id: str, request: Request, state: State) -> WirePart:
    """Keep a part: a form with the bytes in `data`. Parts may come in any order, and beside each other."""
    async with read_part(request, state.incoming) as path:
        return wire_part(await asyncio.to_thread(state.filing.add_part, upload_id, path))


@router.post("/{upload_id}/complete")
async def complete(upload_id: str, request: Request, state: State) -> WireUpload:
    """Make the parts that are named a file, in that order. Repeated, it answers the same."""
    where = "POST /v1/uploads/{id}/complete"
    completion = checked(Completion, await read_json(request), where=where)
    return wire_upload(await asyncio.to_thread(state.filing.complete, upload_id, completion))


@router.post("/{upload_id}/cancel")
async def cancel(upload_id: str, state: State) -> WireUpload:
    """End an upload; its parts are removed."""
    return wire_upload(await asyncio.to_thread(state.ledger.uploads.cancel, upload_id))
