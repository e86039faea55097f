"""The official SDK against the real service: OpenAI's fine-tuning jobs, unchanged."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from adapters.records import (
    EventKind,
    Job,
    JobNote,
    NewEvent,
    Phase,
    Progress,
)
from tests.integration.service.conftest import BASE, Running, serving
from tests.support.samples import adapter_directory, manifest, new_job, render

ROWS = [{"messages": [{"role": "user", "content": f"question {n}"},
                      {"role": "assistant", "content": f"answer {n}"}]} for n in range(40)]  # fmt: skip
PAIRS = [{"prompt": f"q {n}", "chosen": "yes", "rejected": "no"} for n in range(4)]


def jsonl(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.fixture
async def client(service: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as sdk:
        yield sdk


async def upload(client: AsyncOpenAI, rows: list[Any], purpose: Any = "fine-tune") -> str:
    file = await client.files.create(file=("train.jsonl", jsonl(rows)), purpose=purpose)
    return file.id


@pytest.fixture
async def training_file(client: AsyncOpenAI) -> str:
    return await upload(client, ROWS)


def claimed(service: Running) -> Job:
    job = service.ledger.jobs.claim(worker="test", base_model=BASE, lease_seconds=60, max_losses=9)
    assert job is not None
    return job


def told(job: Job, *entries: dict[str, Any]) -> JobNote:
    events = [NewEvent(kind=EventKind.METRICS, message="step", data=data) for data in entries]
    progress = Progress(step=1, total_steps=9, eta_seconds=30.0)
    return JobNote(job=job, phase=Phase.TRAINING, progress=progress, events=tuple(events))


def publish(service: Running, job: Job) -> str:
    source = adapter_directory(service.home / "made" / job.id, content=job.id.encode())
    return service.ledger.registry.publish(job, source, manifest(job), promote=True).name


# ---- create


async def test_a_job_of_the_sdk_is_created_trained_and_answers_by_its_name(
    service: Running, client: AsyncOpenAI, training_file: str
) -> None:
    created = await client.fine_tuning.jobs.create(
        model=BASE,
        training_file=training_file,
        suffix="My Bot",
        seed=7,
        metadata={"team": "red"},
        integrations=[{"type": "wandb", "wandb": {"project": "p"}}],
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={"lora": {"rank": 8}, "learning_rate": 1e-3},
    )
    assert (created.object, created.status, created.fine_tuned_model) == (
        "fine_tuning.job",
        "queued",
        None,
    )
    assert (created.seed, created.metadata, created.training_file) == (
        7,
        {"team": "red"},
        training_file,
    )
    assert created.hyperparameters.n_epochs == 2
    assert created.hyperparameters.batch_size == 2
    assert created.integrations[0].wandb.project == "p"
    assert created.adapter["name"] == "my-bot"
    assert created.adapter["rank"] == 8
    job = claimed(service)
    version = publish(service, job)
    done = await client.fine_tuning.jobs.retrieve(created.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model == f"ft:{BASE}:graft:my-bot:{created.id[-8:]}"
    assert done.adapter["version"] == version == "my-bot@1"
    reply = await client.chat.completions.create(
        model=done.fine_tuned_model, messages=[{"role": "user", "content": "Hello"}]
    )
    assert reply.model == "my-bot@1"


async def test_the_answer_is_200_as_openais(client: AsyncOpenAI, training_file: str) -> None:
    raw = await client.fine_tuning.jobs.with_raw_response.create(
        model=BASE, training_file=training_file, hyperparameters={"n_epochs": "auto", "lora_r": 8}
    )
    assert raw.status_code == 200
    assert raw.parse().adapter["name"].startswith("adapter-")
    assert raw.parse().hyperparameters.lora_rank == 8
    assert raw.headers["x-request-id"]


async def test_training_goes_on_from_what_a_job_has_made(
    service: Running, client: AsyncOpenAI, training_file: str
) -> None:
    version = service.publish("bot")
    for model in (str(version.fine_tuned_name), "bot", "bot@1"):
        job = await client.fine_tuning.jobs.create(model=model, training_file=training_file)
        assert job.model == BASE
        assert job.hyperparameters.continue_from == "bot@1"
        assert job.adapter["name"].startswith("adapter-")


async def test_finetune_continues_from_such_a_name_too(service: Running) -> None:
    version = service.publish("bot")
    body = {"data": ROWS, "continue_from": version.fine_tuned_name}
    job = (await service.http.post("/finetune", json=body)).json()
    assert job["hyperparameters"]["continue_from"] == "bot@1"


@pytest.mark.parametrize(
    ("fields", "error", "code", "param"),
    [
        ({"training_file": "file-none"}, openai.BadRequestError, "invalid_training_file", "training_file"),
        ({"validation_file": "file-none"}, openai.BadRequestError, "invalid_validation_file", "validation_file"),
        ({"model": "gpt-4o-mini"}, openai.NotFoundError, "model_not_found", "model"),
        ({"model": "ft:tiny-base:graft:bot:00000000"}, openai.NotFoundError, "model_not_found", "model"),
        ({"method": {"type": "reinforcement"}}, openai.BadRequestError, "unsupported_method", "method"),
        ({"extra_body": {"lora_rnk": 8}}, openai.BadRequestError, "unknown_field", "lora_rnk"),
        ({"extra_body": {"lora_rank": 128}}, openai.BadRequestError, "not_servable", "lora.rank"),
        ({"hyperparameters": {"n_epochs": 0}}, openai.BadRequestError, "invalid_value", "n_epochs"),
    ],
)  # fmt: skip
async def test_what_can_be_refused_at_once_is_and_makes_no_job(
    service: Running,
    client: AsyncOpenAI,
    training_file: str,
    fields: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    param: str,
) -> None:
    with pytest.raises(error) as refused:
        await client.fine_tuning.jobs.create(
            **{"model": BASE, "training_file": training_file} | fields
        )
    assert (refused.value.code, refused.value.param) == (code, param)
    assert service.ledger.jobs.list() == []


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{",
        "[" * 100_000,
        '{"model": "\\ud800", "training_file": "f"}',
        '{"model": "tiny-base", "training_file": "f", "metadata": {"a": "\\udfff"}}',
        '{"model": "tiny-base", "training_file": "f", "\\ud800": 1}',
        '{"model": "tiny-base", "training_file": "f", "learning_rate": NaN}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs", "/finetune"])
async def test_a_body_that_is_no_plain_json_object_is_a_400(
    service: Running, path: str, body: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await service.http.post(path, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_request")


async def test_a_file_of_another_purpose_is_refused_at_once(
    service: Running, client: AsyncOpenAI
) -> None:
    file_id = await upload(client, ROWS, "batch")
    with pytest.raises(openai.BadRequestError, match="purpose 'batch'") as refused:
        await client.fine_tuning.jobs.create(model=BASE, training_file=file_id)
    assert refused.value.param == "training_file"


@pytest.mark.parametrize(
    ("training", "validation", "fields", "code", "param"),
    [
        ([{"messages": []}, *ROWS], None, {}, "invalid_training_file", "training_file"),
        ([], None, {}, "invalid_training_file", "training_file"),
        ([], None, {"method": {"type": "dpo"}}, "invalid_training_file", "training_file"),
        (ROWS, None, {"method": {"type": "dpo"}}, "invalid_training_file", "training_file"),
        (PAIRS, None, {"method": {"type": "supervised"}}, "invalid_training_file", "training_file"),
        (ROWS, [{"messages": 3}], {}, "invalid_validation_file", "validation_file"),
        (ROWS, PAIRS, {}, "invalid_validation_file", "validation_file"),
    ],
)  # fmt: skip
async def test_bad_rows_are_accepted_and_fail_the_job_which_says_why(
    service: Running,
    client: AsyncOpenAI,
    training: list[Any],
    validation: list[Any] | None,
    fields: dict[str, Any],
    code: str,
    param: str,
) -> None:
    training_id = await upload(client, training)
    if validation is not None:
        fields = fields | {"validation_file": await upload(client, validation)}
    created = await client.fine_tuning.jobs.create(model=BASE, training_file=training_id, **fields)
    job = await client.fine_tuning.jobs.retrieve(created.id)
    assert job.status == created.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == (code, param)
    assert job.finished_at is not None
    events = (await client.fine_tuning.jobs.list_events(job.id)).data
    assert [event.message for event in events[1:]] == [
        f"Validating training file: {training_id}",
        f"Created fine-tuning job: {job.id}",
    ]
    assert (events[0].level, events[0].message) == ("error", job.error.message)
    assert service.ledger.jobs.claim(
        worker="test", base_model=BASE, lease_seconds=60, max_losses=9
    ) is None  # fmt: skip


async def test_the_first_bad_rows_are_listed_in_the_event(client: AsyncOpenAI) -> None:
    file_id = await upload(client, [*ROWS, {"messages": 3}, *ROWS, {}])
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=file_id)
    failed = (await client.fine_tuning.jobs.list_events(job.id)).data[0]
    assert [detail["line"] for detail in failed.data["details"]] == [41, 82]
    assert "2 problems" in failed.message


# ---- the same request once more


class Breaking(httpx2.AsyncHTTPTransport):
    """Loses the first answers to POSTs of jobs, after the server has given them."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if request.url.path.endswith("/jobs") and self.left > 0:
            self.left -= 1
            await response.aclose()
            raise httpx2.ReadError("the connection broke", request=request)
        return response


