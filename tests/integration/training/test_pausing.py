"""A job that was paused, anywhere and for however long, ends with the weights of one that never was."""

from functools import partial

import pytest
import torch

from adapters.records import JobStatus, Phase
from adapters.spec import Dpo, EarlyStopping
from tests.integration.training.runs import Trace
from tests.integration.training.shop import Shop
from tests.integration.training.tiny import (
    make_job,
    make_loop,
    make_spec,
    of_kind,
    random_rows,
    run_to_end,
)
from trainer.messages import Checkpointed, Failed
from trainer.warm import checkpoint
from trainer.warm.rows import Sample

STEPS = 12


@pytest.mark.parametrize("kind", ["supervised", "held out", "preference"])
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
def test_a_paused_job_ends_with_the_same_bits(base, tmp_path, kind, turns):
    rows = random_rows(16, seed=1)
    if kind == "preference":
        train = tuple(Sample(pair) for pair in zip(rows[:8], rows[8:], strict=True))
        spec = make_spec(n_epochs=4, batch_size=3, method=Dpo(), seed=3)
    else:
        train, spec = rows[:11], make_spec(n_epochs=3, batch_size=3, seed=3)
    valid = rows[11:] if kind == "held out" else ()
    make = partial(make_job, base, spec, train=train, valid=valid)

    whole = make(tmp_path / "whole")
    expected = Trace.of(whole)
    run_to_end(make_loop(base, whole, budget=64)[0])

    # The budget is so small that the job is paused in the middle of steps and evaluations too.
    first = make(tmp_path / "paused")
    seen = Trace.of(first)
    loop, reports = make_loop(base, first, budget=64)
    for _ in range(turns):
        loop.turn()
    loop.keep("ftjob-1")
    loop.drop("ftjob-1")
    kept = of_kind(reports, Checkpointed)

    second = make(tmp_path / "paused")
    resumed_from = checkpoint.resume(second)
    assert resumed_from == seen.steps == kept[-1].step
    rest = Trace.of(second)
    run_to_end(make_loop(base, second, budget=64)[0])
    assert seen.losses + rest.losses == expected.losses
    assert torch.equal(second.adapter.weights_P, whole.adapter.weights_P)
    assert seen.steps < expected.steps
    assert seen.steps > 0 or turns < 5
    assert second.state.best_valid_loss == whole.state.best_valid_loss


def test_keeping_a_stranger_changes_nothing(base):
    loop, reports = make_loop(base)
    loop.keep("nobody")
    assert reports == []


def test_a_job_whose_checkpoint_cannot_be_written_is_given_up_and_can_be_tried_again(
    base, tmp_path, monkeypatch
):
    job = make_job(base, make_spec(), tmp_path, train=random_rows(8, seed=1))
    loop, reports = make_loop(base, job)
    loop.turn()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    loop.keep("ftjob-1")
    assert [(one.code, one.retryable) for one in of_kind(reports, Failed)] == [
        ("storage_error", True)
    ]
    assert loop.idle


def test_the_published_weights_are_the_same_after_a_pause(tmp_path, model_dir, monkeypatch):
    with Shop(tmp_path / "home", model_dir, monkeypatch) as shop:
        spec = {"n_epochs": 60, "rows": 40, "early_stopping": EarlyStopping(enabled=False)}
        plain = shop.submit(**spec)
        shop.turn_until(lambda: shop.job(plain).status.terminal)
        paused = shop.submit(**spec)
        shop.turn_until(lambda: shop.job(paused).progress.step > 20)
        shop.ledger.jobs.pause(paused)
        assert shop.turn_until(lambda: shop.job(paused).phase is Phase.PAUSED) < 10
        stopped_at = shop.job(paused).progress.step
        assert 20 < stopped_at < 570

        shop.ledger.jobs.resume(paused)
        shop.turn_until(lambda: shop.job(paused).status.terminal)
        assert shop.job(paused).status is JobStatus.SUCCEEDED
        assert shop.weights(paused) == shop.weights(plain)
        (resumed,) = [
            event.data["resumed_from_step"]
            for event in shop.ledger.jobs.events(paused)
            if event.data and event.data.get("resumed_from_step")
        ]
        assert resumed >= stopped_at


@pytest.mark.parametrize("rows", [40, 20_000])
def test_a_trainer_that_is_killed_while_a_job_pauses_leaves_it_paused(
    tmp_path, model_dir, monkeypatch, rows
):
    with Shop(tmp_path / "home", model_dir, monkeypatch) as shop:
        job_id = shop.submit(rows, n_epochs=10_000)
        shop.turn_until(lambda: shop.job(job_id).status is JobStatus.RUNNING)
        shop.ledger.jobs.pause(job_id)
        shop.process.stop(grace=0)
        shop.worker = shop.hire()
        shop.worker.run(lambda: shop.job(job_id).phase is Phase.PAUSED)
        assert (shop.job(job_id).status, shop.job(job_id).attempt) == (JobStatus.PAUSED, 1)
