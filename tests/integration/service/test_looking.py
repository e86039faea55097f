"""Looking before one leaps: waiting for a job, watching it from its first moment, and judging data without a job."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from adapters.errors import InvalidDataset, Overloaded, Unavailable
from adapters.manifest import BASE_CARD_FILE, dump_base_card
from adapters.records import (
    JobError,
    JobNote,
    Phase,
    Progress,
)
from service.tokens.messages import Bar, Count, Counted, Preview, Show, Shown, Span
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving
from tests.integration.service.test_finetune import JSONL, ROWS, parse
from tests.support.samples import card
from tests.support.tiny_tokenizer import write_speaker

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
    assert [event["event"] for event in events] == ["job", *["status"] * 5, "done"]
    assert [event.get("id") for event in events] == [None, *"12345", None]
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


def codes(answer: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


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
    assert (codes(by_id), by_id["tokens"]) == (["not_counted"], None)


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
    assert codes(report)[:3] == ["few_rows", "duplicates", "ignored_fields"]
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
    assert list((service.home / "incoming").glob("*/*")) == []


# ---- in tokens, from a fake process


class FakeTokens:
    """Every row is ten tokens, of which four are trained. Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Count | Show] = []
        self.trouble: Exception | None = None
        self.too_long = 0
        self.complete = True

    async def ask(self, question: Count | Show) -> Counted | Preview:
        self.asked.append(question)
        if self.trouble:
            raise self.trouble
        rows = sum(1 for line in question.data.read_bytes().splitlines() if line)
        if isinstance(question, Count):
            return self._counted(rows if self.complete else rows // 2)
        return Preview(sequences=(SHOWN,) * min(rows, question.rows))

    def _counted(self, rows: int) -> Counted:
        kept = rows - self.too_long
        return Counted(
            rows=rows,
            complete=self.complete,
            too_long=self.too_long,
            tokens=10 * kept,
            trained_tokens=4 * kept,
            samples=kept,
            longest=10,
            histogram=(Bar(up_to=16, rows=rows),),
        )

    async def close(self) -> None:
        """Nothing to stop."""


SHOWN = Shown(
    line=1,
    side=None,
    num_tokens=9,
    num_trained_tokens=3,
    too_long=False,
    input_ids=(7, 8, 9, 10),
    tokens=("a", "b", "c", "d"),
    spans=(Span(start=1, stop=3, weight=0.5, text="bc"),),
)


@pytest.fixture
async def counting(service: Running) -> AsyncIterator[tuple[Running, FakeTokens]]:
    """The same service with a base model that is prepared, and somebody who counts."""
    directory = ledger_settings(service.home).base_model_dir(BASE)
    directory.mkdir(parents=True)
    (directory / BASE_CARD_FILE).write_text(dump_base_card(card()))
    fake = FakeTokens()
    async with serving(service.home, tokens=fake) as (client, url):
        yield Running(client, service.engine, service.ledger, service.home, url), fake


async def estimate(service: Running, **body: Any) -> dict[str, Any]:
    response = await service.http.post("/v1/fine_tuning/estimate", json={"data": ROWS, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_report_has_figures_in_tokens_where_the_base_model_is_there(counting) -> None:
    service, fake = counting
    fake.too_long = 3
    report = await validate(service, data=ROWS)
    assert report["tokens"] == {
        "tokens": 370,
        "trained_tokens": 148,
        "longest": 10,
        "histogram": [{"up_to": 16, "rows": 40}],
        "max_seq_length": 2048,
        "too_long": 3,
        "rows": 40,
        "sampled": False,
    }
    assert codes(report) == ["rows_too_long"]
    assert fake.asked[0].directory == ledger_settings(service.home).base_model_dir(BASE)


async def test_rows_to_hold_out_are_counted_too(counting) -> None:
    service, fake = counting
    report = await validate(service, data=ROWS, validation_data=ROWS[:3])
    assert report["tokens"]["tokens"] == 400
    assert report["validation"]["tokens"]["tokens"] == 30
    assert len(fake.asked) == 2
    # Nothing is held out then, which is no error.
    fake.too_long = 3
    report = await validate(service, data=ROWS, validation_data=ROWS[:3])
    assert report["valid"]
    assert report["validation"]["tokens"]["too_long"] == 3
    assert codes(report["validation"]) == ["rows_too_long"]
    fake.asked.clear()
    await validate(service, data=ROWS, validation_data=PAIRS)
    assert len(fake.asked) == 1


async def test_rows_that_the_base_model_cannot_take_are_errors_of_the_report(counting) -> None:
    service, fake = counting
    fake.trouble = InvalidDataset("Line 7: no.", details=[{"line": 7, "code": "chat_template"}])
    report = await validate(service, data=ROWS)
    assert (report["valid"], report["errors"]) == (False, [{"line": 7, "code": "chat_template"}])
    fake.trouble, fake.too_long = None, len(ROWS)
    report = await validate(service, data=ROWS, max_seq_length=5)
    assert not report["valid"]
    assert report["errors"][0]["field"] == "max_seq_length"


async def test_a_report_is_given_also_where_nobody_has_time_to_count(counting) -> None:
    service, fake = counting
    fake.trouble = Overloaded("too many ask", retry_after=5)
    report = await validate(service, data=ROWS)
    assert (report["valid"], report["tokens"], codes(report)) == (True, None, ["not_counted"])
    refused = await service.http.post("/v1/fine_tuning/estimate", json={"data": ROWS})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")


async def test_bad_rows_are_not_counted(counting) -> None:
    service, fake = counting
    await validate(service, data=[{"input": "a"}])
    assert fake.asked == []


async def test_an_estimate_says_what_a_job_comes_to(counting) -> None:
    service, _ = counting
    found = await estimate(service, n_epochs=2, batch_size=4)
    assert (found["object"], found["model"], found["method"]) == (
        "fine_tuning.estimate",
        BASE,
        "supervised",
    )
    assert (found["steps"], found["steps_per_epoch"]) == (20, 10)
    assert (found["train_rows"], found["valid_rows"], found["dropped_rows"]) == (40, 0, 0)
    assert (found["tokens"], found["trained_tokens"]) == (800, 320)
    assert (found["tokens_per_epoch"], found["trained_tokens_per_epoch"]) == (400, 160)
    assert (found["longest"], found["sampled"]) == (10, False)
    assert (found["hyperparameters"]["n_epochs"], found["hyperparameters"]["batch_size"]) == (2, 4)
    assert (found["dataset"]["rows"], found["dataset"]["format"]) == (40, "input_target")
    # Nothing has been trained here, and the model's size is not known: there is nothing to say, and nothing is said.
    assert (found["duration_seconds"], found["duration_basis"], found["fits"]) == (None, None, None)
    assert found["queue_wait_seconds"] == 0
    assert codes(found) == ["nothing_held_out"]


async def test_a_dry_run_is_an_estimate_and_makes_no_job(counting) -> None:
    service, _ = counting
    body = {"data": ROWS, "n_epochs": 2}
    headers = {"Idempotency-Key": "abc", "Prefer": "wait=30", "Accept": "text/event-stream"}
    dry = await service.http.post("/finetune", json=body | {"dry_run": True}, headers=headers)
    assert (dry.status_code, dry.headers["content-type"]) == (200, "application/json")
    assert dry.json() == await estimate(service, n_epochs=2)
    form = await service.http.post("/finetune", files={"data": JSONL}, data={"dry_run": "true"})
    assert form.json()["object"] == "fine_tuning.estimate"
    assert service.ledger.jobs.list() == []
    assert list(service.ledger.files.list()) == []
    wet = await service.http.post(
        "/finetune", json=body | {"dry_run": False}, headers={"Idempotency-Key": "abc"}
    )
    assert wet.status_code == 202
    assert wet.json()["hyperparameters"] == dry.json()["hyperparameters"]


async def test_a_part_of_the_rows_stands_for_all(counting) -> None:
    service, fake = counting
    fake.complete, fake.too_long = False, 2
    found = await estimate(service, n_epochs=1, batch_size=1)
    assert (found["sampled"], found["dropped_rows"], found["train_rows"]) == (True, 4, 36)
    assert (found["tokens"], found["steps"]) == (360, 36)


async def test_time_is_measured_on_the_jobs_before(counting) -> None:
    service, _ = counting
    await service.http.post("/finetune", json={"data": ROWS})
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=9, max_losses=9)
    progress = Progress(step=1, total_steps=9, tokens_per_second=100.0, eta_seconds=30.0)
    service.ledger.jobs.record([JobNote(job=job, phase=Phase.TRAINING, progress=progress)])
    found = await estimate(service, n_epochs=2)
    assert (found["duration_seconds"], found["tokens_per_second"]) == (8.0, 100.0)
    assert found["duration_basis"] == "measured"
    assert found["queue_wait_seconds"] == 0
    await service.http.post("/finetune", json={"data": ROWS})
    assert (await estimate(service))["queue_wait_seconds"] is None


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"learning_rate": 0.01}, "learning_rate_high"),
        ({"learning_rate": 1e-6}, "learning_rate_low"),
        ({"n_epochs": 1, "batch_size": 16}, "few_steps"),
    ],
)
async def test_what_is_hardly_meant_is_warned_of(counting, options, code) -> None:
    service, _ = counting
    assert code in codes(await estimate(service, **options))
    assert code not in codes(await estimate(service))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"name": "Not Good"}, "name"),
        ({"lora": {"rank": 128}}, "lora.rank"),
        ({"epoch": 1}, "epoch"),
        ({"data": [{"input": "a"}]}, "training_file"),
    ],
)
async def test_what_a_job_would_be_refused_for_an_estimate_is_refused_for(
    counting, options, param
) -> None:
    service, _ = counting
    for path in ("/v1/fine_tuning/estimate", "/v1/fine_tuning/preview"):
        response = await service.http.post(path, json={"data": ROWS, **options})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_the_name_of_another_base_models_adapter_is_refused_before_there_is_a_job(
    counting,
) -> None:
    service, _ = counting
    service.publish("taken", base_model="another-base")
    service.publish("mine")
    for path in ("/v1/fine_tuning/estimate", "/v1/fine_tuning/preview", "/finetune"):
        body = {"data": ROWS, "name": "taken"}
        response = await service.http.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "name"), path
        assert "belongs to the base model 'another-base'" in response.json()["error"]["message"]
    await estimate(service, name="mine")