async def test_what_the_sdk_repeats_by_itself_makes_one_job(
    service: Running, training_file: str
) -> None:
    broken = Breaking(times=2)
    http = httpx2.AsyncClient(transport=broken)
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="x", http_client=http) as sdk:
        job = await sdk.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    assert broken.left == 0
    assert [one.id for one in service.ledger.jobs.list()] == [job.id]


async def test_the_same_body_is_the_same_request_only_where_it_is_a_repetition(
    service: Running, training_file: str
) -> None:
    path = "/v1/fine_tuning/jobs"
    body = {"model": BASE, "training_file": training_file}
    sent = []
    for count in ("0", "1", "2"):
        headers = {"x-stainless-retry-count": count}
        sent.append((await service.http.post(path, json=body, headers=headers)).json()["id"])
    assert len(set(sent)) == 1
    again = await service.http.post(path, json=body, headers={"x-stainless-retry-count": "0"})
    other = await service.http.post(
        path, json=body | {"seed": 1}, headers={"x-stainless-retry-count": "1"}
    )
    assert len({*sent, again.json()["id"], other.json()["id"]}) == 3
    assert len(service.ledger.jobs.list()) == 3


async def test_an_idempotency_key_is_honoured(client: AsyncOpenAI, training_file: str) -> None:
    asked = {
        "model": BASE,
        "training_file": training_file,
        "extra_headers": {"Idempotency-Key": "k"},
    }
    first = await client.fine_tuning.jobs.create(**asked)
    again = await client.fine_tuning.jobs.with_raw_response.create(**asked)
    assert again.parse().id == first.id
    assert again.headers["idempotent-replayed"] == "true"
    with pytest.raises(openai.UnprocessableEntityError):
        await client.fine_tuning.jobs.create(**asked, seed=3)


