"""Whole runs: equal to PEFT with torch's AdamW, to themselves in other batches, and to themselves resumed."""

import math
from dataclasses import replace
from itertools import count, pairwise

import pytest
import torch

from adapters.spec import (
    EarlyStopping,
    LoraSpec,
    OptimizerSpec,
)
from tests.integration.training.tiny import (
    as_peft,
    load_tiny,
    make_base,
    make_job,
    make_loop,
    make_spec,
    of_kind,
    peft_factors,
    peft_loss,
    random_rows,
    randomise,
    run_to_end,
    share_of,
)
from trainer.messages import Checkpointed, Evaluated, Failed, Finished, Stepped
from trainer.warm import checkpoint
from trainer.warm.limits import Limits
from trainer.warm.loop import Interrupted, Loop
from trainer.warm.model import BaseModel
from trainer.warm.probe import PROBES
from trainer.warm.schedule import learning_rate, warmup_steps


def trained_weights(base, spec, work_dir, rows, **options):
    job = make_job(base, spec, work_dir, train=rows)
    loop, _ = make_loop(base, job, **options)
    run_to_end(loop)
    return job.adapter.weights_P


def test_a_run_equals_peft_with_torchs_adamw(base64, model_dir, tmp_path):
    rows = random_rows(9, seed=1)
    spec = make_spec(
        optimizer=OptimizerSpec(learning_rate=3e-3, max_grad_norm=0.5, weight_decay=0.1)
    )
    job = make_job(base64, spec, tmp_path, train=rows)
    peft = as_peft(load_tiny(model_dir, torch.float64), job.adapter)
    loop, reports = make_loop(base64, job, budget=60)
    order = [index for epoch in range(2) for index in job._order(epoch)]
    run_to_end(loop)

    parameters = list(peft_factors(peft).values())
    optimizer = torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1)
    for step in range(job.total_steps):
        epoch, at = divmod(step, 3)
        chosen = order[epoch * 9 : (epoch + 1) * 9][at * 4 : (at + 1) * 4]
        loss = peft_loss(peft, tuple(rows[row] for row in chosen))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.param_groups[0]["lr"] = learning_rate(3e-3, 0.05, step, job.total_steps)
        optimizer.step()
    assert float(norm) > 0.5, "clipping was not exercised"
    factors = peft_factors(peft)
    for name, (a_RI, b_OR) in job.adapter.views().items():
        torch.testing.assert_close(a_RI, factors[f"{name}.lora_A"].detach(), rtol=0, atol=1e-9)
        torch.testing.assert_close(b_OR, factors[f"{name}.lora_B"].detach(), rtol=0, atol=1e-9)
    assert of_kind(reports, Stepped)[-1].progress.train_loss == pytest.approx(
        float(loss.detach()), abs=1e-8
    )


def test_one_row_at_a_time_equals_all_at_once(base64, tmp_path):
    rows, spec = random_rows(16, seed=2), make_spec(batch_size=16, n_epochs=4)
    at_once = trained_weights(base64, spec, tmp_path / "a", rows, budget=10_000)
    one_by_one = trained_weights(base64, spec, tmp_path / "b", rows, budget=16)
    torch.testing.assert_close(one_by_one, at_once, rtol=0, atol=1e-9)


def three_jobs(base, work_dir):
    specs = [
        make_spec(lora=LoraSpec(rank=2, alpha=4.0), batch_size=3, n_epochs=3),
        make_spec(
            lora=LoraSpec(rank=8, alpha=8.0, target_modules=("q_proj", "v_proj"), dropout=0.2),
            optimizer=OptimizerSpec(learning_rate=5e-3, max_grad_norm=0.1),
            seed=7,
        ),
        make_spec(batch_size=1, n_epochs=1, seed=8),
    ]
    return [
        make_job(base, spec, work_dir, train=random_rows(8 + at, seed=at), job_id=f"ftjob-{at}")
        for at, spec in enumerate(specs)
    ]


def test_jobs_trained_together_end_as_if_trained_alone(base64, tmp_path):
    together = three_jobs(base64, tmp_path / "together")
    loop, _ = make_loop(base64, *together, budget=70)
    run_to_end(loop)
    for job in three_jobs(base64, tmp_path / "alone"):
        loop, _ = make_loop(base64, job, budget=200)
        run_to_end(loop)
        twin = next(other for other in together if other.identity.job_id == job.identity.job_id)
        assert twin.state.step == job.state.step == job.total_steps
        torch.testing.assert_close(twin.adapter.weights_P, job.adapter.weights_P, rtol=0, atol=1e-8)


