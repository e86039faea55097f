import asyncio
import io
import json
import tarfile
from typing import Any

import httpx
import pytest

from adapters.records import (
    EventKind,
    JobError,
    JobNote,
    JobStatus,
    NewEvent,
    Phase,
    Progress,
)
from tests.integration.service.conftest import BASE, Running, serving, until
from tests.support.samples import weights_of

ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(40)]
JSONL = "\n".join(json.dumps(row) for row in ROWS).encode()


async def post(service: Running, **options: Any) -> httpx.Response:
    return await service.http.post("/finetune", json={"data": ROWS, **options})


async def upload(service: Running, content: bytes = JSONL, **fields: str) -> httpx.Response:
    return await service.http.post(
        "/finetune", files={"data": ("train.jsonl", content)}, data=fields
    )


async def test_rows_in_json_make_a_job(service: Running) -> None:
    response = await post(service, name="bot")
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/finetune/{job['id']}"
    assert (job["status"], job["phase"], job["model"]) == ("queued", "queued", BASE)
    assert job["dataset"]["format"] == "input_target"
    assert job["dataset"]["rows"] == 40
    assert job["hyperparameters"]["batch_size"] == 2
    assert job["hyperparameters"]["n_epochs"] == 6
    shown = (await service.http.get(f"/finetune/{job['id']}")).json()
    assert shown["queue"] == {"position": 1, "estimated_start": None}
    assert shown == job


async def test_a_file_in_a_form_makes_the_same_job(service: Running) -> None:
    response = await upload(
        service, name="bot", n_epochs="2", learning_rate="1e-3", lora='{"rank": 8}', gate="off"
    )
    assert response.status_code == 202, response.text
    job = response.json()
    assert job["hyperparameters"]["n_epochs"] == 2
    assert job["hyperparameters"]["learning_rate"] == 1e-3
    assert (job["adapter"]["rank"], job["hyperparameters"]["lora_alpha"]) == (8, 16.0)
    stored = service.ledger.files.path(job["training_file"])
    assert stored.read_bytes() == JSONL


async def test_a_file_uploaded_before_is_used_by_its_id(service: Running) -> None:
    sent = await service.http.post(
        "/v1/files", files={"file": ("t.jsonl", JSONL)}, data={"purpose": "fine-tune"}
    )
    file = sent.json()
    assert (file["bytes"], file["status"]) == (len(JSONL), "processed")
    response = await service.http.post("/finetune", json={"training_file": file["id"]})
    assert response.json()["training_file"] == file["id"]
    assert response.json()["adapter"]["name"].startswith("adapter-")
    in_use = await service.http.delete(f"/v1/files/{file['id']}")
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (400, "file_in_use")
    assert (await service.http.get(f"/v1/files/{file['id']}/content")).content == JSONL


@pytest.mark.parametrize(
    ("options", "param", "says"),
    [
        ({"n_epoch": 3}, "n_epoch", "'n_epochs'"),
        ({"learning_rat": 3}, "learning_rat", "'learning_rate'"),
        ({"n_epochs": 0}, "n_epochs", "at least 1"),
        ({"n_epochs": "many"}, "n_epochs", "many"),
        ({"learning_rate": -1}, "learning_rate", "above 0"),
        ({"lora": {"rank": 128}}, "lora.rank", "at most 64"),
        ({"lora": {"rank": 128}}, "lora.rank", "raise engine.max_lora_rank"),
        ({"lora": {"rnk": 8}}, "lora.rnk", "rank"),
        ({"lora": "{bad"}, "lora", "JSON"),
        ({"gate": "maybe"}, "gate", "auto"),
        ({"name": "Not Good"}, "name", "a-z"),
        ({"name": "text"}, "name", "reserved"),
        ({"name": BASE}, "name", "reserved"),
        ({"base_model": "gpt-9"}, "base_model", BASE),
        ({"max_seq_length": 10**6}, "max_seq_length", "at most"),
        ({"validation_split": 0.9}, "validation_split", "0.5"),
        ({"defaults": {"max_tokens": 10**6}}, "max_tokens", "at most 32768"),
    ],
)
async def test_a_wrong_option_is_a_400_that_names_it_and_says_what_to_do(
    service: Running, options: dict[str, Any], param: str, says: str
) -> None:
    response = await post(service, **options)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert says in error["message"]
    assert service.ledger.jobs.list() == []