# ---- list, cancel, events


async def test_every_job_is_found_by_paging_on(service: Running, client: AsyncOpenAI) -> None:
    ids = []
    for n in range(250):
        new = replace(new_job(), metadata={"half": str(n % 2)} if n >= 10 else None)
        ids.append(service.ledger.jobs.submit(new, render=render).body)
    seen = [job.id async for job in client.fine_tuning.jobs.list()]
    assert sorted(seen) == sorted(ids)
    assert len((await client.fine_tuning.jobs.list()).data) == 20
    half = [job.id async for job in client.fine_tuning.jobs.list(metadata={"half": "1"}, limit=50)]
    assert sorted(half) == sorted(ids[11::2])
    raw = await service.http.get("/v1/fine_tuning/jobs?metadata=null&limit=100")
    assert sorted(job["id"] for job in raw.json()["data"]) == sorted(ids[:10])
    wrong = await service.http.get("/v1/fine_tuning/jobs?metadata=x")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "metadata")


async def test_jobs_come_newest_first(service: Running, client: AsyncOpenAI) -> None:
    ids = []
    for _ in range(3):
        ids.append(service.ledger.jobs.submit(new_job(), render=render).body)
        await asyncio.sleep(0.01)
    page = await client.fine_tuning.jobs.list(limit=2)
    assert [job.id for job in page.data] == ids[:0:-1]
    assert [job.id for job in (await page.get_next_page()).data] == ids[:1]


