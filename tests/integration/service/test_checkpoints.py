from dataclasses import replace

import openai
import pytest

from adapters.ledger import CheckpointShelf
from adapters.records import Job
from tests.integration.service.conftest import BASE, Running, until
from tests.support.samples import adapter_directory, manifest, new_job, render

ROWS = [{"input": f"question {n}", "target": f"answer {n}"} for n in range(40)]


def train(service: Running, *steps: int, adapter: str = "bot") -> Job:
    """A job that runs, and was exported at those steps."""
    new = new_job(adapter, BASE)
    service.ledger.jobs.submit(new, render=render)
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    for step in steps:
        keep(service, job, step)
    return job


def keep(service: Running, job: Job, step: int) -> None:
    source = adapter_directory(service.home / f"{job.id}-{step}", content=f"{step}".encode())
    plain = manifest(job)
    ended = replace(plain.result, steps=step, best_step=step)
    service.ledger.checkpoints.keep(job, source, replace(plain, result=ended))


def name(job: Job, step: int) -> str:
    return f"ft:{BASE}:graft:{job.adapter}:{job.id[-8:]}:ckpt-step-{step}"


async def ask(service: Running, model: str) -> dict:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    response = await service.http.post("/v1/chat/completions", json=body)
    return {"status": response.status_code} | response.json()


@pytest.mark.parametrize("path", ["/v1/fine_tuning/jobs/{}", "/finetune/{}", "/v1/finetune/{}"])
async def test_checkpoints_are_listed_in_openai_s_words(path: str, service: Running) -> None:
    job = train(service, 10, 20, 30)
    where = path.format(job.id) + "/checkpoints"
    first = (await service.http.get(where, params={"limit": 2})).json()
    assert (first["object"], first["has_more"]) == ("list", True)
    assert [one["step_number"] for one in first["data"]] == [30, 20]
    newest = first["data"][0]
    assert newest["id"].startswith("ftckpt_")
    assert newest["object"] == "fine_tuning.job.checkpoint"
    assert newest["fine_tuning_job_id"] == job.id
    assert newest["fine_tuned_model_checkpoint"] == name(job, 30)
    assert newest["metrics"]["step"] == 30
    assert newest["metrics"]["full_valid_loss"] == 1.0
    rest = (await service.http.get(where, params={"limit": 2, "after": first["last_id"]})).json()
    assert (rest["has_more"], [one["step_number"] for one in rest["data"]]) == (False, [10])


async def test_a_list_of_nothing_and_of_nobody(service: Running) -> None:
    job = train(service)
    nothing = (await service.http.get(f"/finetune/{job.id}/checkpoints")).json()
    assert (nothing["data"], nothing["has_more"]) == ([], False)
    nobody = await service.http.get("/v1/fine_tuning/jobs/ftjob-none/checkpoints")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "job_not_found")
    wrong = await service.http.get(f"/finetune/{job.id}/checkpoints", params={"after": "ftckpt_x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


async def test_a_checkpoint_answers_to_its_name_while_its_job_trains(service: Running) -> None:
    job = train(service, 10)
    answer = await ask(service, name(job, 10))
    assert (answer["status"], answer["model"]) == (200, name(job, 10))
    assert service.engine.loads == [name(job, 10)]
    shown = (await service.http.get(f"/v1/models/{name(job, 10)}")).json()
    assert (shown["id"], shown["parent"]) == (name(job, 10), BASE)


async def test_the_database_is_asked_once(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train(service, 10)
    await ask(service, name(job, 10))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(CheckpointShelf, "find", never)
    assert (await ask(service, name(job, 10)))["status"] == 200
    assert len(service.engine.loads) == 1


async def test_one_that_is_no_longer_kept_is_not_found(service: Running) -> None:
    job = train(service, 10)
    assert (await ask(service, name(job, 10)))["status"] == 200
    for step in (20, 30, 40):
        keep(service, job, step)
    await service.http.get("/v1/models")  # the catalog has seen it
    gone = await ask(service, name(job, 10))
    assert (gone["status"], gone["error"]["code"]) == (404, "model_not_found")
    assert "A job keeps its last three" in gone["error"]["message"]
    assert (await ask(service, name(job, 40)))["status"] == 200


async def test_checkpoints_go_with_their_adapter(service: Running) -> None:
    service.publish("bot")
    job = train(service, 10)
    assert (await ask(service, name(job, 10)))["status"] == 200
    other = train(service, 10, adapter="other")
    assert (await ask(service, name(other, 10)))["status"] == 200
    await service.http.delete("/adapters/bot")
    assert (await ask(service, name(job, 10)))["status"] == 404

    async def unloaded() -> bool:
        return set(service.engine.adapters) == {name(other, 10)}

    await until(unloaded)


async def test_a_job_may_continue_a_checkpoint(service: Running) -> None:
    job = train(service, 10)
    asked = {"data": ROWS, "name": "next", "continue_from": name(job, 10)}
    response = await service.http.post("/finetune", json=asked)
    assert response.status_code == 202, response.text
    body = response.json()
    assert body["hyperparameters"]["continue_from"] == name(job, 10)
    assert body["hyperparameters"]["lora_rank"] == 16
    missing = await service.http.post("/finetune", json=asked | {"continue_from": name(job, 11)})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "adapter_not_found")
    assert missing.json()["error"]["param"] == "continue_from"


async def test_the_official_sdk_lists_all_pages_and_asks_one(service: Running) -> None:
    job = train(service, 10, 20, 30)
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any") as client:
        pages = client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
        found = [one async for one in pages]
        answer = await client.chat.completions.create(
            model=found[1].fine_tuned_model_checkpoint, messages=[{"role": "user", "content": "hi"}]
        )
    assert [one.step_number for one in found] == [30, 20, 10]
    assert found[0].metrics.full_valid_loss == 1.0
    assert answer.model == name(job, 20)
