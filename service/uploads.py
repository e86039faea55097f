"""Bodies that carry files: multipart forms and inline rows, brought to local disk for the checks that follow."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from adapters.datasets import write_rows
from adapters.errors import InvalidRequest, InvalidValue, UnsupportedMediaType
from service.finetune import FinetuneRequest, Upload
from service.schemas.finetune import DATA_FIELDS, parse_options
from service.schemas.looking import take_asides

_LONGEST_PURPOSE = 32


@asynccontextmanager
async def read_finetune_request(
    request: Request,
    incoming: Path,
    idempotency_key: str | None = None,
    *,
    beside: Collection[str] = (),
) -> AsyncIterator[FinetuneRequest]:
    """The request with its data on disk; the disk is cleared on leaving.

    `beside` names the fields, of `Asides`, that may come beside the options.

    Raises:
        UnsupportedMediaType: neither JSON nor a multipart form.
        InvalidRequest: the body cannot be read.
        InvalidDataset: a row of a JSON body is no object.
        UnknownField, InvalidValue: as `parse_options`.
    """
    with TemporaryDirectory(dir=incoming) as folder:
        fields, uploads = await _read(request, Path(folder))
        aside = take_asides(fields, beside)
        where = f"{request.method} {request.url.path}"
        yield FinetuneRequest(
            options=parse_options(fields, beside=beside, where=where),
            aside=aside,
            data=uploads.get("data"),
            validation=uploads.get("validation_data"),
            idempotency_key=idempotency_key,
        )


@asynccontextmanager
async def read_file_upload(request: Request, incoming: Path) -> AsyncIterator[tuple[Upload, str]]:
    """The file of a form, on disk until leaving, and its purpose.

    Read here and not by FastAPI's form parameters, which turn whatever happens while reading into a plain 400.

    Raises:
        InvalidRequest: the form lacks one of the two.
        UnsupportedMediaType: it is no multipart form.
    """
    if _media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("Send a multipart form with the fields 'file' and 'purpose'.")
    with TemporaryDirectory(dir=incoming) as folder:
        async with request.form() as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise InvalidRequest("The form needs a file in the field 'file'.", param="file")
            if not isinstance(purpose, str) or not 0 < len(purpose) <= _LONGEST_PURPOSE:
                raise InvalidRequest(
                    "The form needs a 'purpose', such as fine-tune.", param="purpose"
                )
            saved = await save_upload(file, Path(folder) / "file")
        yield saved, purpose


async def save_upload(upload: UploadFile, target: Path) -> Upload:
    """Copy an uploaded file to disk, off the event loop."""
    with target.open("wb") as file:
        await asyncio.to_thread(shutil.copyfileobj, upload.file, file, 1 << 20)
    return Upload(path=target, filename=upload.filename or target.name)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, folder: Path) -> tuple[dict[str, Any], dict[str, Upload]]:
    media_type = _media_type(request)
    if media_type == "multipart/form-data":
        return await _read_form(request, folder)
    if media_type == "application/json":
        return await _read_json(request, folder)
    raise UnsupportedMediaType(
        "Send a multipart form (curl -F data=@train.jsonl) or JSON "
        f"(Content-Type: application/json), not '{media_type or 'nothing'}'."
    )


async def _read_form(request: Request, folder: Path) -> tuple[dict[str, Any], dict[str, Upload]]:
    fields: dict[str, Any] = {}
    uploads: dict[str, Upload] = {}
    async with request.form() as form:
        for name, value in form.multi_items():
            if name in fields or name in uploads:
                raise InvalidRequest(f"The form field '{name}' came twice.", param=name)
            if isinstance(value, UploadFile):
                _expect_file_field(name)
                uploads[name] = await save_upload(value, folder / name)
            else:
                fields[name] = value
    for name in DATA_FIELDS & fields.keys():
        raise InvalidValue(
            f"'{name}' must be a file in a form: curl -F {name}=@train.jsonl (mind the @).",
            param=name,
        )
    return fields, uploads


async def _read_json(request: Request, folder: Path) -> tuple[dict[str, Any], dict[str, Upload]]:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    uploads = {}
    for name in DATA_FIELDS & body.keys():
        rows = body.pop(name)
        if not isinstance(rows, list):
            raise InvalidValue(f"'{name}' must be a list of rows.", param=name)
        target = folder / name
        await asyncio.to_thread(write_rows, rows, target)
        uploads[name] = Upload(path=target, filename=f"{name}.jsonl")
    return body, uploads


def _expect_file_field(name: str) -> None:
    if name not in DATA_FIELDS:
        raise InvalidRequest(
            f"The form has a file in '{name}'. Training data goes in 'data'.", param=name
        )