async def test_cancelling_twice_is_no_error(client: AsyncOpenAI, training_file: str) -> None:
    job = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    assert (await client.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
    assert (await client.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        await client.fine_tuning.jobs.cancel("ftjob-none")


async def test_the_log_is_paged_backwards_in_the_words_that_clients_look_for(
    service: Running, client: AsyncOpenAI, training_file: str
) -> None:
    created = await client.fine_tuning.jobs.create(
        model=BASE, training_file=training_file, suffix="bot"
    )
    job = claimed(service)
    service.ledger.jobs.record([told(job, *({"step": n, "train_loss": 1.0} for n in range(30)))])
    publish(service, job)
    page = await client.fine_tuning.jobs.list_events(created.id)
    assert len(page.data) == 20
    every = [event async for event in client.fine_tuning.jobs.list_events(created.id, limit=7)]
    assert len({event.id for event in every}) == len(every) == 37
    messages = [event.message for event in every if event.type == "message"]
    assert messages == [
        "The job has successfully completed",
        f"New fine-tuned model created: ft:{BASE}:graft:bot:{created.id[-8:]}",
        "Checkpoint created at step 3",
        "Fine-tuning job started",
        "Files validated, moving job to queued state",
        f"Validating training file: {training_file}",
        f"Created fine-tuning job: {created.id}",
    ]
    after = await client.fine_tuning.jobs.list_events(created.id, after=every[34].id)
    assert [event.message for event in after.data] == messages[-2:]
    with pytest.raises(openai.BadRequestError):
        await client.fine_tuning.jobs.list_events(created.id, after="ftevent-other-3")


async def test_the_log_can_be_streamed(service: Running) -> None:
    version = service.publish("bot")
    path = f"/v1/fine_tuning/jobs/{version.job_id}/events?stream=true"
    response = await service.http.get(path)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "id: 1\n" in response.text
    assert "event: done" in response.text
    tail = str(version.job_id).removeprefix("ftjob-")
    rest = await service.http.get(f"{path}&after=ftevent-{tail}-3")
    assert "id: 3\n" not in rest.text
    assert "id: 4\n" in rest.text


# ---- what was measured


async def test_the_result_file_of_a_job_is_csv(
    service: Running, client: AsyncOpenAI, training_file: str
) -> None:
    created = await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    job = claimed(service)
    service.ledger.jobs.record(
        [told(job, {"step": 1, "train_loss": 2.0}, {"step": 2, "train_loss": 1.5, "train_mean_token_accuracy": 0.5}, {"step": 2, "valid_loss": 1.75, "valid_mean_token_accuracy": 0.25})]
    )  # fmt: skip
    running = await client.fine_tuning.jobs.retrieve(created.id)
    assert running.result_files == []
    assert "results" not in running.links
    expected = f"file-result-{created.id.removeprefix('ftjob-')}"
    with pytest.raises(openai.NotFoundError):
        await client.files.content(expected)
    publish(service, job)
    [file_id] = (await client.fine_tuning.jobs.retrieve(created.id)).result_files
    assert file_id == expected
    content = (await client.files.content(file_id)).read()
    assert content.decode().splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,2.0,,,",
        "2,1.5,0.5,1.75,0.25",
    ]
    file = await client.files.retrieve(file_id)
    assert (file.purpose, file.bytes, file.status) == (
        "fine-tune-results",
        len(content),
        "processed",
    )
    with pytest.raises(openai.BadRequestError):
        await client.files.delete(file_id)
    links = (await client.fine_tuning.jobs.retrieve(created.id)).links
    assert (await service.http.get(links["results"])).content == content


async def test_a_jobs_links_lead_somewhere(service: Running, training_file: str) -> None:
    body = {"model": BASE, "training_file": training_file}
    links = (await service.http.post("/v1/fine_tuning/jobs", json=body)).json()["links"]
    done = ["pause", "resume", "cancel"]
    for what in done:
        assert (await service.http.post(links.pop(what))).status_code == 200, what
    assert set(links) == {"self", "events", "checkpoints", "metrics"}
    for what, path in links.items():
        assert (await service.http.get(path)).status_code == 200, what


async def test_the_series_is_cut_and_thinned(service: Running, training_file: str) -> None:
    body = {"model": BASE, "training_file": training_file}
    job_id = (await service.http.post("/v1/fine_tuning/jobs", json=body)).json()["id"]
    path = f"/v1/fine_tuning/jobs/{job_id}/metrics"
    assert (await service.http.get(path)).json()["data"] == []
    job = claimed(service)
    service.ledger.jobs.record(
        [told(job, *({"step": n, "train_loss": float(n)} for n in range(1, 101)))]
    )
    whole = (await service.http.get(path)).json()
    assert [point["step"] for point in whole["data"]] == list(range(1, 101))
    part = (
        await service.http.get(path, params={"step_from": 11, "to": 20, "resolution": 5})
    ).json()
    assert part["steps"] == 10
    assert [(point["step"], point["train_loss"]) for point in part["data"]] == [
        (12, 11.5), (14, 13.5), (16, 15.5), (18, 17.5), (20, 19.5),
    ]  # fmt: skip
    assert (await service.http.get("/v1/fine_tuning/jobs/ftjob-none/metrics")).status_code == 404


# ---- models


async def test_models_are_listed_found_and_deleted_by_openais_names(
    service: Running, client: AsyncOpenAI
) -> None:
    first, second = service.publish("bot"), service.publish("bot")
    names = [str(version.fine_tuned_name) for version in (first, second)]
    listed = {model.id: model async for model in client.models.list()}
    assert {BASE, "bot", "bot@1", "bot@2", *names} == set(listed)
    assert (listed[names[0]].owned_by, listed[names[0]].root) == ("graft", BASE)
    assert (await client.models.retrieve(names[0])).id == names[0]
    encoded = names[0].replace(":", "%3A")
    assert (await service.http.get(f"/v1/models/{encoded}")).json()["parent"] == BASE
    download = await service.http.get(f"/adapters/{names[0]}/download")
    assert 'filename="bot-1.tar"' in download.headers["content-disposition"]
    deleted = await client.models.delete(names[1])
    assert (deleted.id, deleted.deleted, deleted.object) == (names[1], True, "model")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve(names[1])
    assert (await service.http.get("/adapters/bot")).json()["live"] == "bot@1"
    await client.models.delete(names[0])
    assert [model.id async for model in client.models.list()] == [BASE]
    for unknown in (names[1], f"{names[1]}:ckpt-step-3", "bot"):
        with pytest.raises(openai.NotFoundError):
            await client.models.delete(unknown)
    with pytest.raises(openai.BadRequestError, match="base model"):
        await client.models.delete(BASE)


async def test_a_bare_name_is_deleted_with_all_its_versions(
    service: Running, client: AsyncOpenAI
) -> None:
    service.publish("bot")
    service.publish("bot")
    await client.models.delete("bot")
    assert [model.id async for model in client.models.list()] == [BASE]


async def test_a_version_can_be_deleted_by_that_name_at_adapters_too(service: Running) -> None:
    first = service.publish("bot")
    service.publish("bot")
    response = await service.http.delete(f"/adapters/{first.fine_tuned_name}")
    assert response.status_code == 200, response.text
    assert [version.number for version in service.ledger.registry.get("bot").versions] == [2]


# ---- limits


async def test_a_full_queue_says_how_full_and_when_to_come_again(tmp_path: Path) -> None:
    async with serving(tmp_path, max_queued_jobs=1) as (http, url):
        sdk = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)
        file_id = await upload(sdk, ROWS)
        await sdk.fine_tuning.jobs.create(model=BASE, training_file=file_id)
        with pytest.raises(openai.RateLimitError, match="1 jobs wait already") as refused:
            await sdk.fine_tuning.jobs.create(model=BASE, training_file=file_id)
        assert refused.value.code == "queue_full"
        assert refused.value.response.headers["retry-after"] == "60"
        one_call = await http.post("/finetune", json={"data": ROWS})
        assert (one_call.status_code, one_call.json()["error"]["code"]) == (429, "queue_full")
        assert len((await sdk.files.list()).data) == 1
        bad = await upload(sdk, [{}])
        failed = await sdk.fine_tuning.jobs.create(model=BASE, training_file=bad)
        assert failed.status == "failed"
        await sdk.close()


