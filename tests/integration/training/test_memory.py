"""What happens when memory runs out: what is let go, what is tried, what is said."""

import weakref

import pytest
import torch

from adapters.spec import LoraSpec
from tests.integration.training.architectures import random_base
from tests.integration.training.runs import Stay, relative, run_alone, run_together
from tests.integration.training.tiny import (
    make_job,
    make_loop,
    make_spec,
    of_kind,
    random_rows,
    randomise,
    run_to_end,
    share_of,
)
from trainer.messages import Failed, Finished
from trainer.warm.limits import Limits
from trainer.warm.loop import Loop
from trainer.warm.memory import memory_may_run_out
from trainer.warm.meters import Blind


@pytest.fixture(scope="module")
def deep():
    return random_base("llama", torch.float32, num_hidden_layers=12)


@pytest.fixture(scope="module")
def deep64():
    return random_base("llama", num_hidden_layers=12)


def computed(base, *, checkpointing, dropout=0.0):
    """Losses, gradient, and bytes that autograd keeps for the backward pass."""
    adapter = base.new_adapter(LoraSpec(rank=4, alpha=8.0, dropout=dropout), 0)
    randomise(adapter)
    kept: dict[int, int] = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    base.checkpoint_layers(on=checkpointing)
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            rows = random_rows(6, seed=1, shortest=30, longest=60)
            batch = base.assemble([share_of(rows, adapter, 100.0)])
            with base.computing(batch):
                total, (losses_N, _) = base.losses(batch)
                before_backward = sum(kept.values())
                total.backward()
    finally:
        base.checkpoint_layers(on=False)
    return losses_N, adapter.gradient_P, before_backward


