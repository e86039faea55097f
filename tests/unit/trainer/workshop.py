"""A ledger, a worker and its fake process, and what a test does with them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adapters.ledger import Ledger
from adapters.records import Job, Phase
from tests.support.fake_process import FakeProcess
from tests.support.samples import BASE, new_job, render
from trainer.metrics import Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.worker import Worker


def make_worker(
    ledger: Ledger,
    process: FakeProcess,
    home: Path,
    *,
    worker_id: str = "w",
    placement: Placement | None = None,
    **settings: object,
) -> Worker:
    return Worker(
        ledger=ledger,
        process=process,
        settings=TrainerSettings(
            **{"poll_seconds": 1e-6, "max_losses": 3, "retry_seconds": (0.0,)} | settings
        ),
        base_model=BASE,
        worker_id=worker_id,
        work_dir=home / "work",
        metrics=Metrics(),
        placement=placement or Placement(),
    )


def submit(ledger: Ledger, home: Path, name: str = "support-bot", **spec: object) -> str:
    data = home / "data.jsonl"
    data.write_text("{}")
    file = ledger.files.add(data, filename="data.jsonl", purpose="fine-tune")
    new = new_job(name)
    job = replace(new, training_file=file.id, spec=replace(new.spec, **spec))
    ledger.jobs.submit(job, render=render)
    return job.id


def work_until(worker: Worker, done: Callable[[], bool], *, turns: int = 500) -> None:
    for _ in range(turns):
        if done():
            return
        worker.turn()
    raise AssertionError("it never came to that")


def finish(worker: Worker, ledger: Ledger, *job_ids: str) -> Job:
    """All of them have ended; the last one."""
    ended = lambda: all(ledger.jobs.get(job_id).phase is Phase.ENDED for job_id in job_ids)  # noqa: E731
    work_until(worker, ended)
    return ledger.jobs.get(job_ids[-1])