async def test_limits_say_what_may_be_asked_for_and_how_busy_it_is(
    service: Running, client: AsyncOpenAI, training_file: str
) -> None:
    path = "/v1/fine_tuning/model_limits"
    idle = (await service.http.get(path)).json()[BASE]
    assert (idle["active_jobs"], idle["queued_jobs"], idle["estimated_wait_seconds"]) == (0, 0, 0)
    assert (idle["max_total_jobs"], idle["max_lora_rank"], idle["max_seq_length"]) == (
        1000,
        64,
        2048,
    )
    assert idle["methods"] == ["supervised", "dpo"]
    for _ in range(2):
        await client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    service.ledger.jobs.record([told(claimed(service))])
    # The one that waits takes the place of the one that runs; one more waits for a job of which nothing is known.
    busy = (await service.http.get(path)).json()[BASE]
    assert (busy["active_jobs"], busy["queued_jobs"]) == (1, 1)
    assert (busy["max_concurrent_jobs"], busy["estimated_wait_seconds"]) == (None, None)
    service.ledger.queue.attend("w", base_model=BASE, slots=2, lease_seconds=600)
    roomy = (await service.http.get(path)).json()[BASE]
    assert (roomy["max_concurrent_jobs"], roomy["estimated_wait_seconds"]) == (2, 30)
