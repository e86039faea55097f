"""Machines that share nothing but PostgreSQL and a bucket: one begins, another goes on, a third serves."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from adapters.db.connect import Database
from adapters.db.schema import jobs
from adapters.records import JobStatus
from adapters.settings import BaseModelSettings, LedgerSettings
from adapters.spec import EarlyStopping
from tests.integration.service.conftest import serving
from tests.integration.training.shop import Shop
from tests.support.fake_engine import FakeEngine
from tests.support.seaweed import ACCESS, SECRET
from trainer.messages import checkpoints_dir

SPEC = {"n_epochs": 12, "rows": 40, "early_stopping": EarlyStopping(enabled=False)}
QUICK = {"checkpoint_seconds": 0.5}


@pytest.fixture
def _shared(monkeypatch: pytest.MonkeyPatch, database_url: str, seaweed: Any) -> None:
    monkeypatch.setenv("GRAFT_DATABASE_URL", database_url)
    monkeypatch.setenv("GRAFT_STORE_URL", seaweed.url())
    monkeypatch.setenv("GRAFT_STORE_ENDPOINT", seaweed.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


def let_the_lease_run_out(database_url: str, job_id: str) -> None:
    """The machine is gone, and nobody has said so. Waiting for it teaches nothing."""
    database = Database(database_url)
    with database.write() as tx:
        tx.execute(update(jobs).where(jobs.c.id == job_id).values(lease_expires_at=0.0))
    database.close()


@pytest.mark.usefixtures("_shared")
async def test_one_machine_begins_a_job_another_ends_it_and_a_third_answers(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    with Shop(tmp_path / "one", model_dir, monkeypatch, **QUICK) as one:
        plain = one.submit(name="plain", **SPEC)
        one.turn_until(lambda: one.job(plain).status.terminal)
        job_id = one.submit(**SPEC)
        checkpoints = checkpoints_dir(tmp_path / "one" / "work" / job_id)
        one.turn_until(lambda: any(checkpoints.glob("step-*")))
        one.process.stop(grace=0)
        one.worker._freight.close([job_id])
        assert not one.job(job_id).status.terminal
    let_the_lease_run_out(database_url, job_id)

    with Shop(tmp_path / "two", model_dir, monkeypatch, **QUICK) as two:
        two.turn_until(lambda: two.job(job_id).status.terminal)
        job = two.job(job_id)
        assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
        events = two.ledger.jobs.events(job_id, limit=10_000)
        starts = [
            event.data["resumed_from_step"]
            for event in events
            if "resumed_from_step" in (event.data or {})
        ]
        assert starts[-1] > 0
        weights = two.weights(job_id)
        assert weights == two.weights(plain)  # which it has from the bucket

    await a_service_answers(tmp_path / "three", model_dir, weights)


async def a_service_answers(home: Path, model_dir: Path, weights: bytes) -> None:
    base_model = BaseModelSettings(id="tiny", source=str(model_dir))
    settings = LedgerSettings(home=home, base_models=(base_model,))
    engine = FakeEngine(settings.engine_socket("tiny"), "tiny")
    settings.run_dir.mkdir(parents=True)
    await engine.start()
    async with serving(settings.home, ledger=settings, engine_wait_seconds=5) as (client, _):
        body = {"model": "bot", "messages": [{"role": "user", "content": "what is number 1?"}]}
        answer = await client.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.headers["x-graft-version"]) == (200, "bot@1")
        lent = Path(engine.adapters["bot@1"])
        assert lent.is_relative_to(settings.lent_dir)
        assert (lent / "adapter_model.safetensors").read_bytes() == weights
    await engine.kill()