async def test_fields_that_nothing_reads_are_told_of(service: Running) -> None:
    rows = [{**row, "id": n} for n, row in enumerate(ROWS)]
    job = (await service.http.post("/finetune", json={"data": rows})).json()
    assert job["dataset"]["ignored_fields"] == ["id"]
    told = service.ledger.jobs.events(job["id"])[2]
    assert (told.level, told.message) == ("warn", "These fields of the data are not used: id")


async def test_bad_rows_are_listed_with_line_field_and_reason(service: Running) -> None:
    bad = b'{"input": "a", "target": "b"}\n{"input": "a"}\nnot json\n{"input": 3, "target": "b"}\n'
    response = await upload(service, bad)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_training_file", "training_file")
    assert [detail["line"] for detail in error["details"]] == [2, 3, 4]
    assert error["details"][0]["field"] == "target"
    assert service.ledger.jobs.list() == []
    assert list(service.ledger.files.list()) == []


@pytest.mark.parametrize(
    "send",
    [
        {"json": {"name": "x"}},
        {"json": {"data": ROWS, "training_file": "file-1"}},
        {"json": {"data": "train.jsonl"}},
        {"data": {"data": "train.jsonl"}, "files": {"other": b"x"}},
        {"content": b"{", "headers": {"content-type": "application/json"}},
    ],
)
async def test_no_data_or_two_sources_of_it_are_refused(
    service: Running, send: dict[str, Any]
) -> None:
    response = await service.http.post("/finetune", **send)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


async def test_a_body_of_another_type_is_a_415(service: Running) -> None:
    response = await service.http.post("/finetune", content=b"x", headers={"content-type": "a/b"})
    assert (response.status_code, response.json()["error"]["code"]) == (
        415,
        "unsupported_media_type",
    )


async def test_an_unknown_training_file_is_a_404(service: Running) -> None:
    response = await service.http.post("/finetune", json={"training_file": "file-none"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")


async def test_the_same_idempotency_key_makes_one_job(service: Running) -> None:
    headers = {"Idempotency-Key": "abc"}

    async def send(name: str) -> httpx.Response:
        return await service.http.post(
            "/finetune", files={"data": JSONL}, data={"name": name}, headers=headers
        )

    first, second = await send("bot"), await send("bot")
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert len(service.ledger.jobs.list()) == 1
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    other = await send("another")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


async def test_the_same_key_with_other_validation_rows_is_another_request(service: Running) -> None:
    headers = {"Idempotency-Key": "abc"}
    for validation, status in ((ROWS[:3], 202), (ROWS[:3], 202), (ROWS[:4], 422)):
        body = {"data": ROWS, "validation_data": validation}
        response = await service.http.post("/finetune", json=body, headers=headers)
        assert response.status_code == status, response.text


async def test_a_cancelled_job_is_cancelled_at_once_and_stays_so(service: Running) -> None:
    job_id = (await post(service)).json()["id"]
    first = await service.http.post(f"/finetune/{job_id}/cancel")
    again = await service.http.delete(f"/finetune/{job_id}")
    assert first.json()["status"] == again.json()["status"] == "cancelled"


async def test_a_job_that_has_failed_says_why(service: Running) -> None:
    job_id = (await post(service)).json()["id"]
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=9, max_losses=9)
    service.ledger.jobs.fail(job.id, job.attempt, JobError(code="loss_diverged", message="NaN"))
    shown = (await service.http.get(f"/finetune/{job_id}")).json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "loss_diverged")
    refused = await service.http.post(f"/finetune/{job_id}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "job_not_cancellable")


async def test_jobs_are_listed_newest_first_in_pages(service: Running) -> None:
    ids = [(await post(service)).json()["id"] for _ in range(5)]
    page = (await service.http.get("/finetune", params={"limit": 3})).json()
    rest = (await service.http.get("/finetune", params={"after": page["last_id"]})).json()
    assert page["has_more"]
    assert not rest["has_more"]
    assert [job["id"] for job in page["data"] + rest["data"]] == ids[::-1]


async def test_progress_and_eta_are_shown_while_it_runs(service: Running) -> None:
    job_id = (await post(service)).json()["id"]
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=9, max_losses=9)
    progress = Progress(
        step=5,
        total_steps=10,
        percent=50,
        train_loss=1.5,
        eta_seconds=20,
        reward_accuracy=0.75,
        train_accuracy=0.5,
        valid_accuracy=0.25,
    )
    service.ledger.jobs.record([JobNote(job=job, phase=Phase.TRAINING, progress=progress)])
    shown = (await service.http.get(f"/finetune/{job_id}")).json()
    assert (shown["status"], shown["phase"], shown["queue"]) == ("running", "training", None)
    assert (shown["progress"]["percent"], shown["progress"]["train_loss"]) == (50, 1.5)
    assert shown["progress"]["reward_accuracy"] == 0.75
    assert shown["progress"]["train_mean_token_accuracy"] == 0.5
    assert shown["progress"]["valid_mean_token_accuracy"] == 0.25
    assert shown["estimated_finish"] > shown["created_at"]


