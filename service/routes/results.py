"""Result files of jobs, under `/v1/files`. They begin with `file-result-`, and are routed before the uploaded ones."""

import asyncio
from typing import Any

from fastapi import APIRouter, Response

from adapters.errors import InvalidRequest
from service.results import read_result
from service.schemas.jobs import RESULT_FILE
from service.state import State

router = APIRouter(prefix=f"/v1/files/{RESULT_FILE}{{tail}}", tags=["files"])


@router.get("")
async def get_result(tail: str, state: State) -> dict[str, Any]:
    """What is known of a result file."""
    shown, _ = await asyncio.to_thread(read_result, state.ledger.jobs, RESULT_FILE + tail)
    return shown


@router.get("/content")
async def content(tail: str, state: State) -> Response:
    """The CSV."""
    _, body = await asyncio.to_thread(read_result, state.ledger.jobs, RESULT_FILE + tail)
    return Response(body, 200, media_type="text/csv")


@router.delete("")
async def delete(tail: str, state: State) -> None:
    """Refused: it is a view of the job's log."""
    await asyncio.to_thread(read_result, state.ledger.jobs, RESULT_FILE + tail)
    raise InvalidRequest(
        "A result file is made of the job's log and stays with it; it takes no room.",
        param="file_id",
    )
