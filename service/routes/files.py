"""`/v1/files`: upload a dataset once, train on it by id."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from adapters.records import File
from service.state import State
from service.uploads import read_file_upload

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("")
async def upload(request: Request, state: State) -> dict[str, Any]:
    """Keep a file: a form with the file in `file`, and its `purpose`."""
    async with read_file_upload(request, state.incoming) as (saved, purpose):
        kept = await asyncio.to_thread(
            state.ledger.files.add, saved.path, filename=saved.filename, purpose=purpose
        )
    return _wire(kept)


@router.get("")
async def list_files(state: State) -> dict[str, Any]:
    """All files, newest first."""
    files = await asyncio.to_thread(state.ledger.files.list)
    return {"object": "list", "data": [_wire(file) for file in files], "has_more": False}


@router.get("/{file_id}")
async def get_file(file_id: str, state: State) -> dict[str, Any]:
    """What is known of a file."""
    return _wire(await asyncio.to_thread(state.ledger.files.get, file_id))


@router.get("/{file_id}/content")
async def content(file_id: str, state: State) -> FileResponse:
    """The bytes as they came."""
    path = await asyncio.to_thread(state.ledger.files.path, file_id)
    return FileResponse(path, media_type="application/octet-stream")


@router.delete("/{file_id}")
async def delete(file_id: str, state: State) -> dict[str, Any]:
    """Forget a file."""
    await asyncio.to_thread(state.ledger.files.delete, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def _wire(file: File) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
