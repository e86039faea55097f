"""The queue over HTTP: priorities, what it shows, and how much room there is."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.records import (
    Job,
    JobNote,
    JobStatus,
    Phase,
    Priority,
    Progress,
)
from adapters.settings import QueueSettings
from tests.integration.service.conftest import BASE, Running, serving
from tests.support.samples import new_job, render

ROWS = [{"input": f"Question {n}", "target": f"Answer {n}"} for n in range(4)]


async def ask(service: Running, **options: object) -> dict:
    response = await service.http.post("/finetune", json={"data": ROWS, **options})
    assert response.status_code == 202, response.text
    return response.json()


def claim(service: Running) -> Job:
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    assert job is not None
    return job


async def test_the_queue_shows_what_runs_and_what_waits_in_order(service: Running) -> None:
    service.ledger.queue.attend("w", base_model=BASE, slots=1, lease_seconds=600)
    first = await ask(service)
    running = claim(service)
    progress = Progress(step=1, total_steps=2, percent=50.0, eta_seconds=90.0)
    note = JobNote(job=running, phase=Phase.TRAINING, progress=progress)
    service.ledger.jobs.record([note])
    low, high = await ask(service, priority="low"), await ask(service, priority="high")
    theirs = replace(new_job("theirs"), tenant="somebody-else", priority=Priority.NORMAL)
    service.ledger.jobs.submit(theirs, render=render)

    for path in ("/queue", "/v1/queue"):
        [line] = (await service.http.get(path)).json()["data"]
        assert (line["base_model"], line["max_concurrent_jobs"]) == (BASE, 1)
        [shown] = line["running"]
        assert (shown["id"], shown["percent"], shown["phase"]) == (first["id"], 50.0, "training")
        assert line["others"] == {"running": 0, "waiting": 1}
        waiting = [(job["id"], job["position"], job["priority"]) for job in line["waiting"]]
        assert waiting == [(high["id"], 1, "high"), (low["id"], 3, "low")]
        assert abs(line["waiting"][0]["estimated_start"] - shown["estimated_finish"]) <= 1
        assert theirs.id not in (await service.http.get(path)).text
    job = (await service.http.get(f"/finetune/{low['id']}")).json()
    assert (job["priority"], job["queue"]) == ("low", {"position": 3, "estimated_start": None})
    limits = (await service.http.get("/v1/fine_tuning/model_limits")).json()[BASE]
    assert limits["max_concurrent_jobs"] == 1


async def test_openais_clients_say_how_urgent_a_job_is(service: Running) -> None:
    file_id = (await ask(service))["training_file"]
    body = {"model": BASE, "training_file": file_id, "priority": "high"}
    made = await service.http.post("/v1/fine_tuning/jobs", json=body)
    assert (made.status_code, made.json()["priority"]) == (200, "high")
    assert claim(service).id == made.json()["id"]
    for path in ("/v1/fine_tuning/jobs", "/finetune"):
        refused = await service.http.post(path, json=body | {"priority": "urgent"})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "priority"


@pytest.mark.parametrize("path", ["/finetune", "/v1/fine_tuning/jobs"])
async def test_a_new_job_is_answered_with_the_room_that_is_left(
    path: str, service: Running
) -> None:
    file_id = (await ask(service))["training_file"]
    body = {"model": BASE, "training_file": file_id}
    told = (await service.http.post(path, json=body)).headers
    assert told["x-ratelimit-limit-jobs"] == "1000"
    assert told["x-ratelimit-remaining-jobs"] == "998"
    assert "x-ratelimit-reset-jobs" not in told, "nobody can tell yet"
    service.ledger.queue.attend("w", base_model=BASE, slots=9, lease_seconds=600)
    told = (await service.http.post(path, json=body)).headers
    assert told["x-ratelimit-reset-jobs"] == "0s"


async def test_what_the_operator_allows_is_what_may_be_asked_for(tmp_path: Path) -> None:
    rules = QueueSettings(max_queued=1, highest_priority="normal")
    async with serving(tmp_path, queue=rules) as (http, _):
        refused = await http.post("/finetune", json={"data": ROWS, "priority": "high"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "priority")
        assert (await http.post("/finetune", json={"data": ROWS})).status_code == 202
        full = await http.post("/finetune", json={"data": ROWS})
        assert (full.status_code, full.json()["error"]["code"]) == (429, "insufficient_quota")
        assert full.headers["x-should-retry"] == "false"
        assert "1 of your jobs wait already" in full.json()["error"]["message"]
        assert f"ask again in {full.headers['retry-after']} s" in full.json()["error"]["message"]


async def test_the_queue_is_measured_by_base_model(service: Running) -> None:
    await ask(service)
    text = (await service.http.get("/metrics")).text
    assert f'graft_queue_jobs{{base_model="{BASE}"}} 1.0' in text
    assert f'graft_queue_oldest_seconds{{base_model="{BASE}"}}' in text
    assert service.ledger.jobs.list()[0].status is JobStatus.QUEUED
