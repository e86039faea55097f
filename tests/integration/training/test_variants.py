"""Options of a job, each against somebody else's implementation; and the formats that a model computes in."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from adapters.spec import LoraSpec, OptimizerSpec
from tests.integration.training.architectures import random_base, random_model
from tests.integration.training.runs import Trace, peft_trace, relative, run_alone
from tests.integration.training.tiny import (
    as_peft,
    load_tiny,
    make_base,
    make_job,
    make_loop,
    make_spec,
    random_rows,
    randomise,
    run_to_end,
    share_of,
)
from trainer.warm import scaling
from trainer.warm.export import export
from trainer.warm.optimizer import update
from trainer.warm.rows import Row
from trainer.warm.scaling import LossScale
from trainer.warm.siblings import find_siblings


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_the_directory_to_the_same_logits(base64, model_dir, tmp_path, rslora):
    from peft import PeftModel

    adapter = base64.new_adapter(LoraSpec(rank=6, alpha=9.0, rslora=rslora), 1)
    randomise(adapter)
    adapter.load(adapter.weights_P.float().double())  # as it is stored
    export(adapter, tmp_path / "adapter", base_id="tiny", dtype=torch.float64)
    peft = PeftModel.from_pretrained(
        load_tiny(model_dir, torch.float64), tmp_path / "adapter", autocast_adapter_dtype=False
    ).double()
    (row,) = random_rows(1, seed=2)
    with torch.no_grad():
        logits_TV = peft(row.tokens_T[None], use_cache=False).logits[0]
        logprobs_N = logits_TV.log_softmax(-1)[row.targets_at_N - 1, row.tokens_T[row.targets_at_N]]
    torch.testing.assert_close(
        base64.look([share_of([row], adapter)])[0], -logprobs_N, rtol=0, atol=1e-9
    )
    assert adapter.scale == pytest.approx(9.0 / (math.sqrt(6) if rslora else 6))


def test_lora_plus_is_torchs_adamw_with_two_groups(base64):
    adapter = base64.new_adapter(LoraSpec(rank=4, alpha=8.0), 1)
    randomise(adapter)
    spec = OptimizerSpec(weight_decay=0.1, lora_plus_ratio=16.0)
    halves = [nn.Parameter(half.clone()) for half in adapter.halves(adapter.weights_P)]
    theirs = torch.optim.AdamW(
        [{"params": [halves[0]], "lr": 1e-3}, {"params": [halves[1]], "lr": 16e-3}],
        weight_decay=0.1,
    )
    torch.manual_seed(0)
    for count in range(1, 6):
        adapter.gradient_P.normal_()
        for half, gradient in zip(halves, adapter.halves(adapter.gradient_P), strict=True):
            half.grad = gradient.clone()
        theirs.step()
        update(adapter, count, 1e-3, spec)
    expected_P = torch.cat([half.detach() for half in halves])
    torch.testing.assert_close(adapter.weights_P, expected_P, rtol=1e-12, atol=1e-14)
    everything = {name for name, _ in adapter.views().items()}
    assert len(everything) == 14
    a_P, b_P = adapter.halves(adapter.weights_P)
    assert a_P.numel() == sum(a.numel() for a, _ in adapter.views().values())
    assert b_P.numel() == sum(b.numel() for _, b in adapter.views().values())


def weighted(rows, weights):
    return [
        Row(row.tokens_T, row.weights_T * weight) for row, weight in zip(rows, weights, strict=True)
    ]


def test_weights_of_replies_are_those_of_a_weighted_mean(base64, model_dir, tmp_path):
    rows = weighted(random_rows(8, seed=1), [1.0, 0.5, 0.25, 1.0, 0.5, 0.75, 0.1, 1.0])
    job = make_job(base64, make_spec(), tmp_path, train=rows)
    peft = as_peft(load_tiny(model_dir, torch.float64), job.adapter)
    theirs = peft_trace(peft, job)  # divides by the sum of weights
    ours = run_alone(base64, job, budget=60)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-9)
    assert relative(ours.weights[-1], theirs.weights[-1]) < 1e-9


def test_only_the_proportion_of_weights_matters(base64, tmp_path):
    rows = random_rows(8, seed=1)
    traces = [
        run_alone(
            base64, make_job(base64, make_spec(), tmp_path, train=weighted(rows, [factor] * 8))
        )
        for factor in (1.0, 0.5)
    ]
    assert traces[0].losses == pytest.approx(traces[1].losses, rel=1e-12)
    assert relative(traces[0].weights[-1], traces[1].weights[-1]) < 1e-9


# -- float16


def test_float16_with_scaling_learns_as_float32_does(base, model_dir, tmp_path):
    rows, spec = random_rows(8, seed=2), make_spec(n_epochs=6)
    half = make_base(model_dir, torch.float16)
    job = make_job(half, spec, tmp_path / "half", train=rows)
    precise = make_job(base, spec, tmp_path / "precise", train=rows)
    ours, theirs = run_alone(half, job), run_alone(base, precise)
    assert job.adapter.weights_P.dtype == torch.float32
    assert job.state.scale.dynamic
    assert job.state.updates == job.total_steps
    assert ours.losses == pytest.approx(theirs.losses, rel=0.02)
    assert ours.losses[-1] < ours.losses[0]


@pytest.fixture
def overflowing(base64, tmp_path):
    """A job whose gradient overflows where its loss is scaled by more than 1000: float16's trouble, in float64."""
    spec = make_spec(n_epochs=3)
    job = make_job(base64, spec, tmp_path / "scaled", train=random_rows(8, seed=2))
    job.state.scale.begin()
    asked = []
    count = job.count

    def overflow(loss, hits):
        asked.append(job.state.scale.factor)
        if job.state.scale.factor > 1000:
            job.adapter.gradient_P[7] = torch.inf
        count(loss, hits)

    job.count = overflow
    return job, asked


