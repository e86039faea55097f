"""Direct preference optimisation: the paper's loss, its gradients, and whole runs."""

import math
from dataclasses import replace

import pytest
import torch

from adapters.spec import (
    Dpo,
    LoraSpec,
    OptimizerSpec,
)
from tests.integration.training.runs import pairs, relative
from tests.integration.training.tiny import (
    alone,
    as_peft,
    gradients,
    load_tiny,
    make_job,
    make_loop,
    make_spec,
    of_kind,
    peft_factors,
    random_rows,
    randomise,
    run_to_end,
)
from trainer.messages import Evaluated, Finished
from trainer.warm import checkpoint
from trainer.warm.batch import Share
from trainer.warm.evaluate import Evaluation, look_up_references
from trainer.warm.objective import CrossEntropy
from trainer.warm.rows import Row, Sample

BETA = 0.3


def dpo_job(base, work_dir, samples, *, parent=None, seed=6, **changes):
    """A job whose adapter has moved away from its reference."""
    job = make_job(
        base, make_spec(method=Dpo(beta=BETA), **changes), work_dir, train=samples, parent=parent
    )
    randomise(job.adapter, seed=seed)
    return job


def parent_of(base, spec=None):
    parent = base.new_adapter((spec or make_spec()).lora, 42)
    randomise(parent, seed=11)
    return parent


def row_logprob(model, row):
    """Of the reply, given the prompt; plain transformers, no packing."""
    logprobs_TV = model(row.tokens_T[None], use_cache=False).logits[0].log_softmax(-1)
    at_N = row.targets_at_N
    return logprobs_TV[at_N - 1, row.tokens_T[at_N]].sum()


def expected_of(peft, reference, samples):
    """Equation 7 of the paper, and the share of pairs whose chosen reply is ahead."""
    margins = []
    for sample in samples:
        with torch.no_grad():
            known = [row_logprob(reference, row) for row in sample.rows]
        now = [row_logprob(peft, row) for row in sample.rows]
        margins.append(BETA * ((now[0] - known[0]) - (now[1] - known[1])))
    margin_S = torch.stack(margins)
    return -torch.log(torch.sigmoid(margin_S)).mean(), float((margin_S > 0).double().mean())


@pytest.mark.parametrize("with_parent", [False, True])
def test_loss_gradients_and_accuracy_are_those_of_plain_autograd(
    base64, model_dir, tmp_path, with_parent
):
    samples = pairs(random_rows(5, seed=1), seed=2)
    parent = parent_of(base64) if with_parent else None
    job = dpo_job(base64, tmp_path, samples, parent=parent)
    reference = load_tiny(model_dir, torch.float64)
    if parent is not None:
        reference = as_peft(reference, parent)
    peft = as_peft(load_tiny(model_dir, torch.float64), job.adapter)
    expected, ahead = expected_of(peft, reference, samples)
    expected.backward()

    share = Share(samples, job.adapter, job.objective, step_size=len(samples))
    look_up_references([share], base64)
    losses_N, _ = base64.train([share])
    judged = job.objective.judge(samples, losses_N)

    assert float(judged.total) / 5 == pytest.approx(float(expected.detach()), rel=1e-12)
    assert int(judged.ahead) / 5 == ahead
    assert 0 < ahead < 1, "all pairs on one side say little"
    factors = peft_factors(peft)
    for name, (grad_a_RI, grad_b_OR) in gradients(job.adapter).items():
        torch.testing.assert_close(grad_a_RI, factors[f"{name}.lora_A"].grad, rtol=0, atol=1e-11)
        torch.testing.assert_close(grad_b_OR, factors[f"{name}.lora_B"].grad, rtol=0, atol=1e-11)


def test_one_pass_serves_preferences_and_supervised_jobs(base64, tmp_path):
    samples, rows = pairs(random_rows(3, seed=1), seed=2), alone(random_rows(4, seed=3))
    prefers = dpo_job(base64, tmp_path, samples, parent=parent_of(base64))
    follows = make_job(
        base64, make_spec(lora=LoraSpec(rank=9, alpha=9.0)), tmp_path, train=rows, job_id="follows"
    )
    randomise(follows.adapter)
    shares = [
        Share(rows, follows.adapter, CrossEntropy(), step_size=30.0),
        Share(samples, prefers.adapter, prefers.objective, step_size=3.0),
    ]
    look_up_references(shares, base64)

    def gradients_of(batches):
        for batch in batches:
            base64.train(batch)
        found = [job.adapter.gradient_P.clone() for job in (follows, prefers)]
        for job in (follows, prefers):
            job.adapter.gradient_P.zero_()
        return found

    together = gradients_of([shares])
    for ours, theirs in zip(together, gradients_of([shares[:1], shares[1:]]), strict=True):
        assert float(theirs.norm()) > 0
        assert relative(ours, theirs) < 1e-12


