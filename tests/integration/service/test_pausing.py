import time
from pathlib import Path

import openai
import pytest

from adapters.ledger import Ledger, open_ledger
from adapters.records import (
    JobNote,
    Phase,
    Progress,
)
from tests.integration.service.conftest import BASE, Running, ledger_settings, serving
from tests.support.samples import new_job, render

JSON = {"content-type": "application/json"}
PATHS = ["/finetune/{}", "/v1/finetune/{}", "/v1/fine_tuning/jobs/{}"]


def submit(ledger: Ledger) -> str:
    return ledger.jobs.submit(new_job(), render=render).body


async def act(service: Running, path: str, job_id: str, what: str) -> dict:
    response = await service.http.post(f"{path.format(job_id)}/{what}", headers=JSON)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("path", PATHS)
async def test_a_waiting_job_is_paused_and_resumed_without_a_body(
    path: str, service: Running
) -> None:
    job_id = submit(service.ledger)
    paused = await act(service, path, job_id, "pause")
    assert (paused["id"], paused["status"], paused["phase"]) == (job_id, "paused", "paused")
    assert paused["queue"] is None
    assert await act(service, path, job_id, "pause") == paused
    resumed = await act(service, path, job_id, "resume")
    assert resumed["status"] == "queued"
    assert resumed["queue"] == {"position": 1, "estimated_start": None}
    assert resumed["created_at"] == paused["created_at"]


async def test_a_running_job_answers_at_once_that_it_stops(service: Running) -> None:
    job_id = submit(service.ledger)
    job = service.ledger.jobs.claim(worker="w", base_model=BASE, lease_seconds=60, max_losses=9)
    asked_at = time.monotonic()
    paused = await act(service, PATHS[0], job_id, "pause")
    assert time.monotonic() - asked_at < 1
    assert (paused["status"], paused["phase"]) == ("paused", "stopping")
    last = JobNote(job=job, phase=Phase.TRAINING, progress=Progress(step=4))
    service.ledger.jobs.requeue([last], reason="it was dropped", lost=False)
    shown = (await service.http.get(f"/finetune/{job_id}")).json()
    assert (shown["phase"], shown["progress"]["step"]) == ("paused", 4)
    cancelled = await act(service, PATHS[0], job_id, "cancel")
    assert (cancelled["status"], cancelled["phase"]) == ("cancelled", "ended")


@pytest.mark.parametrize("path", PATHS)
async def test_what_cannot_be_paused_or_resumed_says_so(path: str, service: Running) -> None:
    job_id = submit(service.ledger)
    refused = await service.http.post(f"{path.format(job_id)}/resume", headers=JSON)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "job_not_resumable")
    service.ledger.jobs.cancel(job_id)
    refused = await service.http.post(f"{path.format(job_id)}/pause", headers=JSON)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "job_not_pausable")
    for what in ("pause", "resume"):
        missing = await service.http.post(f"{path.format('ftjob-none')}/{what}", headers=JSON)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "job_not_found")


async def test_a_strict_client_sees_a_paused_job_as_queued(tmp_path: Path) -> None:
    ledger = open_ledger(ledger_settings(tmp_path))
    job_id = submit(ledger)
    async with serving(tmp_path, openai_strict_status=True) as (http, _):
        paused = (await http.post(f"/finetune/{job_id}/pause")).json()
        assert (paused["status"], paused["phase"]) == ("queued", "paused")
        listed = (await http.get("/finetune")).json()["data"]
        assert [job["status"] for job in listed] == ["queued"]
        for path in ("/finetune", "/v1/fine_tuning/jobs"):
            assert (await http.get(f"{path}/{job_id}")).json()["status"] == "queued"
            page = (await http.get(path)).json()
            assert [job["status"] for job in page["data"]] == ["queued"]
    assert ledger.jobs.get(job_id).status == "paused"
    ledger.close()


async def test_the_official_sdk_pauses_and_resumes(service: Running) -> None:
    job_id = submit(service.ledger)
    async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any") as client:
        paused = await client.fine_tuning.jobs.pause(job_id)
        assert (paused.id, paused.status) == (job_id, "paused")
        resumed = await client.fine_tuning.jobs.resume(job_id)
        assert resumed.status == "queued"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.fine_tuning.jobs.resume(job_id)
    assert caught.value.code == "job_not_resumable"
