"""Uploads over a real connection, with the SDK that other people's programs use."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from adapters.files import MAX_PART_BYTES
from tests.integration.service.conftest import Running, until

LARGEST = os.urandom(1 << 20) * 64


async def test_a_part_may_have_64_mib_and_no_more(service: Running) -> None:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        content = LARGEST + b"the end"
        done = await client.uploads.upload_file_chunked(
            file=content,
            filename="large.bin",
            bytes=len(content),
            mime_type="application/octet-stream",
            purpose="user_data",
            md5=hashlib.md5(content).hexdigest(),
        )
        assert (done.status, done.file.bytes) == ("completed", MAX_PART_BYTES + 7)
        assert (await client.files.content(done.file.id)).read() == content
        upload = await client.uploads.create(
            bytes=len(content), filename="f", mime_type="a/b", purpose="user_data"
        )
        with pytest.raises(openai.APIStatusError) as refused:
            await client.uploads.parts.create(upload.id, data=LARGEST + b"x")
    assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")


async def test_a_part_of_no_announced_length_is_cut_off_at_the_limit(service: Running) -> None:
    body = {"bytes": 1, "filename": "f", "mime_type": "a/b", "purpose": "user_data"}
    upload = (await service.http.post("/v1/uploads", json=body)).json()

    async def drip() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="data"; filename="f"\r\n\r\n'
        for _ in range(200):
            yield LARGEST[: 1 << 20]

    form = {"content-type": "multipart/form-data; boundary=b"}
    path = f"/v1/uploads/{upload['id']}/parts"
    refused = await service.http.post(path, content=drip(), headers=form)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "file_too_large")
    assert list((service.home / "incoming").glob("*/*")) == []


async def test_a_client_that_breaks_off_leaves_nothing_and_is_no_error_of_ours(
    service: Running,
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf of'
    )
    await writer.drain()
    await until(lambda: reading(service))
    writer.close()
    counted = 'method="POST",route="/v1/files",status="400"} 1.0'

    async def told() -> bool:
        return counted in (await service.http.get("/metrics")).text

    await until(told)
    assert list((service.home / "incoming").glob("*/*")) == []
    assert list(service.ledger.files.list()) == []


async def reading(service: Running) -> bool:
    return bool(list((service.home / "incoming").glob("*/*")))
