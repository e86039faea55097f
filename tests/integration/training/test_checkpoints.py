"""Checkpoints that can be asked: the weights of the end of an epoch, exported while training goes on."""

import errno
import threading

import pytest
import torch

from adapters.ledger.checkpoints import KEPT
from adapters.records import JobStatus
from adapters.spec import EarlyStopping, OptimizerSpec
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
from trainer.messages import Evaluated, Exported, Failed, Finished
from trainer.warm.export import export, read_into

EPOCHS, PER_EPOCH = 4, 3


def exported(base, job, tmp_path, **limits):
    trace = Trace.of(job)
    loop, reports = make_loop(base, job, **limits)
    run_to_end(loop)
    return trace, reports


@pytest.mark.parametrize("held_out", [0, 4])
def test_the_end_of_each_epoch_is_exported_as_it_was(base, tmp_path, held_out):
    spec = make_spec(n_epochs=EPOCHS)
    rows, valid = random_rows(12, seed=1), random_rows(held_out, seed=2)
    job = make_job(base, spec, tmp_path, train=rows, valid=valid)
    trace, reports = exported(base, job, tmp_path, export_seconds=0.0)
    found = of_kind(reports, Exported)
    result = of_kind(reports, Finished)[0].manifest.result
    ends = [PER_EPOCH * epoch for epoch in range(1, EPOCHS + 1)]
    last_is_published = result.best_step == result.steps
    assert [one.manifest.result.steps for one in found] == ends[: EPOCHS - last_is_published]
    for one in found:
        read = base.new_adapter(spec.lora, spec.seed)
        read_into(read, one.adapter_dir)
        assert torch.equal(read.weights_P, trace.weights[one.manifest.result.steps])
        assert one.manifest.probes == ()
    losses = {one.step: one.valid_loss for one in of_kind(reports, Evaluated)}
    for one in found:
        assert one.manifest.result.valid_loss == losses.get(one.manifest.result.steps)


def test_an_epoch_is_not_exported_right_after_another(base, tmp_path):
    job = make_job(base, make_spec(n_epochs=EPOCHS), tmp_path, train=random_rows(12, seed=1))
    _, reports = exported(base, job, tmp_path, export_seconds=1e9)
    assert of_kind(reports, Exported) == []


def test_the_very_last_step_is_exported_unless_its_weights_are_published(base, tmp_path):
    spec = make_spec(
        optimizer=OptimizerSpec(learning_rate=0.05),
        early_stopping=EarlyStopping(patience=2),
        n_epochs=40,
    )
    job = make_job(base, spec, tmp_path, train=random_rows(4, seed=1), valid=random_rows(4, seed=2))
    trace, reports = exported(base, job, tmp_path, export_seconds=1e9)
    result = of_kind(reports, Finished)[0].manifest.result
    assert result.best_step < result.steps, "the last weights happen to be the best"
    (last,) = of_kind(reports, Exported)
    assert last.manifest.result.steps == result.steps
    read = base.new_adapter(spec.lora, spec.seed)
    read_into(read, last.adapter_dir)
    assert torch.equal(read.weights_P, trace.weights[-1])


def test_exporting_changes_nothing(base, tmp_path):
    def trained(name, **limits):
        job = make_job(
            base,
            make_spec(n_epochs=EPOCHS),
            tmp_path / name,
            train=random_rows(12, seed=1),
            valid=random_rows(4, seed=2),
        )
        return exported(base, job, tmp_path, **limits)[0]

    often, never = trained("often", export_seconds=0.0), trained("never", export_seconds=1e9)
    assert often.losses == never.losses
    assert torch.equal(often.weights[-1], never.weights[-1])