def test_an_overflow_halves_the_factor_and_loses_no_step(base64, tmp_path, overflowing):
    job, asked = overflowing
    plain = make_job(base64, job.spec, tmp_path / "plain", train=random_rows(8, seed=2))
    expected = run_alone(base64, plain)
    ours = run_alone(base64, job)
    assert asked[:6] == [2.0**14, 2.0**13, 2.0**12, 2.0**11, 2.0**10, 2.0**9]
    assert set(asked[5:]) == {2.0**9}
    assert (job.state.skipped, job.state.updates) == (0, job.total_steps)
    assert ours.losses == pytest.approx(expected.losses, rel=1e-12)
    assert relative(ours.weights[-1], expected.weights[-1]) < 1e-9


def test_what_no_factor_helps_is_skipped_and_then_given_up(base64, tmp_path):
    job = make_job(base64, make_spec(n_epochs=9), tmp_path, train=random_rows(8, seed=2))
    job.state.scale.begin()
    trace = Trace.of(job)
    count = job.count
    job.count = lambda _, hits: count(math.nan, hits)
    loop, _ = make_loop(base64, job)
    run_to_end(loop)
    assert (job.state.skipped, job.state.scale.factor) == (3, 1.0)
    assert torch.equal(trace.weights[-1], trace.weights[0])


def test_a_factor_that_holds_is_doubled_up_to_the_most():
    scale = LossScale()
    gradient_P = torch.ones(3)
    scale.undo(gradient_P)
    assert (scale.factor, scale.lower()) == (1.0, False)
    scale.begin()
    scale.begin()
    assert scale.factor == scaling.FIRST
    factors = set()
    for _ in range(5 * scaling.PATIENCE):
        before = scale.factor
        gradient_P = torch.full((3,), before)
        scale.undo(gradient_P)
        assert gradient_P.tolist() == [1.0] * 3
        factors.add(scale.factor)
    assert sorted(factors) == [scaling.FIRST, 2 * scaling.FIRST, scaling.MOST]
    assert scale.lower()
    assert scale == replace(scale, factor=scaling.MOST / 2, steady=0)


# -- siblings

GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
USUAL = [("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")]
FOUND = {
    "llama": (GROUPED, USUAL),
    "mistral": (GROUPED, USUAL),
    "qwen2": ({"num_key_value_heads": 2}, USUAL),  # with biases on the first three
    "qwen3": (GROUPED, USUAL),
    "phi3": ({"num_key_value_heads": 2}, []),  # stacked by the model itself
    "opt": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, [("k_proj", "v_proj", "q_proj")]),
}


@pytest.mark.parametrize("architecture", list(FOUND))
def test_layers_that_read_the_same_input_are_found_in_many_architectures(architecture):
    changes, expected = FOUND[architecture]
    base = random_base(architecture, **changes)
    groups = [group for group in base.siblings if len(group) > 1]
    names = [tuple(name.rpartition(".")[2] for name in group) for group in groups]
    assert names == expected * 2
    assert [name for group in base.siblings for name in group] == list(base.linears)


@pytest.mark.parametrize("architecture", ["qwen2", "opt"])
def test_stacked_siblings_with_biases_compute_what_peft_does(architecture):
    changes = FOUND[architecture][0]
    base = random_base(architecture, **changes)
    adapter = base.new_adapter(LoraSpec(rank=3, alpha=6.0), 1)
    randomise(adapter)
    peft = as_peft(random_model(architecture, **changes), adapter)
    (row,) = random_rows(1, seed=2)
    with torch.no_grad():
        logits_TV = peft(row.tokens_T[None], use_cache=False).logits[0]
    expected = nn.functional.cross_entropy(
        logits_TV[row.targets_at_N - 1], row.tokens_T[row.targets_at_N], reduction="none"
    )
    losses_N, _ = base.look([share_of([row], adapter)])
    torch.testing.assert_close(losses_N, expected, rtol=0, atol=1e-9)


class Reads(nn.Module):
    """Three layers, of which the last reads something else; one more that is called twice, and one never."""

    def __init__(self):
        super().__init__()
        for name in ("first", "second", "other", "twice", "never"):
            setattr(self, name, nn.Linear(4, 4))

    def forward(self, x):
        self.twice(self.twice(x))
        self.twice(x)
        return self.first(x) + self.second(x) + self.other(x.clone())


def test_layers_that_read_something_else_are_by_themselves():
    model = Reads()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    with find_siblings(layers) as siblings:
        model(torch.randn(2, 4))
    assert siblings == [("first", "second"), ("other",), ("twice",), ("never",)]


def test_layers_with_and_without_bias_are_no_siblings():
    model = Reads()
    model.second = nn.Linear(4, 4, bias=False)
    layers = {"first": model.first, "second": model.second}
    with find_siblings(layers) as siblings:
        model(torch.randn(2, 4))
    assert siblings == [("first",), ("second",)]