@pytest.mark.parametrize("batched_tokens", [12, 64])
def test_jobs_whose_products_are_computed_together_end_the_same(base64, tmp_path, batched_tokens):
    apart, together = (three_jobs(base64, tmp_path / name) for name in ("apart", "together"))
    for jobs, ranks in ((apart, 0), (together, batched_tokens)):
        loop, _ = make_loop(base64, *jobs, budget=200, batched_tokens=ranks)
        run_to_end(loop)
    base64.routing.batched_tokens = 0
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(
            one.adapter.weights_P, other.adapter.weights_P, rtol=0, atol=1e-8
        )


def test_a_job_that_is_not_finite_spoils_nobody_that_it_is_computed_together_with(base64, tmp_path):
    lora = LoraSpec(rank=4, alpha=8.0)
    specs = [make_spec(lora=lora, seed=seed, batch_size=2) for seed in (1, 2)]

    def fresh(name, spec, seed):
        rows = random_rows(6, seed=seed)
        return make_job(base64, spec, tmp_path / name, train=rows, job_id=f"ftjob-{seed}")

    expected = fresh("alone", specs[0], 1)
    loop, _ = make_loop(base64, expected, budget=400)
    run_to_end(loop)
    good, bad = fresh("a", specs[0], 1), fresh("b", specs[1], 2)
    bad.adapter.weights_P[:100] = torch.inf
    loop, reports = make_loop(base64, good, bad, budget=400, batched_tokens=64)
    run_to_end(loop)
    base64.routing.batched_tokens = 0
    assert [(r.job_id, r.code) for r in of_kind(reports, Failed)] == [("ftjob-2", "loss_diverged")]
    torch.testing.assert_close(
        good.adapter.weights_P, expected.adapter.weights_P, rtol=0, atol=1e-9
    )


def test_several_jobs_share_one_forward_pass(base, tmp_path):
    loop, _ = make_loop(base, *three_jobs(base, tmp_path), budget=1000)
    passes = []
    hook = base.decoder.register_forward_hook(lambda *_: passes.append(1))
    try:
        loop.turn()
    finally:
        hook.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_resuming_equals_not_having_stopped_bit_for_bit(base, tmp_path, stop_at):
    rows, valid = random_rows(12, seed=3), random_rows(3, seed=4)
    spec = make_spec(lora=LoraSpec(rank=4, alpha=8.0, dropout=0.1), n_epochs=3)

    def fresh(name):
        return make_job(base, spec, tmp_path / name, train=rows, valid=valid)

    through = fresh("through")
    loop, _ = make_loop(base, through, budget=50)
    run_to_end(loop)

    stopped = fresh("stopped")
    loop, _ = make_loop(base, stopped, budget=50)
    while stopped.state.step < stop_at:
        loop.turn()
    loop.turn()  # into the middle of a step, or of an evaluation
    loop.checkpoint_all()
    resumed = fresh("stopped")
    assert checkpoint.resume(resumed) >= stop_at
    loop, reports = make_loop(base, resumed, budget=50)
    run_to_end(loop)

    for name in ("weights_P", "first_moment_P", "second_moment_P"):
        assert torch.equal(getattr(resumed.adapter, name), getattr(through.adapter, name)), name
    ours, theirs = replace(resumed.state, seconds=0.0), replace(through.state, seconds=0.0)
    assert ours == theirs
    (finished,) = of_kind(reports, Finished)
    assert finished.manifest.result.best_step == through.state.best_step


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(base, tmp_path):
    job = make_job(base, make_spec(), tmp_path, train=random_rows(8, seed=1))
    loop, _ = make_loop(base, job, checkpoint_seconds=0.0)
    for _ in range(3):
        loop.turn()
    newest, older = sorted((job.identity.work_dir / "checkpoints").glob("step-*"), reverse=True)
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    again = make_job(base, make_spec(), tmp_path, train=random_rows(8, seed=1))
    assert checkpoint.resume(again) == int(older.name.removeprefix("step-"))


