"""Whatever a job is doing: cancelling answers at once, and the process lets go of it within ten seconds."""

import time

import pytest

from adapters.artifacts import LocalArtifacts
from adapters.records import JobStatus, Phase
from tests.integration.training.shop import Shop

#: What the contract promises.
ANSWER_SECONDS, LET_GO_SECONDS = 1.0, 10.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory, model_dir):
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        Shop(tmp_path_factory.mktemp("shop") / "home", model_dir, monkeypatch) as shop,
    ):
        yield shop


def said(shop: Shop, job_id: str, words: str) -> bool:
    return any(words in event.message for event in shop.ledger.jobs.events(job_id))


def cancelled(shop: Shop, job_id: str) -> None:
    asked_at = time.monotonic()
    answer = shop.ledger.jobs.cancel(job_id)
    assert time.monotonic() - asked_at < ANSWER_SECONDS
    assert (answer.status, answer.phase) == (JobStatus.CANCELLED, Phase.STOPPING)
    assert shop.turn_until(lambda: shop.job(job_id).phase is Phase.ENDED) < LET_GO_SECONDS
    assert shop.job(job_id).status is JobStatus.CANCELLED
    assert shop.ledger.registry.list() == []
    assert not (shop.home / "work" / job_id).exists()
    # Nobody is left in the process: the next one has it for itself and starts at once.
    following = shop.submit(12, n_epochs=10_000)
    shop.turn_until(lambda: shop.job(following).progress.step > 0)
    shop.ledger.jobs.cancel(following)
    assert shop.turn_until(lambda: shop.job(following).phase is Phase.ENDED) < LET_GO_SECONDS


def test_while_a_large_file_is_tokenised(shop):
    job_id = shop.submit(40_000)
    shop.turn_until(lambda: shop.job(job_id).status is JobStatus.RUNNING)
    cancelled(shop, job_id)
    assert not said(shop, job_id, "Training begins")


def test_while_it_trains(shop):
    job_id = shop.submit(40, n_epochs=10_000)
    shop.turn_until(lambda: shop.job(job_id).progress.step > 3)
    cancelled(shop, job_id)


def test_in_the_middle_of_a_step_of_many_rows(shop):
    job_id = shop.submit(3_000, batch_size=3_000, validation_split=0.0)
    shop.turn_until(lambda: said(shop, job_id, "Training begins"))
    cancelled(shop, job_id)
    assert shop.job(job_id).progress.step == 0


def test_while_it_is_evaluated(shop):
    job_id = shop.submit(4_000, batch_size=16, validation_split=0.5, n_epochs=1)
    shop.turn_until(lambda: shop.job(job_id).progress.step == 32)  # a quarter of its epoch
    cancelled(shop, job_id)
    assert not said(shop, job_id, "validation loss")


def test_while_it_is_published(shop, monkeypatch):
    put, answers = LocalArtifacts.put_version, []

    def slow(self, source):
        digest = put(self, source)
        answers.append(shop.ledger.jobs.cancel(job_id))
        return digest

    job_id = shop.submit(12, n_epochs=1)
    monkeypatch.setattr(LocalArtifacts, "put_version", slow)
    shop.turn_until(lambda: bool(answers))
    assert answers[0].phase is Phase.STOPPING
    assert shop.turn_until(lambda: shop.job(job_id).phase is Phase.ENDED) < LET_GO_SECONDS
    assert shop.job(job_id).status is JobStatus.CANCELLED
    assert shop.ledger.registry.list() == []
    assert shop.ledger.checkpoints.list(job_id) == []
