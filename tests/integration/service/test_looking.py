"""Looking before one leaps: waiting for a job, watching it from its first moment, and judging data without a job."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from adapters.records import JobError
from tests.integration.service.conftest import BASE, Running
from tests.integration.service.test_finetune import JSONL, ROWS, parse

PAIRS = [{"prompt": f"q {n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(12)]


async def claimed(service: Running) -> Any:
    """The job that waits, once there is one, in a worker's hands."""
    async with asyncio.timeout(5):
        while not service.ledger.jobs.list():
            await asyncio.sleep(0.01)
    return service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=9, max_losses=9)


async def send(service: Running, **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.http.post("/finetune", json={"data": ROWS}, headers=headers)


# ---- Prefer: wait


async def test_who_waits_gets_the_job_once_it_has_ended(service: Running) -> None:
    waiting = asyncio.create_task(send(service, prefer="respond-async, wait=30"))
    job = await claimed(service)
    assert not waiting.done()
    service.ledger.jobs.fail(job.id, job.attempt, JobError(code="loss_diverged", message="NaN"))
    response = await asyncio.wait_for(waiting, 5)
    assert (response.status_code, response.json()["status"]) == (200, "failed")
    assert response.headers["preference-applied"] == "wait=30"
    assert response.headers["location"] == f"/finetune/{job.id}"
    assert "retry-after" not in response.headers


async def test_when_the_time_is_up_the_answer_is_the_job_as_it_stands(service: Running) -> None:
    waiting = asyncio.create_task(send(service, prefer="wait=1"))
    await claimed(service)
    response = await asyncio.wait_for(waiting, 5)
    assert (response.status_code, response.json()["status"]) == (202, "running")
    assert response.headers["preference-applied"] == "wait=1"
    assert response.headers["retry-after"] == "2"


async def test_without_the_header_nothing_is_applied(service: Running) -> None:
    assert "preference-applied" not in (await send(service)).headers


async def test_a_repeated_key_waits_for_the_job_that_it_made(service: Running) -> None:
    first = await send(service, idempotency_key="abc")
    service.ledger.jobs.cancel(first.json()["id"])
    again = await send(service, idempotency_key="abc", prefer="wait=30")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert again.json()["id"] == first.json()["id"]
    assert len(service.ledger.jobs.list()) == 1


# ---- Accept: text/event-stream


async def test_a_job_is_watched_on_the_connection_that_asked_for_it(service: Running) -> None:
    watching = asyncio.create_task(send(service, accept="text/event-stream"))
    job = await claimed(service)
    service.ledger.jobs.cancel(job.id)
    response = await asyncio.wait_for(watching, 5)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["location"] == f"/finetune/{job.id}"
    events = [event for event in parse(response.text) if "event" in event]
    assert [event["event"] for event in events] == ["job", "status", "status", "status", "done"]
    assert [event.get("id") for event in events] == [None, "1", "2", "3", None]
    created, done = json.loads(events[0]["data"]), json.loads(events[-1]["data"])
    assert (created["id"], created["status"]) == (job.id, "queued")
    assert (done["id"], done["status"]) == (job.id, "cancelled")


async def test_who_stops_watching_cancels_nothing(service: Running) -> None:
    headers = {"accept": "text/event-stream"}
    body = {"data": ROWS}
    async with service.http.stream("POST", "/finetune", json=body, headers=headers) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: job"):
                break
    job = await claimed(service)
    await asyncio.sleep(0.4)
    assert service.ledger.jobs.get(job.id).status == "running"


async def test_a_repeated_key_watches_the_job_that_it_made(service: Running) -> None:
    first = await send(service, idempotency_key="abc")
    service.ledger.jobs.cancel(first.json()["id"])
    again = await send(service, idempotency_key="abc", accept="text/event-stream")
    events = [event for event in parse(again.text) if "event" in event]
    assert json.loads(events[0]["data"]) == first.json()
    assert json.loads(events[-1]["data"])["status"] == "cancelled"


async def test_what_is_wrong_before_there_is_a_job_is_an_ordinary_error(service: Running) -> None:
    headers = {"accept": "text/event-stream", "prefer": "wait=30"}
    body = {"data": [{"input": "a"}]}
    response = await service.http.post("/finetune", json=body, headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")
    assert response.json()["error"]["code"] == "invalid_training_file"


# ---- validate


async def validate(service: Running, **body: Any) -> dict[str, Any]:
    response = await service.http.post("/datasets/validate", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_good_data_is_reported_the_same_whichever_way_it_comes(service: Running) -> None:
    kept = await service.http.post(
        "/v1/files", files={"file": ("t.jsonl", JSONL)}, data={"purpose": "fine-tune"}
    )
    inline = await validate(service, data=ROWS)
    by_id = await validate(service, training_file=kept.json()["id"])
    form = await service.http.post("/v1/datasets/validate", files={"data": JSONL})
    assert form.json() == by_id
    assert {**inline, "digest": None} == {**by_id, "digest": None}
    assert by_id["object"] == "dataset.report"
    assert (by_id["valid"], by_id["errors"], by_id["error_count"]) == (True, [], 0)
    assert (by_id["format"], by_id["method"], by_id["rows"]) == ("input_target", "supervised", 40)
    assert len(by_id["digest"]) == 64
    assert by_id["warnings"] == []


async def test_bad_data_is_reported_as_a_job_would_refuse_it(service: Running) -> None:
    bad = b'{"input": "a", "target": "b"}\n' + b'{"input": "a"}\n' * 30
    report = (await service.http.post("/datasets/validate", files={"data": bad})).json()
    refused = (await service.http.post("/finetune", files={"data": bad})).json()["error"]
    assert not report["valid"]
    assert (len(report["errors"]), report["error_count"]) == (20, 30)
    assert report["errors"] == refused["details"]


@pytest.mark.parametrize("rows", [[["a"]], ["a"], [{"input": "a", "target": "b"}, 3]])
async def test_rows_that_are_no_objects_are_reported_too(service: Running, rows: list[Any]) -> None:
    report = await validate(service, data=rows)
    assert not report["valid"]
    assert report["errors"][0]["code"] == "not_an_object"


async def test_duplicates_unused_fields_and_few_rows_are_warned_of(service: Running) -> None:
    report = await validate(service, data=[{**ROWS[0], "id": 1}, {**ROWS[0], "id": 2}])
    assert report["valid"]
    assert (report["duplicates"], report["ignored_fields"]) == (1, ["id"])
    codes = [warning["code"] for warning in report["warnings"]]
    assert codes == ["few_rows", "duplicates", "ignored_fields"]
    assert report["warnings"][0]["message"].startswith("1 distinct row: ")


async def test_rows_that_are_not_for_the_method_are_an_error_of_the_report(
    service: Running,
) -> None:
    assert (await validate(service, data=PAIRS))["method"] == "dpo"
    report = await validate(service, data=PAIRS, method="supervised")
    assert not report["valid"]
    assert (report["errors"][0]["line"], report["errors"][0]["field"]) == (0, "method")


async def test_rows_to_hold_out_have_a_report_of_their_own(service: Running) -> None:
    good = await validate(service, data=ROWS, validation_data=ROWS[:3])
    assert (good["valid"], good["validation"]["valid"], good["validation"]["rows"]) == (
        True,
        True,
        3,
    )
    bad = await validate(service, data=ROWS, validation_data=[{"input": "a"}])
    assert (bad["valid"], bad["error_count"], bad["validation"]["error_count"]) == (False, 0, 1)
    unlike = await validate(service, data=ROWS, validation_data=PAIRS)
    assert not unlike["valid"]
    assert unlike["validation"]["errors"][0]["field"] == "validation_data"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"data": ROWS, "training_file": "file-1"}, 400, "invalid_request"),
        ({"training_file": "file-none"}, 404, "file_not_found"),
        ({"data": ROWS, "epoch": 3}, 400, "unknown_field"),
        ({"data": ROWS, "n": 3}, 400, "unknown_field"),
    ],
)
async def test_where_there_is_nothing_to_look_at_it_is_an_error(
    service: Running, body: dict[str, Any], status: int, code: str
) -> None:
    response = await service.http.post("/datasets/validate", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert code != "unknown_field" or "/datasets/validate" in response.json()["error"]["message"]


async def test_nothing_that_is_looked_at_is_kept(service: Running) -> None:
    await validate(service, data=ROWS, validation_data=ROWS[:3])
    await validate(service, data=[{"input": 3}])
    assert service.ledger.jobs.list() == []
    assert list(service.ledger.files.list()) == []
    assert list((service.home / "incoming").iterdir()) == []
