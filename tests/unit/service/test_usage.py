"""Quotas over HTTP: who is told no, and how; and what everybody may look up."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from adapters.settings import QuotaSettings
from tests.support.in_process import BASE, answering

LIMIT = 3 << 20
ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(3)]


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[TestClient]:
    quotas = QuotaSettings(
        default={
            "stored_bytes": LIMIT,
            "max_queued": 1,
            "highest_priority": "normal",
            "requests_per_minute": 2,
            "tokens_per_minute": 1000,
        }
    )
    with answering(tmp_path, quotas=quotas, engine_wait_seconds=0) as client:
        yield client


def send(http: TestClient, size: int, **headers: str) -> Any:
    file = {"file": ("f.bin", b"x" * size)}
    return http.post("/v1/files", files=file, data={"purpose": "evals"}, headers=headers)


def refused(answer: Any) -> bool:
    """Whether it is a no that no client repeats by itself."""
    if answer.status_code != 429:
        return False
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert answer.headers["x-should-retry"] == "false"
    return True


def test_nothing_is_bounded_where_nothing_is_said(http: TestClient) -> None:
    assert http.get("/v1/usage").json() == {
        "object": "usage",
        "tenant": "default",
        "stored": {
            "bytes": 0,
            "limit": None,
            "files": 0,
            "uploads": 0,
            "versions": 0,
            "checkpoints": 0,
        },
        "jobs": {"queued": 0, "limit": 1000, "highest_priority": "high"},
        "requests": None,
        "tokens": None,
    }


def test_usage_says_what_is_used_and_what_may_be(bounded: TestClient) -> None:
    assert send(bounded, 1000).status_code == 200
    begin = {"bytes": 2000, "filename": "a", "mime_type": "text/plain", "purpose": "evals"}
    assert bounded.post("/v1/uploads", json=begin).status_code == 200
    assert bounded.post("/finetune", json={"data": ROWS}).status_code == 202
    usage = bounded.get("/v1/usage").json()
    rows = usage["stored"]["files"] - 1000
    assert 0 < rows < 1000
    assert usage["stored"] | {"files": 0} == {
        "bytes": 3000 + rows,
        "limit": LIMIT,
        "files": 0,
        "uploads": 2000,
        "versions": 0,
        "checkpoints": 0,
    }
    assert usage["jobs"] == {"queued": 1, "limit": 1, "highest_priority": "normal"}
    assert usage["requests"] == {"limit_per_minute": 2, "remaining": 2, "reset_seconds": 0.0}
    assert usage["tokens"]["limit_per_minute"] == 1000


def test_whoever_keeps_as_much_as_may_be_kept_is_told_so_on_every_way_in(
    bounded: TestClient,
) -> None:
    kept = send(bounded, LIMIT - 10).json()["id"]
    begin = {"bytes": 11, "filename": "a", "mime_type": "text/plain", "purpose": "evals"}
    assert refused(send(bounded, 11))
    assert refused(bounded.post("/v1/uploads", json=begin))
    assert refused(bounded.post("/finetune", json={"data": ROWS}))
    assert refused(bounded.post("/adapters", files={"archive": b"x" * (2 << 20)}))
    assert send(bounded, 10).status_code == 200
    assert refused(bounded.post("/adapters", json={"name": "a", "source": "file:///x"}))
    assert bounded.delete(f"/v1/files/{kept}").status_code == 200
    assert send(bounded, 11).status_code == 200


def test_a_job_is_refused_where_nothing_more_may_be_kept(tmp_path: Path) -> None:
    data = "\n".join(json.dumps(row) for row in ROWS).encode()
    quotas = QuotaSettings(default={"stored_bytes": len(data)})
    with answering(tmp_path, quotas=quotas) as http:
        sent = http.post(
            "/v1/files",
            files={"file": ("t.jsonl", io.BytesIO(data))},
            data={"purpose": "fine-tune"},
        ).json()["id"]
        body = {"model": BASE, "training_file": sent}
        assert refused(http.post("/v1/fine_tuning/jobs", json=body))
        assert refused(http.post("/finetune", json={"training_file": sent}))
        assert http.get("/finetune").json()["data"] == []


def test_what_is_announced_as_too_large_is_refused_before_it_is_read(bounded: TestClient) -> None:
    """The body here is no form, and nobody has come so far as to notice."""
    headers = {"content-type": "multipart/form-data; boundary=b"}
    body = b"x" * (LIMIT + (1 << 20) + 1)
    for path in ("/v1/files", "/finetune", "/v1/finetune", "/adapters", "/v1/adapters"):
        assert refused(bounded.post(path, content=body, headers=headers)), path


def test_a_request_that_comes_again_is_answered_as_before_although_there_is_no_room_left(
    bounded: TestClient,
) -> None:
    first = send(bounded, LIMIT, **{"idempotency-key": "k"})
    again = send(bounded, LIMIT, **{"idempotency-key": "k"})
    assert (again.status_code, again.json()) == (200, first.json())
    by_count = send(bounded, LIMIT, **{"x-stainless-retry-count": "1"})
    assert by_count.json()["id"] == first.json()["id"]
    assert refused(send(bounded, LIMIT, **{"idempotency-key": "other"}))


def test_a_tenants_full_queue_is_a_quota_and_says_when_a_place_is_expected(
    bounded: TestClient,
) -> None:
    assert bounded.post("/finetune", json={"data": ROWS}).status_code == 202
    full = bounded.post("/finetune", json={"data": ROWS})
    assert refused(full)
    assert full.headers["retry-after"] == "60"
    urgent = bounded.post("/finetune", json={"data": ROWS, "priority": "high"})
    assert (urgent.status_code, urgent.json()["error"]["param"]) == (400, "priority")


def chat(http: TestClient, path: str = "/v1/chat/completions", **more: Any) -> Any:
    body = {"model": BASE, "messages": [{"role": "user", "content": "hello"}]} | more
    return http.post(path, json=body)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_more_requests_than_a_minute_has_are_told_when_to_come_again(
    bounded: TestClient, path: str
) -> None:
    for _ in range(2):
        assert chat(bounded, path, max_tokens=5).status_code == 503, "no engine is up"
    full = chat(bounded, path, max_tokens=5)
    assert (full.status_code, full.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "2 requests per minute" in full.json()["error"]["message"]
    assert 1 <= int(full.headers["retry-after"]) <= 30
    assert "x-should-retry" not in full.headers
    told = {name: full.headers[f"x-ratelimit-{name}"] for name in ("limit-requests",)}
    assert told == {"limit-requests": "2"}
    assert full.headers["x-ratelimit-remaining-requests"] == "0"
    assert 30 < float(full.headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    # What came to nothing has cost no tokens.
    assert full.headers["x-ratelimit-remaining-tokens"] == "1000"


def test_a_request_that_cannot_be_meant_costs_nothing(bounded: TestClient) -> None:
    for _ in range(5):
        assert chat(bounded, model="none").status_code == 404
        assert chat(bounded, max_tokns=1).status_code == 400
    assert bounded.get("/v1/usage").json()["requests"]["remaining"] == 2