async def test_rows_that_would_all_be_left_out_are_refused_before_training(counting) -> None:
    service, fake = counting
    fake.too_long = len(ROWS)
    response = await service.http.post("/finetune", json={"data": ROWS, "dry_run": True})
    assert response.status_code == 400
    assert "No row is left" in response.json()["error"]["message"]


async def test_an_estimate_without_a_tokenizer_says_what_it_can(counting) -> None:
    service, fake = counting
    fake.trouble = Unavailable("nobody counts")
    found = await estimate(service, n_epochs=2, batch_size=4)
    assert (found["steps"], found["tokens"], found["dropped_rows"]) == (20, None, None)
    assert "nobody counts" in found["warnings"][-1]["message"]
    response = await service.http.post("/v1/fine_tuning/preview", json={"data": ROWS})
    assert response.status_code == 503


async def test_a_preview_labels_what_is_trained(counting) -> None:
    service, fake = counting
    body = {"data": ROWS, "n": 2, "max_seq_length": 100}
    found = (await service.http.post("/v1/fine_tuning/preview", json=body)).json()
    assert (found["object"], found["model"], found["method"]) == (
        "fine_tuning.preview",
        BASE,
        "supervised",
    )
    assert found["max_seq_length"] == fake.asked[-1].max_seq_length == 100
    assert (
        found["rows"]
        == [
            {
                "line": 1,
                "side": None,
                "tokens": ["a", "b", "c", "d"],
                "input_ids": [7, 8, 9, 10],
                "labels": [-100, 8, 9, -100],
                "trained_spans": [{"start": 1, "stop": 3, "weight": 0.5, "text": "bc"}],
                "num_tokens": 9,
                "num_trained_tokens": 3,
                "too_long": False,
                "truncated": True,
            }
        ]
        * 2
    )


