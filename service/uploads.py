"""Bodies that carry files: multipart forms and inline rows, brought to local disk for the checks that follow."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import Request, Response
from starlette.datastructures import UploadFile

from adapters.datasets import write_rows
from adapters.errors import InvalidRequest, InvalidValue, PayloadTooLarge, UnsupportedMediaType
from adapters.files import MAX_PART_BYTES
from adapters.records import Reply
from service.finetune import FinetuneRequest, Upload
from service.schemas.fields import checked
from service.schemas.files import FileOptions, check_filename
from service.schemas.finetune import DATA_FIELDS, parse_options
from service.schemas.importing import ImportOptions, SourceOptions
from service.schemas.looking import take_asides


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
async def read_file_upload(
    request: Request, incoming: Path
) -> AsyncIterator[tuple[Upload, FileOptions]]:
    """The file of a form, on disk until leaving unless somebody moves it away, and what the form says of it.

    Read here and not by FastAPI's form parameters, which turn whatever happens while reading into a plain 400.

    Raises:
        UnsupportedMediaType: it is no multipart form.
        InvalidRequest: the form lacks the file.
        UnknownField, InvalidValue: as `checked`.
    """
    async with _form_with(request, incoming, "file") as (saved, fields):
        check_filename(saved.filename, param="file")
        yield saved, checked(FileOptions, _nested(fields), where="POST /v1/files")


@asynccontextmanager
async def read_import(
    request: Request, incoming: Path
) -> AsyncIterator[tuple[Path, ImportOptions]]:
    """The archive of a form, on disk until leaving, and what the form says of it; or where JSON says that it lies.

    Raises:
        UnsupportedMediaType: neither a multipart form nor JSON.
        InvalidRequest: the body cannot be read, or the form lacks the archive.
        UnknownField, InvalidValue: as `checked`.
    """
    where = "POST /adapters"
    if _media_type(request) == "application/json":
        body = await read_json(request)
        require_plain(body)
        yield incoming, checked(SourceOptions, body, where=where)
        return
    async with _form_with(request, incoming, "archive") as (saved, fields):
        yield saved.path, checked(ImportOptions, fields, where=where)


@asynccontextmanager
async def read_part(request: Request, incoming: Path) -> AsyncIterator[Path]:
    """The bytes of a part, on disk until leaving unless somebody moves them away.

    Raises:
        UnsupportedMediaType, InvalidRequest: as above.
        PayloadTooLarge: the part is larger than a part may be.
    """
    async with _form_with(request, incoming, "data") as (saved, _):
        if saved.path.stat().st_size > MAX_PART_BYTES:
            raise PayloadTooLarge(
                f"A part may have at most {MAX_PART_BYTES:,} bytes.", param="data"
            )
        yield saved.path


async def read_json(request: Request) -> dict[str, Any]:
    """The object that the body is. Raises InvalidRequest."""
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


def answer(reply: Reply, more: dict[str, str] | None = None) -> Response:
    """A reply that is stored with what it tells of, sent; with `more` headers."""
    headers = replayed(reply) | (more or {})
    return Response(reply.body, reply.status, headers, "application/json")


def replayed(reply: Reply) -> dict[str, str]:
    """The header of a reply that was given before, to the same key."""
    return {"Idempotent-Replayed": "true"} if reply.replayed else {}


def require_plain(fields: dict[str, Any]) -> None:
    """Refuse what Python reads as JSON and nobody could be sent again: NaN, and half a surrogate pair.

    Raises:
        InvalidRequest: there is such a value.
    """
    try:
        json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise InvalidRequest(f"The body has a value that is not JSON: {error}.") from error


async def save_upload(upload: UploadFile, target: Path) -> Upload:
    """Copy an uploaded file to disk, off the event loop."""
    with target.open("wb") as file:
        await asyncio.to_thread(shutil.copyfileobj, upload.file, file, 1 << 20)
    return Upload(path=target, filename=upload.filename or target.name)


@asynccontextmanager
async def _form_with(
    request: Request, incoming: Path, field: str
) -> AsyncIterator[tuple[Upload, dict[str, str]]]:
    """The file in that field of a form, and the fields beside it."""
    if _media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType(f"Send a multipart form with a file in the field '{field}'.")
    with TemporaryDirectory(dir=incoming) as folder:
        fields: dict[str, str] = {}
        async with request.form() as form:
            file = form.get(field)
            if not isinstance(file, UploadFile):
                raise InvalidRequest(f"The form needs a file in the field '{field}'.", param=field)
            for name, value in form.multi_items():
                if value is file:
                    continue
                if name in fields or isinstance(value, UploadFile):
                    raise InvalidRequest(f"The form has '{name}' twice, or as a file.", param=name)
                fields[name] = value
            saved = await save_upload(file, Path(folder) / field)
        yield saved, fields


def _nested(fields: dict[str, str]) -> dict[str, Any]:
    """`expires_after[seconds]` in a form is `seconds` inside of `expires_after`."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.removesuffix("]").partition("[")
        inside = found.setdefault(outer, {}) if bracket else found
        if not isinstance(inside, dict) or (inner or outer) in inside:
            raise InvalidRequest(f"The form field '{outer}' came twice.", param=outer)
        inside[inner or outer] = value
    return found


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
    body = await read_json(request)
    uploads = {}
    for name in DATA_FIELDS & body.keys():
        rows = body.pop(name)
        if not isinstance(rows, list):
            raise InvalidValue(f"'{name}' must be a list of rows.", param=name)
        target = folder / name
        await asyncio.to_thread(write_rows, rows, target)
        uploads[name] = Upload(path=target, filename=f"{name}.jsonl")
    require_plain(body)
    return body, uploads


def _expect_file_field(name: str) -> None:
    if name not in DATA_FIELDS:
        raise InvalidRequest(
            f"The form has a file in '{name}'. Training data goes in 'data'.", param=name
        )
