"""`/v1/uploads` as OpenAI's SDK asks for it, and as others do."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import openai
import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from adapters.datasets import DatasetReport, check_dataset
from adapters.ledger import Ledger

JSONL = b"".join(
    json.dumps({"input": f"question {n}", "target": f"answer {n}"}).encode() + b"\n"
    for n in range(50)
)
MIME = "text/jsonl"


def begin(client: OpenAI, size: int = len(JSONL), **more: Any) -> Any:
    return client.uploads.create(
        bytes=size, filename="t.jsonl", mime_type=MIME, purpose="fine-tune", **more
    )


def test_the_sdk_brings_a_file_in_chunks(client: OpenAI) -> None:
    upload = client.uploads.upload_file_chunked(
        file=JSONL,
        filename="t.jsonl",
        bytes=len(JSONL),
        mime_type=MIME,
        purpose="fine-tune",
        part_size=700,
        md5=hashlib.md5(JSONL).hexdigest(),
    )
    assert (upload.object, upload.status, upload.bytes) == ("upload", "completed", len(JSONL))
    assert upload.id.startswith("upload_")
    file = upload.file
    assert client.files.retrieve(file.id) == file
    assert (file.filename, file.purpose, file.status) == ("t.jsonl", "fine-tune", "processed")
    assert (file.bytes, file.validation_report["rows"]) == (len(JSONL), 50)
    assert client.files.content(file.id).read() == JSONL


def test_parts_are_joined_in_the_order_in_which_they_are_named(client: OpenAI) -> None:
    upload = begin(client, 6)
    assert (upload.status, upload.file, upload.filename) == ("pending", None, "t.jsonl")
    assert upload.expires_at == upload.created_at + 3600
    parts = {
        text: client.uploads.parts.create(upload.id, data=text) for text in (b"cc", b"aa", b"bb")
    }
    part = parts[b"aa"]
    assert (part.object, part.upload_id, part.id[:5]) == ("upload.part", upload.id, "part_")
    ids = [parts[text].id for text in (b"aa", b"bb", b"cc")]
    done = client.uploads.complete(upload.id, part_ids=ids)
    assert client.files.content(done.file.id).read() == b"aabbcc"


def test_a_file_lives_as_long_as_its_upload_asked_for(client: OpenAI) -> None:
    upload = begin(client, 1, expires_after={"anchor": "created_at", "seconds": 4000})
    part = client.uploads.parts.create(upload.id, data=b"x")
    file = client.uploads.complete(upload.id, part_ids=[part.id]).file
    assert file.expires_at - file.created_at == 4000


def test_a_bad_training_file_in_parts_is_kept_and_says_so(client: OpenAI) -> None:
    upload = begin(client, 3)
    part = client.uploads.parts.create(upload.id, data=b"bad")
    file = client.uploads.complete(upload.id, part_ids=[part.id]).file
    assert (file.status, file.validation_report["valid"]) == ("error", False)


def test_completing_again_answers_the_same_and_makes_no_second_file(
    client: OpenAI, ledger: Ledger
) -> None:
    upload = begin(client, 2)
    ids = [client.uploads.parts.create(upload.id, data=text).id for text in (b"a", b"b")]
    first = client.uploads.complete(upload.id, part_ids=ids)
    assert client.uploads.complete(upload.id, part_ids=ids) == first
    assert len(ledger.files.list()) == 1
    with pytest.raises(openai.BadRequestError, match="with other parts") as refused:
        client.uploads.complete(upload.id, part_ids=ids[::-1])
    assert refused.value.code == "upload_not_pending"
    for late in (
        lambda: client.uploads.parts.create(upload.id, data=b"c"),
        lambda: client.uploads.cancel(upload.id),
    ):
        with pytest.raises(openai.BadRequestError, match="is completed"):
            late()


def test_a_cancelled_upload_takes_nothing_more(client: OpenAI, tmp_path: Path) -> None:
    upload = begin(client, 1)
    part = client.uploads.parts.create(upload.id, data=b"x")
    cancelled = client.uploads.cancel(upload.id)
    assert (cancelled.status, cancelled.file) == ("cancelled", None)
    assert client.uploads.cancel(upload.id) == cancelled
    for late in (
        lambda: client.uploads.parts.create(upload.id, data=b"y"),
        lambda: client.uploads.complete(upload.id, part_ids=[part.id]),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            late()
        assert refused.value.code == "upload_not_pending"


def test_what_does_not_add_up_is_refused_and_may_be_put_right(
    client: OpenAI, ledger: Ledger
) -> None:
    upload = begin(client, 2)
    one, two = (client.uploads.parts.create(upload.id, data=text).id for text in (b"a", b"b"))
    md5 = hashlib.md5(b"ab").hexdigest()
    for part_ids, checksum, param in (
        ([one], md5, "part_ids"),
        ([one, two, two], md5, "part_ids"),
        ([one, "part_none"], md5, "part_ids"),
        ([two, one], md5, "md5"),
        ([one, two], "0" * 32, "md5"),
        ([one, two], "zz", "md5"),
        ([], md5, "part_ids"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.uploads.complete(upload.id, part_ids=part_ids, md5=checksum)
        assert refused.value.param == param
    assert list(ledger.files.list()) == []
    done = client.uploads.complete(upload.id, part_ids=[one, two], md5=md5.upper())
    assert client.files.content(done.file.id).read() == b"ab"


def test_the_same_bytes_twice_are_one_part_and_may_be_named_twice(client: OpenAI) -> None:
    upload = begin(client, 4)
    one, again = (client.uploads.parts.create(upload.id, data=b"ha").id for _ in range(2))
    assert one == again
    done = client.uploads.complete(upload.id, part_ids=[one, again])
    assert client.files.content(done.file.id).read() == b"haha"


@pytest.mark.parametrize(
    "body", [b'{"part_ids": ["\\ud800"]}', b'{"part_ids": ["p\\u0000"]}', b'{"\\ud800": 1}']
)
def test_half_a_character_is_nobodys_name(http: TestClient, client: OpenAI, body: bytes) -> None:
    upload = begin(client)
    response = http.post(f"/v1/uploads/{upload.id}/complete", content=body)
    assert response.status_code == 400, response.text


@pytest.mark.parametrize("verb", ["parts", "complete", "cancel"])
def test_an_unknown_upload_is_a_404(http: TestClient, verb: str) -> None:
    body: dict[str, Any] = (
        {"files": {"data": b"x"}} if verb == "parts" else {"json": {"part_ids": ["part_1"]}}
    )
    response = http.post(f"/v1/uploads/upload_none/{verb}", **body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "upload_not_found")


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"bytes": 0}, "bytes", "greater"),
        ({"bytes": None}, "bytes", "integer"),
        ({"filename": ""}, "filename", "at least 1"),
        ({"filename": "a\nb"}, "filename", "one line"),
        ({"purpose": "training"}, "purpose", "'fine-tune', 'batch'"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after", "3600"),
        ({"expires_after": {"anchor": "created_at", "second": 1}}, "expires_after", "second"),
        ({"mimetype": "x"}, "mimetype", "'mime_type'"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(
    http: TestClient, fields: dict[str, Any], param: str, says: str
) -> None:
    usual = {"bytes": 1, "filename": "f", "mime_type": MIME, "purpose": "batch"}
    response = http.post("/v1/uploads", json=usual | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"].startswith(param)
    assert says in error["message"]


def test_a_body_that_is_no_object_is_refused(http: TestClient) -> None:
    for body in (b"", b"[]", b"{", b"[" * 100_000):
        response = http.post("/v1/uploads", content=body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


def test_more_than_the_server_takes_is_refused(http: TestClient, client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        begin(client, (8 << 30) + 1)
    assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")
    upload = begin(client, 1)
    with pytest.raises(openai.BadRequestError, match="were announced"):
        client.uploads.parts.create(upload.id, data=b"xxx")


def test_a_second_try_waits_for_the_first_instead_of_doing_its_work_again(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, checks = Event(), []

    def slowly(path: Path) -> DatasetReport:
        checks.append(path)
        begun.set()
        time.sleep(0.2)
        return check_dataset(path)

    monkeypatch.setattr("service.filing.check_dataset", slowly)
    upload = begin(client)
    part = client.uploads.parts.create(upload.id, data=JSONL)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.uploads.complete, upload.id, part_ids=[part.id])
        assert begun.wait(5)
        second = pool.submit(client.uploads.complete, upload.id, part_ids=[part.id])
    assert first.result() == second.result()
    assert len(checks) == 1


def test_beginning_twice_with_one_key_or_after_a_lost_answer_begins_one_upload(
    http: TestClient,
) -> None:
    def send(headers: dict[str, str], **fields: Any) -> Any:
        usual = {"bytes": 9, "filename": "f", "mime_type": MIME, "purpose": "batch"}
        return http.post("/v1/uploads", json=usual | fields, headers=headers)

    key, first_try, second_try = (
        {"Idempotency-Key": "k"},
        {"x-stainless-retry-count": "0"},
        {"x-stainless-retry-count": "1"},
    )
    keyed = send(key)
    again = send(key)
    assert (again.json(), again.headers["idempotent-replayed"]) == (keyed.json(), "true")
    assert send(key, bytes=8).status_code == 422
    counted = send(first_try).json()
    assert counted["id"] != keyed.json()["id"]
    assert send(second_try).json() == counted
    assert send(second_try, bytes=8).json()["id"] != counted["id"]
    http.post(f"/v1/uploads/{counted['id']}/parts", files={"data": b"x"})
    assert send(second_try).json()["id"] != counted["id"]