def test_checkpoints_are_reported_and_old_ones_deleted(base, tmp_path):
    job = make_job(base, make_spec(n_epochs=5), tmp_path, train=random_rows(8, seed=1))
    loop, reports = make_loop(base, job, checkpoint_seconds=0.0)
    run_to_end(loop)
    assert [report.step for report in of_kind(reports, Checkpointed)] == list(range(1, 10))
    assert len(list((job.identity.work_dir / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("jobs", "took", "pause"), [(1, 0.01, 15), (1, 0.5, 25), (4, 0.5, 100), (2, 9, 300)]
)
def test_checkpoints_are_rarer_where_writing_everybodys_takes_more_than_its_share(
    base, tmp_path, monkeypatch, jobs, took, pause
):
    saved: list[tuple[int, str]] = []

    def save(job):
        saved.append((now[0], job.identity.job_id))
        return took

    monkeypatch.setattr(checkpoint, "save", save)
    now = [0]
    limits = Limits(10_000, 15.0, checkpoint_share=0.02)
    loop = Loop(base, lambda report: None, limits, clock=lambda: now[0])
    for at in range(jobs):
        spec = make_spec(n_epochs=1000)
        rows = random_rows(1, seed=at)
        loop.admit(make_job(base, spec, tmp_path, train=rows, job_id=f"ftjob-{at}"))
    for now[0] in range(320):
        loop.turn()
    of_first = [at for at, job_id in saved if job_id == "ftjob-0"]
    assert of_first[0] == 15, "how long they take is not known before"
    assert {later - at for at, later in pairwise(of_first)} == {pause}


@pytest.mark.parametrize(("took", "others"), [(0.01, 16), (1.0, 150)])
def test_the_first_checkpoint_of_a_process_is_written_alone_to_see_what_it_takes(
    base, tmp_path, monkeypatch, took, others
):
    saved: dict[str, int] = {}

    def save(job):
        saved.setdefault(job.identity.job_id, now[0])
        return took

    monkeypatch.setattr(checkpoint, "save", save)
    now = [0]
    loop = Loop(base, lambda report: None, Limits(10_000, 15.0), clock=lambda: now[0])
    for at in range(3):
        rows = random_rows(1, seed=at)
        spec = make_spec(n_epochs=1000)
        loop.admit(make_job(base, spec, tmp_path, train=rows, job_id=f"ftjob-{at}"))
    for now[0] in range(200):
        loop.turn()
    assert sorted(saved.values()) == [15, others, others]


def test_jobs_that_end_in_the_same_turn_are_probed_in_one_pass(base, tmp_path, monkeypatch):
    jobs = [
        make_job(base, make_spec(seed=at), tmp_path, train=random_rows(4, seed=at), job_id=f"j{at}")
        for at in range(3)
    ]
    loop, reports = make_loop(base, *jobs, budget=1000)
    looks, look = [], BaseModel.look

    def watch(base, shares, room=None):
        looks.append([share.adapter for share in shares])
        return look(base, shares, room)

    monkeypatch.setattr(BaseModel, "look", watch)
    run_to_end(loop)
    # Twice: what they have learnt in so few steps one probe alone would not show.
    assert looks == 2 * [[*(job.adapter for job in jobs), None]]
    finished = of_kind(reports, Finished)
    assert [one.job_id for one in finished] == ["j0", "j1", "j2"]
    assert all(len(one.manifest.probes) == PROBES for one in finished)
    assert len({one.manifest.probes for one in finished}) == 3


def test_a_suspect_writes_a_checkpoint_as_soon_as_it_is_past_the_step_that_it_was_lost_at(
    base, tmp_path
):
    job = make_job(base, make_spec(n_epochs=5), tmp_path, train=random_rows(8, seed=1))
    loop, reports = make_loop(base)
    loop.admit(job, prove_past=3)
    run_to_end(loop)
    assert [report.step for report in of_kind(reports, Checkpointed)] == [4]


def test_a_step_tells_how_many_target_tokens_were_likeliest_before_it_learned_from_them(
    base, tmp_path
):
    rows = random_rows(8, seed=1)
    spec = make_spec(n_epochs=10, optimizer=OptimizerSpec(learning_rate=0.02))
    job = make_job(base, spec, tmp_path, train=rows)
    order = [index for epoch in range(10) for index in job._order(epoch)]
    told, expected, finish_step = [], [], job.finish_step

    def note():
        at = 4 * job.state.step
        share = share_of([rows[index] for index in order[at : at + 4]], job.adapter)
        expected.append(base.look([share])[1])
        done = finish_step()
        told.append(job.state.last_accuracy)
        return done

    job.finish_step = note
    loop, reports = make_loop(base, job, budget=40)
    run_to_end(loop)
    assert told == pytest.approx([float(hits_N.mean()) for hits_N in expected])
    assert told[0] < 0.5 < told[-1]
    (finished,) = of_kind(reports, Finished)
    last_epoch = float(torch.cat(expected[-2:]).mean())
    assert finished.manifest.result.train_accuracy == pytest.approx(last_epoch)
    assert of_kind(reports, Stepped)[-1].progress.train_accuracy == told[-1]


def test_early_stopping_publishes_the_best_weights(base, tmp_path):
    spec = make_spec(
        optimizer=OptimizerSpec(learning_rate=0.05),
        early_stopping=EarlyStopping(patience=2),
        n_epochs=40,
    )
    job = make_job(base, spec, tmp_path, train=random_rows(4, seed=1), valid=random_rows(4, seed=2))
    loop, reports = make_loop(base, job)
    run_to_end(loop)
    evaluated, (finished,) = of_kind(reports, Evaluated), of_kind(reports, Finished)
    losses = {report.step: report.valid_loss for report in evaluated}
    best_step = min(losses, key=losses.__getitem__)
    result = finished.manifest.result
    assert result.stopped_early
    assert result.steps < job.total_steps
    assert (result.best_step, result.valid_loss) == (best_step, losses[best_step])
    assert [report.step for report in evaluated if report.best][-1] == best_step
    assert best_step < result.steps, "the last weights happen to be the best: the test says nothing"
    held_out = [row for sample in job.dataset.valid for row in sample.rows]
    told = torch.cat([base.look([share_of([row], job.adapter)]) for row in held_out], dim=1)
    loss, accuracy = told.double().mean(dim=1).tolist()
    assert loss == pytest.approx(losses[best_step], rel=1e-5)
    (best,) = [report for report in evaluated if report.step == best_step]
    assert accuracy == pytest.approx(best.accuracy) == result.valid_accuracy


def test_held_out_loss_of_the_base_is_that_of_the_model_without_adapter(base, model_dir, tmp_path):
    valid = random_rows(3, seed=2)
    job = make_job(base, make_spec(n_epochs=1), tmp_path, train=random_rows(4, seed=1), valid=valid)
    randomise(job.adapter)
    loop, reports = make_loop(base, job)
    run_to_end(loop)
    (evaluated,) = of_kind(reports, Evaluated)
    with torch.no_grad():
        expected = float(peft_loss(load_tiny(model_dir), valid))
    assert evaluated.base_valid_loss == pytest.approx(expected, rel=1e-5)
    assert evaluated.valid_loss != pytest.approx(expected, rel=1e-3)


def test_a_job_that_diverges_fails_and_leaves_its_neighbour_untouched(base64, tmp_path):
    rows = random_rows(8, seed=1)
    alone = trained_weights(base64, make_spec(n_epochs=4), tmp_path / "alone", rows)
    healthy = make_job(base64, make_spec(n_epochs=4), tmp_path, train=rows)
    wild_spec = make_spec(
        n_epochs=20, optimizer=OptimizerSpec(learning_rate=1e300, warmup_ratio=0.0)
    )
    wild = make_job(base64, wild_spec, tmp_path, train=random_rows(8, seed=2), job_id="wild")
    loop, reports = make_loop(base64, healthy, wild, budget=100)
    run_to_end(loop)
    (failed,) = of_kind(reports, Failed)
    assert (failed.job_id, failed.code, failed.retryable) == ("wild", "loss_diverged", False)
    assert wild.state.skipped == 3
    assert [report.job_id for report in of_kind(reports, Finished)] == ["ftjob-1"]
    torch.testing.assert_close(healthy.adapter.weights_P, alone, rtol=0, atol=1e-9)


def test_running_out_of_memory_halves_the_budget_and_redoes_the_step(base64, tmp_path):
    rows, spec = random_rows(16, seed=2), make_spec(batch_size=16)
    expected = trained_weights(base64, spec, tmp_path / "a", rows, budget=16)
    job = make_job(base64, spec, tmp_path / "b", train=rows)
    loop, _ = make_loop(base64, job, budget=256)

    def too_much(module, args, kwargs):
        if kwargs["input_ids"].numel() > 70 and job.state.step == 0:
            raise torch.OutOfMemoryError

    hook = base64.decoder.register_forward_pre_hook(too_much, with_kwargs=True)
    try:
        run_to_end(loop)
    finally:
        hook.remove()
    assert loop.budget.tokens == 62  # half of half of what the pass had
    torch.testing.assert_close(job.adapter.weights_P, expected, rtol=0, atol=1e-9)


def test_a_row_that_never_fits_fails_its_job_only(base, tmp_path):
    big = make_job(
        base, make_spec(), tmp_path, train=random_rows(4, seed=1, shortest=200, longest=220)
    )
    small = make_job(base, make_spec(), tmp_path, train=random_rows(4, seed=1), job_id="small")
    loop, reports = make_loop(base, big, small, budget=256)

    def too_much(module, args, kwargs):
        if kwargs["input_ids"].numel() > 100:
            raise torch.OutOfMemoryError

    hook = base.decoder.register_forward_pre_hook(too_much, with_kwargs=True)
    try:
        run_to_end(loop)
    finally:
        hook.remove()
    assert [(report.job_id, report.code) for report in of_kind(reports, Failed)] == [
        ("ftjob-1", "out_of_memory")
    ]
    assert [report.job_id for report in of_kind(reports, Finished)] == ["small"]


def test_an_interrupted_pass_is_computed_again_to_the_same_result(base, tmp_path):
    def fresh(name):
        rows, valid = random_rows(8, seed=2), random_rows(4, seed=3)
        return make_job(base, make_spec(), tmp_path / name, train=rows, valid=valid)

    through, job = fresh("through"), fresh("interrupted")
    loop, _ = make_loop(base, through)
    run_to_end(loop)
    loop, reports = make_loop(base, job)
    calls, when = count(), {10 * n * n + 3 for n in range(30)}

    def breathe():
        if next(calls) in when:  # forward and backward, evaluations and probes: 14 calls each
            raise Interrupted

    base.routing.breathe, before = breathe, base.routing.breathe
    interruptions = 0
    try:
        while not loop.idle:
            try:
                loop.turn()
            except Interrupted:
                interruptions += 1
    finally:
        base.routing.breathe = before
    assert interruptions > 3
    assert torch.equal(job.adapter.weights_P, through.adapter.weights_P)
    (finished,) = of_kind(reports, Finished)
    assert finished.manifest.result.valid_loss == through.state.best_valid_loss
    assert finished.manifest.result.base_valid_loss == through.state.base_valid_loss


def test_in_bfloat16_the_master_weights_stay_in_float32(base, model_dir, tmp_path):
    rows, spec = random_rows(8, seed=2), make_spec(n_epochs=8)
    small = make_base(model_dir, torch.bfloat16)
    job = make_job(small, spec, tmp_path / "a", train=rows)
    precise = make_job(base, spec, tmp_path / "b", train=rows)
    for loop, _ in (make_loop(small, job), make_loop(base, precise)):
        run_to_end(loop)
    assert job.adapter.weights_P.dtype == torch.float32
    assert job.train_loss == pytest.approx(precise.train_loss, rel=0.02)
    a_RI = job.adapter.views()["model.layers.0.self_attn.q_proj"][0]
    factors = next(iter(job.adapter.factors.values()))  # of q, k and v, stacked
    working_RI = factors.a_SI[: len(a_RI)]
    assert working_RI.dtype == torch.bfloat16
    assert torch.equal(working_RI, a_RI.bfloat16())


def test_progress_reports_the_first_and_the_last_step_and_never_falls(base, tmp_path):
    job = make_job(base, make_spec(n_epochs=20), tmp_path, train=random_rows(8, seed=1))
    loop, reports = make_loop(base, job)
    run_to_end(loop)
    steps = of_kind(reports, Stepped)
    assert (steps[0].progress.step, steps[-1].progress.step) == (1, 40)
    assert steps[-1].progress.percent == 100.0
    percents = [report.progress.percent for report in steps]
    assert percents == sorted(percents)
    assert len(steps) < 40
    assert all(report.progress.tokens_per_second > 0 for report in steps)
    assert steps[-1].progress.eta_seconds == 0


def test_the_schedule_warms_up_and_ends_at_a_tenth():
    assert warmup_steps(0.05, 10) == 2
    assert warmup_steps(0.05, 50) == 5
    assert warmup_steps(0.05, 1000) == 50
    assert warmup_steps(0.05, 10_000) == 100
    assert warmup_steps(0.0, 100) == 0
    rates = [learning_rate(1.0, 0.05, step, 200) for step in range(200)]
    assert rates[10] == max(rates) == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert math.isclose(rates[-1], 0.1)
    assert learning_rate(1.0, 0.05, 0, 1) == 1.0
