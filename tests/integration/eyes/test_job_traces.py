"""A worker with a fake process, on a real ledger, and what a collector is told of its jobs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.ledger import open_ledger
from adapters.settings import TelemetrySettings
from adapters.traces import open_tracer, place_of_job, trace_id_of_job
from tests.integration.service.conftest import ledger_settings
from tests.support.collector import Collector, Told, collecting
from tests.support.fake_process import FakeProcess
from tests.support.samples import BASE
from tests.unit.trainer.workshop import finish, submit, work_until
from trainer.messages import Failed
from trainer.metrics import Metrics
from trainer.placement import Placement
from trainer.settings import TrainerSettings
from trainer.traces import JobTraces
from trainer.worker import Worker


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


class Shop:
    """A worker and all that it works with."""

    def __init__(self, home: Path, collector: Collector) -> None:
        self.home, self.process = home, FakeProcess()
        self.ledger = open_ledger(ledger_settings(home))
        # No request is told; jobs are.
        telemetry = TelemetrySettings(otlp_endpoint=collector.url, sample_ratio=0.0)
        self.tracer = open_tracer(telemetry, "graft-trainer")
        self.worker = Worker(
            ledger=self.ledger,
            process=self.process,
            settings=TrainerSettings(poll_seconds=1e-6, max_losses=3, retry_seconds=(0.0,)),
            base_model=BASE,
            worker_id="w",
            work_dir=home / "work",
            metrics=Metrics(),
            placement=Placement(),
            traces=JobTraces(self.tracer),
        )

    def submit(self, name: str) -> str:
        return submit(self.ledger, self.home, name)

    def finish(self, job_id: str) -> None:
        finish(self.worker, self.ledger, job_id)


@pytest.fixture
def shop(tmp_path: Path, collector: Collector) -> Iterator[Shop]:
    shop = Shop(tmp_path, collector)
    yield shop
    shop.tracer.close()
    shop.ledger.close()


def of(collector: Collector, job_id: str) -> dict[str, list[Told]]:
    """The spans of a job by name, in the order in which they began."""
    told: dict[str, list[Told]] = {}
    for span in sorted(collector.spans, key=lambda span: span.start):
        if span.trace_id == trace_id_of_job(job_id):
            told.setdefault(span.name.removeprefix("graft.job."), []).append(span)
    return told


def test_a_job_is_one_trace_from_its_submission_to_its_version(
    shop: Shop, collector: Collector
) -> None:
    job_id = shop.submit("bot")
    shop.finish(job_id)
    shop.tracer.close()
    told = of(collector, job_id)
    assert {name: len(spans) for name, spans in told.items()} == {
        "graft.job": 1,
        "queued": 1,
        "attempt": 1,
        "training": 1,
        "publish": 1,
    }
    job, attempt, training = told["graft.job"][0], told["attempt"][0], told["training"][0]
    publish, queued = told["publish"][0], told["queued"][0]
    assert (job.span_id, job.parent_id) == (f"{place_of_job(job_id).span_id:016x}", "")
    assert queued.parent_id == attempt.parent_id == job.span_id
    assert training.parent_id == publish.parent_id == attempt.span_id
    assert job.start <= queued.start <= attempt.start <= training.start < publish.start <= job.end
    assert (training.about["graft.job.step"], training.about["graft.job.total_steps"]) == (3, 3)
    assert training.about["graft.job.train_loss"] == pytest.approx(1 / 3)
    assert publish.events == {"gate": {"graft.gate": "passed"}}
    assert job.about["graft.job.id"] == job_id
    assert not any(span.failed for span in collector.spans)


def test_a_job_that_is_lost_has_two_attempts_in_one_trace(shop: Shop, collector: Collector) -> None:
    shop.process.die_after = 5
    job_id = shop.submit("bot")
    shop.finish(job_id)
    shop.tracer.close()
    told = of(collector, job_id)
    assert [span.about["graft.job.attempt"] for span in told["attempt"]] == [1, 2]
    assert len(told["queued"]) == len(told["graft.job"]) == len(told["publish"]) == 1
    assert told["training"][1].about["graft.job.resumed_from_step"] > 0


def test_a_job_that_fails_says_with_which_code_and_not_with_which_words(
    shop: Shop, collector: Collector
) -> None:
    shop.process.fail_with = Failed(
        job_id="-", attempt=1, code="loss_diverged", message="xyzzy", retryable=False
    )
    job_id = shop.submit("bot")
    shop.finish(job_id)
    shop.tracer.close()
    job = of(collector, job_id)["graft.job"][0]
    assert (job.failed, job.about["error.type"]) == (True, "loss_diverged")
    assert b"xyzzy" not in b"".join(collector.bodies)


def test_a_collector_that_is_away_does_not_keep_a_job(tmp_path: Path) -> None:
    shop = Shop(tmp_path, Collector(port=9))
    job_id = shop.submit("bot")
    work_until(shop.worker, lambda: shop.ledger.jobs.get(job_id).status.terminal)
    assert shop.ledger.jobs.get(job_id).fine_tuned_model is not None
    shop.tracer.close()
    shop.ledger.close()