@pytest.mark.parametrize(("name", "bound"), [("deep64", 1e-12), ("deep", 1e-5)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_computing_layers_twice_gives_the_same_gradients_for_less_memory(
    request, name, bound, dropout
):
    base = request.getfixturevalue(name)
    losses_N, gradient_P, kept = computed(base, checkpointing=False, dropout=dropout)
    again_N, again_P, kept_less = computed(base, checkpointing=True, dropout=dropout)
    torch.testing.assert_close(again_N, losses_N, rtol=bound, atol=bound)
    assert relative(again_P, gradient_P) < bound
    assert 0 < kept_less < 0.7 * kept


def test_computing_layers_twice_wakes_no_dropout_of_the_base_model():
    """OPT's layers drop out by a function that looks at their own `training`."""
    base = random_base("opt", ffn_dim=48, word_embed_proj_dim=32, dropout=0.5)
    losses_N, gradient_P, _ = computed(base, checkpointing=False)
    again_N, again_P, _ = computed(base, checkpointing=True)
    torch.testing.assert_close(again_N, losses_N, rtol=0, atol=1e-12)
    assert relative(again_P, gradient_P) < 1e-12


@pytest.mark.parametrize("where", ["k_proj", "o_proj", "input_layernorm", "down_proj"])
def test_a_pass_that_did_not_fit_is_let_go(base, tmp_path, where):
    """Between q and k, their product waits for the second: with all that was computed before it."""
    if where == "k_proj":  # of an attention part that calls them one by one; see rotary.py
        base = random_base("qwen3", torch.float32, num_key_value_heads=2, head_dim=8)
    job = make_job(base, make_spec(), tmp_path, train=random_rows(4, seed=1))
    held = []

    def remember(module, arguments, output):
        held.append(weakref.ref(output if isinstance(output, torch.Tensor) else output[0]))

    def fail(*_):
        raise torch.OutOfMemoryError

    layers = base.decoder.layers
    failing = next(m for n, m in layers[1].named_modules() if n.endswith(where))
    hooks = [layers[0].register_forward_hook(remember), failing.register_forward_pre_hook(fail)]

    class Watching(Blind):
        def release(self):
            self.let_go = [tensor() is None for tensor in held]

    meter = Watching()
    loop = Loop(base, lambda _: None, Limits(256, 1e9, meter))
    loop.admit(job)
    try:
        loop.turn()
    finally:
        for hook in hooks:
            hook.remove()
    assert meter.let_go == [True], "what it is to give back to the device is still held"


class Fits:
    """Passes with gradients fit up to so many tokens; with layers computed twice, up to so many."""

    def __init__(self, base, tokens, tokens_checkpointed):
        self.base, self.tokens, self.tokens_checkpointed = base, tokens, tokens_checkpointed
        self.passes = []

    def __enter__(self):
        self.hook = self.base.decoder.register_forward_pre_hook(self.check, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.hook.remove()

    def check(self, module, args, kwargs):
        tokens = kwargs["input_ids"].numel()
        checkpointing = "forward" in vars(self.base.decoder.layers[0])
        bound = self.tokens_checkpointed if checkpointing else self.tokens
        fits = tokens <= bound or not torch.is_grad_enabled()
        self.passes.append((tokens, checkpointing, fits))
        if not fits:
            raise torch.OutOfMemoryError


def long_job(base, work_dir, job_id="long"):
    rows = random_rows(4, seed=3, shortest=100, longest=110)
    return make_job(base, make_spec(n_epochs=2), work_dir, train=rows, job_id=job_id)


def test_halves_first_then_one_sample_then_layers_twice(base64, tmp_path):
    expected = run_alone(base64, long_job(base64, tmp_path / "alone"))
    job = long_job(base64, tmp_path)
    with Fits(base64, 90, 120) as memory:
        traces, reports = run_together(base64, [Stay(job)], budget=1000)
    assert [report.job_id for report in of_kind(reports, Finished)] == ["long"]
    failed = [tokens for tokens, _, fits in memory.passes if not fits]
    first_good = next(at for at, (_, _, fits) in enumerate(memory.passes) if fits)
    assert [checkpointing for _, checkpointing, _ in memory.passes[: first_good + 1]] == [
        *[False] * first_good,
        True,
    ]
    assert failed == sorted(failed, reverse=True)
    assert failed[0] > 400
    assert 100 <= failed[-1] <= 110, "one sample by itself"
    assert relative(traces["long"].weights[-1], expected.weights[-1]) < 1e-9


def test_what_never_fits_fails_with_numbers_and_advice(base64, tmp_path):
    def small(where):
        rows = random_rows(6, seed=4, shortest=8, longest=20)
        return make_job(base64, make_spec(), where, train=rows, job_id="small")

    alone = run_alone(base64, small(tmp_path / "alone"))
    with Fits(base64, 60, 90):
        stays = [Stay(long_job(base64, tmp_path)), Stay(small(tmp_path))]
        traces, reports = run_together(base64, stays, budget=1000)
    (failed,) = of_kind(reports, Failed)
    assert (failed.job_id, failed.code, failed.retryable) == ("long", "out_of_memory", False)
    longest = max(len(row) for row in random_rows(4, seed=3, shortest=100, longest=110))
    for word in (f"{longest} tokens", "max_seq_length", "2048", "rank", "checkpointing"):
        assert word in failed.message
    assert relative(traces["small"].weights[-1], alone.weights[-1]) < 1e-9


def test_a_held_out_sample_that_does_not_fit_is_named_with_its_own_length(base, tmp_path):
    job = make_job(
        base,
        make_spec(),
        tmp_path,
        train=random_rows(4, seed=1),
        valid=random_rows(1, seed=2, shortest=150, longest=150),
    )

    def too_much(module, args, kwargs):
        if kwargs["input_ids"].numel() >= 149:
            raise torch.OutOfMemoryError

    hook = base.decoder.register_forward_pre_hook(too_much, with_kwargs=True)
    loop, reports = make_loop(base, job, budget=1000)
    try:
        run_to_end(loop)
    finally:
        hook.remove()
    (failed,) = of_kind(reports, Failed)
    assert failed.code == "out_of_memory"
    assert "150 tokens" in failed.message


def test_what_torchs_cpu_allocator_says_is_understood():
    with memory_may_run_out() as attempt:
        torch.empty(2**50, dtype=torch.uint8)
    assert not attempt.fits
    with memory_may_run_out() as attempt:
        torch.empty(2, dtype=torch.uint8)
    assert attempt.fits


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shape"), memory_may_run_out():
        torch.zeros(2, 3).view(7)