# ---- events


def parse(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


async def test_the_event_stream_replays_follows_and_ends_with_the_job(service: Running) -> None:
    job_id = (await post(service)).json()["id"]
    reading = asyncio.create_task(service.http.get(f"/finetune/{job_id}/events"))
    await asyncio.sleep(0.1)
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=9, max_losses=9)
    event = NewEvent(kind=EventKind.METRICS, message="Step 1/2", data={"step": 1})
    note = JobNote(job=job, phase=Phase.TRAINING, progress=Progress(), events=(event,))
    service.ledger.jobs.record([note])
    service.ledger.jobs.cancel(job_id)
    response = await asyncio.wait_for(reading, 5)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [event for event in parse(response.text) if "event" in event]
    assert [event["event"] for event in events] == [
        *["status"] * 4,
        "metrics",
        "status",
        "done",
    ]
    assert [event.get("id") for event in events] == [*"123456", None]
    assert json.loads(events[4]["data"])["data"] == {"step": 1}
    assert json.loads(events[-1]["data"])["status"] == JobStatus.CANCELLED


async def test_a_reader_continues_after_the_last_event_it_saw_also_after_a_restart(
    service: Running,
) -> None:
    job_id = (await post(service)).json()["id"]
    service.ledger.jobs.cancel(job_id)
    path, headers = f"/finetune/{job_id}/events", {"Last-Event-ID": "3"}
    before = await service.http.get(path, headers=headers)
    async with serving(service.home) as (client, _):
        after = await client.get(path, headers=headers)
    assert before.text == after.text
    assert [event.get("id") for event in parse(before.text) if "event" in event] == ["4", None]


# ---- adapters


async def test_adapters_are_listed_with_versions_and_what_is_live(service: Running) -> None:
    service.publish("bot")
    service.publish("bot", promote=False)

    async def live_is_loaded() -> bool:  # ahead of use, in the background
        found = (await service.http.get("/adapters/bot")).json()
        return bool(found.get("versions")) and found["versions"][0]["resident"]

    await until(live_is_loaded)
    [entry] = (await service.http.get("/adapters")).json()["data"]
    assert (entry["name"], entry["live"], entry["aliases"]) == ("bot", "bot@1", {"live": 1})
    assert [version["name"] for version in entry["versions"]] == ["bot@1", "bot@2"]
    assert (entry["versions"][0]["parent"], entry["versions"][0]["method"]) == (None, "supervised")
    assert (await service.http.get("/adapters/bot")).json() == entry
    assert (await service.http.get("/adapters/none")).status_code == 404


async def test_a_version_downloads_as_a_tar_of_its_peft_directory(service: Running) -> None:
    version = service.publish("bot")
    for name in ("bot", "bot@1"):
        response = await service.http.get(f"/adapters/{name}/download")
        with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
            weights = tar.extractfile("bot-1/adapter_model.safetensors").read()
            assert tar.getnames() == [
                "bot-1/adapter_config.json",
                "bot-1/adapter_model.safetensors",
            ]
        assert weights == weights_of(version.job_id.encode())
    assert (await service.http.get("/adapters/bot@9/download")).status_code == 404