def test_training_goes_on_while_an_export_is_written_and_it_is_told_of_before_the_job_ends(
    base, tmp_path, monkeypatch
):
    written, threads = threading.Event(), []

    def slow(*arguments, **options):
        assert written.wait(60)
        threads.append(threading.current_thread().name)
        export(*arguments, **options)

    monkeypatch.setattr("trainer.warm.finish.export", slow)
    job = make_job(base, make_spec(n_epochs=2), tmp_path, train=random_rows(12, seed=1))
    trace = Trace.of(job)
    loop, reports = make_loop(base, job, export_seconds=0.0)
    while job.state.step < PER_EPOCH + 2:
        loop.turn()
    assert of_kind(reports, Exported) == []
    written.set()
    run_to_end(loop)
    (found,) = of_kind(reports, Exported)
    assert found.manifest.result.steps == PER_EPOCH
    read = base.new_adapter(job.spec.lora, job.spec.seed)
    read_into(read, found.adapter_dir)
    assert torch.equal(read.weights_P, trace.weights[PER_EPOCH])
    assert reports.index(found) < reports.index(of_kind(reports, Finished)[0])
    assert all(name.startswith("export") for name in threads)


def test_an_export_that_fails_is_its_jobs_trouble_alone(base, tmp_path, monkeypatch):
    def full(adapter, directory, **options):
        if "one" in directory.parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        export(adapter, directory, **options)

    monkeypatch.setattr("trainer.warm.finish.export", full)
    jobs = [
        make_job(
            base,
            make_spec(n_epochs=EPOCHS),
            tmp_path / name,
            train=random_rows(12, seed=1),
            job_id=f"ftjob-{name}",
        )
        for name in ("one", "other")
    ]
    loop, reports = make_loop(base, *jobs, export_seconds=0.0)
    run_to_end(loop)
    (failed,) = of_kind(reports, Failed)
    assert (failed.job_id, failed.code, failed.retryable) == ("ftjob-one", "storage_error", True)
    assert [one.job_id for one in of_kind(reports, Finished)] == ["ftjob-other"]


def test_what_is_exported_of_a_job_that_leaves_is_told_of_first(base, tmp_path):
    job = make_job(base, make_spec(n_epochs=EPOCHS), tmp_path, train=random_rows(12, seed=1))
    loop, reports = make_loop(base, job, export_seconds=0.0)
    while job.state.step < PER_EPOCH:
        loop.turn()
    loop.drop(job.identity.job_id)
    (found,) = of_kind(reports, Exported)
    assert (found.adapter_dir / "adapter_config.json").exists()


def test_checkpoints_reach_the_ledger_and_can_be_continued(tmp_path, model_dir, monkeypatch):
    home = tmp_path / "home"
    with Shop(home, model_dir, monkeypatch, checkpoint_export_seconds=0.0) as shop:
        job_id = shop.submit(80, n_epochs=6, early_stopping=EarlyStopping(enabled=False))
        shop.turn_until(lambda: shop.job(job_id).status.terminal)
        assert shop.job(job_id).status is JobStatus.SUCCEEDED
        checkpoints = shop.ledger.checkpoints.list(job_id)
        steps = [one.step for one in checkpoints]
        assert len(steps) == KEPT
        assert steps == sorted(steps, reverse=True)
        said = [event.message for event in shop.ledger.jobs.events(job_id)]
        assert [f"Checkpoint created at step {step}" in said for step in steps] == [True] * KEPT
        assert sum(one.startswith("Checkpoint created") for one in said) == 6
        assert len({shop.ledger.registry.directory(one) for one in checkpoints}) == KEPT
        assert checkpoints[1].metrics["full_valid_loss"] > 0
        for measured in ("train", "valid", "full_valid"):
            assert 0 <= checkpoints[1].metrics[f"{measured}_mean_token_accuracy"] <= 1
        assert list((home / "work").glob("*/exported/*")) == []

        parent = checkpoints[-1]
        child = shop.submit(80, name="child", parent=parent.name)
        shop.turn_until(lambda: shop.job(child).status.terminal)
        version = shop.ledger.registry.version(shop.job(child).fine_tuned_model)
        assert version.manifest.parent == parent.name
        # It began where the parent was, not at the base model.
        assert version.manifest.result.valid_loss < parent.metrics["full_valid_loss"]