def test_a_step_in_many_micro_batches_is_one_in_one(base64, tmp_path):
    samples = pairs(random_rows(12, seed=2), seed=3)
    spec = make_spec(method=Dpo(beta=BETA), batch_size=12, n_epochs=4)

    def run(budget, name):
        job = make_job(base64, spec, tmp_path / name, train=samples)
        passes = []
        hook = base64.decoder.register_forward_hook(lambda *_: passes.append(1))
        loop, _ = make_loop(base64, job, budget=budget)
        run_to_end(loop)
        hook.remove()
        return job.adapter.weights_P, len(passes)

    (at_once, few), (in_parts, many) = run(100_000, "a"), run(16, "b")
    assert many > few + 12
    assert relative(in_parts, at_once) < 1e-9


def test_the_reference_is_looked_at_once_for_each_pair(base, tmp_path):
    samples = pairs(random_rows(6, seed=2), seed=3)
    job = make_job(base, make_spec(method=Dpo(), n_epochs=5), tmp_path, train=samples)
    without_adapter = []

    def watch(module, args, kwargs):
        if not base.routing.segments:
            without_adapter.append(kwargs["input_ids"].numel())

    hook = base.decoder.register_forward_pre_hook(watch, with_kwargs=True)
    loop, _ = make_loop(base, job, budget=100_000)
    while not job.trained and not loop.idle and job.state.step < job.total_steps - 1:
        loop.turn()
    hook.remove()
    assert len(without_adapter) == job.steps_per_epoch == 2
    assert sum(without_adapter) <= sum(sample.tokens for sample in samples)


def taste(count, *, seed):
    """Pairs of one prompt and two replies, of two small vocabularies, one of which is preferred."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, length):
        return torch.randint(low, high, (length,), generator=generator)

    samples = []
    for _ in range(count):
        prompt_T = draw(3, 300, 8)
        replies = draw(10, 20, 6), draw(200, 210, 6)
        rows = [torch.cat([prompt_T, reply_T]) for reply_T in replies]
        weights_T = (torch.arange(14) >= 8).float()
        samples.append(Sample(tuple(Row(tokens_T, weights_T) for tokens_T in rows)))
    return samples


def test_a_run_learns_to_prefer_what_it_has_not_seen(base, tmp_path):
    job = make_job(
        base,
        make_spec(
            method=Dpo(),
            optimizer=OptimizerSpec(learning_rate=2e-3),
            n_epochs=4,
            sampling={"temperature": 0.3, "stop": ["###"]},
        ),
        tmp_path,
        train=taste(24, seed=1),
        valid=taste(16, seed=2),
    )
    loop, reports = make_loop(base, job, budget=400)
    run_to_end(loop)
    evaluated, (finished,) = of_kind(reports, Evaluated), of_kind(reports, Finished)
    result = finished.manifest.result
    assert {report.base_valid_loss for report in evaluated} == {math.log(2)}
    assert result.reward_accuracy > 0.9
    assert result.valid_loss < 0.67 < math.log(2)
    assert result.train_loss < math.log(2)
    assert finished.manifest.method == "dpo"
    assert finished.manifest.default_sampling == {"temperature": 0.3, "stop": ["###"]}
    # Of a rejected reply nobody wants the tokens said.
    assert (result.train_accuracy, result.valid_accuracy) == (None, None)


def test_an_adapter_that_is_its_reference_has_a_loss_of_ln_2(base64, tmp_path):
    samples = taste(5, seed=1)
    parent = parent_of(base64)
    for start in (None, parent):
        job = make_job(
            base64, make_spec(method=Dpo(beta=BETA)), tmp_path, train=samples, parent=start
        )
        evaluation = Evaluation(samples, job.adapter, job.objective, None)
        while not evaluation.done:
            evaluation.advance(base64, 50)
        assert evaluation.valid_loss == pytest.approx(math.log(2), abs=1e-12)
        assert evaluation.base_valid_loss == math.log(2)


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_resuming_equals_not_having_stopped_bit_for_bit(base, tmp_path, stop_at):
    """Also the reference's numbers, which were computed in other micro-batches."""
    samples = pairs(random_rows(11, seed=3, longest=60), seed=4)
    valid = pairs(random_rows(4, seed=5), seed=6)
    spec = make_spec(method=Dpo(beta=BETA), n_epochs=3, parent="parent@1")
    parent = parent_of(base)

    def fresh(name):
        work_dir = tmp_path / name
        return make_job(base, spec, work_dir, train=samples, valid=valid, parent=parent)

    through = fresh("through")
    loop, _ = make_loop(base, through, budget=200)
    run_to_end(loop)
    stopped = fresh("stopped")
    loop, _ = make_loop(base, stopped, budget=200)
    while stopped.state.step < stop_at:
        loop.turn()
    loop.turn()
    loop.checkpoint_all()
    resumed = fresh("stopped")
    assert checkpoint.resume(resumed) >= stop_at
    loop, _ = make_loop(base, resumed, budget=200)
    run_to_end(loop)

    for name in ("weights_P", "first_moment_P", "second_moment_P"):
        assert torch.equal(getattr(resumed.adapter, name), getattr(through.adapter, name)), name
    assert replace(resumed.state, seconds=0.0) == replace(through.state, seconds=0.0)