@pytest.mark.parametrize("n", [0, 21, "many"])
async def test_a_preview_has_one_to_twenty_rows(counting, n) -> None:
    service, _ = counting
    response = await service.http.post("/v1/fine_tuning/preview", json={"data": ROWS, "n": n})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


# ---- in tokens, from a real one


async def test_the_service_looks_through_a_tokenizer_of_its_own(service: Running) -> None:
    directory = ledger_settings(service.home).base_model_dir(BASE)
    await asyncio.to_thread(write_speaker, directory)
    report = await validate(service, data=ROWS)
    # Of "answer 7" and "answer 17", each with its end-of-turn token.
    assert report["tokens"]["trained_tokens"] == 10 * 9 + 30 * 10
    found = await estimate(service, n_epochs=1)
    assert found["trained_tokens"] == report["tokens"]["trained_tokens"]
    shown = await service.http.post("/v1/fine_tuning/preview", json={"data": PAIRS, "n": 1})
    chosen, rejected = shown.json()["rows"]
    assert (chosen["side"], rejected["side"]) == ("chosen", "rejected")
    assert [span["text"] for span in chosen["trained_spans"]] == ["good 0<|im_end|>"]
    assert [span["text"] for span in rejected["trained_spans"]] == ["bad 0<|im_end|>"]
    assert shown.json()["method"] == "dpo"