async def test_a_deleted_adapter_is_gone_from_every_list(service: Running) -> None:
    service.publish("bot")
    assert (await service.http.delete("/adapters/bot")).json()["deleted"]
    assert (await service.http.get("/adapters/bot")).status_code == 404
    models = (await service.http.get("/v1/models")).json()["data"]
    assert [card["id"] for card in models] == [BASE]
    gone = await service.http.post("/v1/chat/completions", json={"model": "bot", "messages": []})
    assert gone.status_code == 404


async def test_a_single_version_is_deleted_by_its_name(service: Running) -> None:
    service.publish("bot")
    service.publish("bot")
    live = await service.http.delete("/adapters/bot@2")
    assert live.status_code == 400
    assert (await service.http.delete("/adapters/bot@1")).status_code == 200
    entry = (await service.http.get("/adapters/bot")).json()
    assert [version["name"] for version in entry["versions"]] == ["bot@2"]


async def test_models_lists_bases_names_and_versions(service: Running) -> None:
    version = service.publish("bot")
    models = (await service.http.get("/v1/models")).json()["data"]
    assert [(card["id"], card["parent"]) for card in models] == [
        (BASE, None),
        ("bot", BASE),
        ("bot@1", BASE),
        (version.fine_tuned_name, BASE),
    ]
    one = (await service.http.get("/v1/models/bot%401")).json()
    assert one["id"] == "bot@1"


# ---- the house rules of every response


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("DELETE", "/v1/chat/completions", 405),
        ("GET", "/finetune/ftjob-none", 404),
        ("GET", "/finetune/ftjob-none/events", 404),
        ("GET", "/finetune?limit=0", 400),
        ("POST", "/adapters/none/promote", 400),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/files/none", 404),
    ],
)
async def test_every_error_has_the_envelope_and_an_id(
    service: Running, method: str, path: str, status: int
) -> None:
    response = await service.http.request(method, path, headers={"x-request-id": "mine-1"})
    assert response.status_code == status, response.text
    assert {"message", "type", "param", "code"} <= set(response.json()["error"])
    assert response.headers["x-request-id"] == "mine-1"


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(service: Running) -> None:
    async with serving(service.home, max_body_bytes=1000) as (client, _):
        announced = await client.post("/v1/chat/completions", content=b"x" * 2000)

        async def drip():
            yield b'--b\r\nContent-Disposition: form-data; name="data"; filename="f"\r\n\r\n'
            for _ in range(20):
                yield b"x" * 100

        chunked = await client.post("/v1/chat/completions", content=drip())
    async with serving(service.home, max_upload_bytes=1000) as (client, _):
        form = {"content-type": "multipart/form-data; boundary=b"}
        upload = await client.post("/v1/files", content=drip(), headers=form)
        train = await client.post("/finetune", content=drip(), headers=form)
    for response in (announced, chunked, upload, train):
        assert (response.status_code, response.json()["error"]["code"]) == (413, "file_too_large")


async def test_an_error_that_nobody_foresaw_has_the_envelope_and_an_id_too(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr("service.routes.adapters.wire_adapter", broken)
    service.publish("bot")
    response = await service.http.get("/adapters/bot", headers={"x-request-id": "mine-2"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "mine-2")
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_an_adapter_whose_base_model_was_taken_away_is_a_404_and_breaks_nothing(
    service: Running,
) -> None:
    service.publish("old", base_model="another-base")
    response = await service.http.post(
        "/v1/chat/completions", json={"model": "old", "messages": []}
    )
    assert response.status_code == 404
    assert "another-base" in response.json()["error"]["message"]
    assert (await service.http.get("/adapters/old")).status_code == 200
    assert (await service.http.get("/adapters")).status_code == 200


async def test_metrics_count_by_template_and_outcome(service: Running) -> None:
    service.publish("bot")
    await service.http.post("/v1/chat/completions", json={"model": "bot", "messages": []})
    await service.http.get("/finetune/ftjob-none")
    text = (await service.http.get("/metrics")).text
    assert f'graft_completions_total{{base_model="{BASE}",kind="adapter",outcome="ok"}} 1.0' in text
    assert 'route="/finetune/{job_id}",status="404"' in text
    assert "ftjob-none" not in text
    assert 'graft_jobs{status="succeeded"} 1.0' in text
