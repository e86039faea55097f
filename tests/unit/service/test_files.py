"""`/v1/files` as OpenAI's SDK asks for it, and as others do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from adapters.ledger import Ledger
from tests.support.in_process import answering, sdk

ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(3)]
JSONL = "\n".join(json.dumps(row) for row in ROWS).encode()
BAD = b'{"input": "a", "target": "b"}\n' + b'{"input": "a"}\n' * 30


def lifetime(seconds: int) -> dict[str, str]:
    return {"expires_after[anchor]": "created_at", "expires_after[seconds]": str(seconds)}


def post(
    http: TestClient, content: bytes = JSONL, name: str = "t.jsonl", **more: Any
) -> dict[str, Any]:
    fields = {"purpose": "fine-tune"} | more.pop("fields", {})
    response = http.post("/v1/files", files={"file": (name, content)}, data=fields, **more)
    return {"status": response.status_code, "headers": response.headers} | {"body": response.json()}


def test_the_sdk_brings_a_file_waits_for_it_reads_it_and_deletes_it(client: OpenAI) -> None:
    file = client.files.create(file=("t.jsonl", JSONL), purpose="fine-tune")
    assert (file.object, file.bytes, file.filename) == ("file", len(JSONL), "t.jsonl")
    assert (file.purpose, file.status, file.expires_at) == ("fine-tune", "processed", None)
    assert file.id.startswith("file-")
    assert client.files.wait_for_processing(file.id, max_wait_seconds=0) == file
    content = client.files.content(file.id)
    assert content.read() == JSONL
    assert content.response.headers["content-disposition"] == 'attachment; filename="t.jsonl"'
    deleted = client.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(file.id)
    assert gone.value.code == "file_not_found"


def test_a_training_file_is_judged_on_arrival(client: OpenAI) -> None:
    report = client.files.create(file=("t", JSONL), purpose="fine-tune").validation_report
    assert report == {
        "valid": True,
        "format": "input_target",
        "rows": 3,
        "duplicates": 0,
        "ignored_fields": [],
        "errors": [],
        "total_errors": 0,
    }


def test_a_bad_training_file_is_kept_says_what_is_wrong_and_is_refused_by_a_job(
    client: OpenAI, http: TestClient
) -> None:
    file = client.files.create(file=("t.jsonl", BAD), purpose="fine-tune")
    assert file.status == "error"
    assert file.status_details.startswith("The file cannot be trained on; it has 30 problems. Line")
    report = file.validation_report
    assert (report["valid"], report["rows"], report["total_errors"]) == (False, 31, 30)
    assert [error["line"] for error in report["errors"]] == list(range(2, 22))
    assert {error["field"] for error in report["errors"]} == {"target"}
    assert client.files.wait_for_processing(file.id, max_wait_seconds=0).status == "error"
    refused = http.post("/finetune", json={"training_file": file.id})
    assert refused.json()["error"]["code"] == "invalid_training_file"


def test_what_a_job_brought_along_is_a_file_with_its_report(
    client: OpenAI, http: TestClient
) -> None:
    job = http.post("/finetune", json={"data": ROWS, "validation_data": ROWS[:2]}).json()
    rows = [
        client.files.retrieve(job[name]).validation_report["rows"]
        for name in ("training_file", "validation_file")
    ]
    assert rows == [3, 2]


@pytest.mark.parametrize("purpose", ["batch", "user_data", "evals", "assistants", "vision"])
def test_a_file_for_another_purpose_is_not_judged(client: OpenAI, purpose: Any) -> None:
    file = client.files.create(file=("x.bin", b"\x00\xff"), purpose=purpose)
    assert (file.status, file.validation_report, file.purpose) == ("processed", None, purpose)


def test_a_file_lives_as_long_as_it_was_asked_to_and_one_for_a_batch_thirty_days(
    client: OpenAI,
) -> None:
    hour = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=("t", JSONL), purpose="fine-tune", expires_after=hour)
    assert file.expires_at == file.created_at + 3600
    batch = client.files.create(file=("t", JSONL), purpose="batch")
    assert batch.expires_at == batch.created_at + 2_592_000


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"purpose": "finetune"}, "purpose", "'fine-tune', 'batch', 'user_data', 'evals'"),
        ({"purpos": "x"}, "purpos", "'purpose'"),
        ({"filename": "x"}, "filename", "filename"),
        ({"expires_after[anchor]": "created_at"}, "expires_after.seconds", "seconds"),
        ({"expires_after[anchor]": "now"}, "expires_after.anchor", "created_at"),
        ({"expires_after": "x", "expires_after[seconds]": "4000"}, "expires_after", "twice"),
        ({"expires_after": "x"}, "expires_after", "expires_after"),
        ({"expires_after[]": "x"}, "expires_after", "expires_after"),
        (lifetime(3599), "expires_after.seconds", "3600"),
        (lifetime(2592001), "expires_after.seconds", "2592000"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(
    http: TestClient, ledger: Ledger, fields: dict[str, str], param: str, says: str
) -> None:
    sent = post(http, fields=fields)
    assert sent["status"] == 400, sent
    assert sent["body"]["error"]["param"].startswith(param)
    assert says in sent["body"]["error"]["message"]
    assert list(ledger.files.list()) == []


@pytest.mark.parametrize("name", ["a" * 256, "a\x00b", "a\x1bb"])
def test_a_name_that_cannot_be_kept_is_refused(http: TestClient, name: str) -> None:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\nx\r\n'
    rest = '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'
    form = {"content-type": "multipart/form-data; boundary=b"}
    response = http.post("/v1/files", content=(head + rest).encode(), headers=form)
    assert response.status_code == 400, response.text


def test_a_form_without_a_file_and_a_body_that_is_no_form_are_refused(http: TestClient) -> None:
    empty = http.post("/v1/files", files={"other": b"x"}, data={"purpose": "batch"})
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, "file")
    text = http.post("/v1/files", data={"file": "t.jsonl", "purpose": "batch"}, files={"x": b""})
    assert (text.status_code, text.json()["error"]["param"]) == (400, "file")
    two = [("file", b"1"), ("file", b"2")]
    twice = http.post("/v1/files", files=two, data={"purpose": "batch"})
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "file")
    plain = http.post("/v1/files", json={"purpose": "batch"})
    assert (plain.status_code, plain.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_name_in_any_script_comes_back_as_it_was(client: OpenAI) -> None:
    file = client.files.create(file=("Übung 1, 資料.jsonl", JSONL), purpose="fine-tune")
    assert file.filename == "Übung 1, 資料.jsonl"
    content = client.files.content(file.id)
    assert content.response.headers["content-disposition"].startswith(
        "attachment; filename*=utf-8''%C3%9Cbung"
    )


def test_the_sdk_walks_through_pages_in_both_orders(client: OpenAI) -> None:
    names = [f"{n}.jsonl" for n in range(7)]
    for n, name in enumerate(names):
        client.files.create(file=(name, b"x"), purpose="batch" if n % 2 else "user_data")
    for order, expected in (("asc", names), ("desc", names[::-1])):
        page = client.files.list(limit=3, order=order)
        assert (len(page.data), page.has_more) == (3, True)
        assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
        assert [file.filename for file in page] == expected
    assert [file.filename for file in client.files.list(purpose="batch", limit=2)] == names[5::-2]
    everything = client.files.list()
    assert (len(everything.data), everything.has_more) == (7, False)


def test_a_list_of_nothing_is_a_page_too(http: TestClient) -> None:
    page = http.get("/v1/files").json()
    assert page == {
        "object": "list",
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=0", 400), ("limit=10001", 400), ("order=up", 400), ("after=file-none", 404)],
)
def test_a_page_that_cannot_be_is_refused(http: TestClient, query: str, status: int) -> None:
    response = http.get(f"/v1/files?{query}")
    assert response.status_code == status
    assert response.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("path", ["", "/content"])
def test_an_unknown_file_is_a_404(http: TestClient, path: str) -> None:
    response = http.get(f"/v1/files/file-none{path}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")
    assert http.delete("/v1/files/file-none").status_code == 404


def test_the_same_key_makes_one_file_and_another_request_with_it_is_refused(
    http: TestClient, ledger: Ledger
) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = post(http, headers=key), post(http, headers=key)
    assert first["body"] == again["body"]
    assert "idempotent-replayed" not in first["headers"]
    assert again["headers"]["idempotent-replayed"] == "true"
    for other in ({"content": JSONL + b"\n"}, {"name": "other"}, {"fields": {"purpose": "batch"}}):
        sent = post(http, headers=key, **other)
        assert (sent["status"], sent["body"]["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(ledger.files.list()) == 1


def test_what_the_sdk_sends_a_second_time_is_the_file_of_the_first(
    http: TestClient, ledger: Ledger, tmp_path: Path
) -> None:
    """The SDK sends no key; that it repeats itself it says by a count."""
    first = post(http, headers={"x-stainless-retry-count": "0"})["body"]
    again = post(http, headers={"x-stainless-retry-count": "1"})["body"]
    assert again == first
    assert post(http, headers={"x-stainless-retry-count": "0"})["body"]["id"] != first["id"]
    other = post(http, headers={"x-stainless-retry-count": "1"}, name="other.jsonl")["body"]
    assert other["id"] != first["id"]
    empty = {"x-stainless-retry-count": "0", "Idempotency-Key": ""}
    assert post(http, headers=empty)["body"]["id"] != post(http, headers=empty)["body"]["id"]
    keyed = {"x-stainless-retry-count": "1", "Idempotency-Key": "fresh"}
    assert post(http, headers=keyed)["body"]["id"] != first["id"]
    stored = {path.name for path in (tmp_path / "artifacts" / "files").iterdir()}
    assert stored == {file.id for file in ledger.files.list()}


def test_a_count_that_is_none_counts_as_none(http: TestClient) -> None:
    counts = ("", "-1", "x", "²", "9" * 5000)
    ids = {
        post(http, headers={"x-stainless-retry-count": n})["body"]["id"]
        for n in counts
        if n.isascii()
    }
    assert len(ids) == 4


def test_an_answer_that_is_lost_on_its_way_costs_no_second_file(
    http: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK against a service whose first answer never arrives."""
    send, sent = http.send, []

    def lossy(request: Any, **options: Any) -> Any:
        response = send(request, **options)
        sent.append(response.status_code)
        if len(sent) == 1:
            raise httpx2.ReadError("the connection was reset")
        return response

    client = sdk(http, max_retries=2)
    monkeypatch.setattr(http, "send", lossy)
    monkeypatch.setattr(client, "_calculate_retry_timeout", lambda *_: 0)
    file = client.files.create(file=("t", JSONL), purpose="fine-tune")
    assert sent == [200, 200]
    assert [kept.id for kept in ledger.files.list()] == [file.id]


def test_a_body_that_is_too_large_is_refused_also_where_its_length_is_not_announced(
    tmp_path: Path,
) -> None:
    def drip() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(20):
            yield b"x" * 100

    form = {"content-type": "multipart/form-data; boundary=b"}
    with answering(tmp_path, max_upload_bytes=1000) as http:
        chunked = http.post("/v1/files", content=drip(), headers=form)
        announced = http.post("/v1/files", files={"file": b"x" * 2000})
    for response in (chunked, announced):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")
    assert list((tmp_path / "incoming").glob("*/*")) == []
