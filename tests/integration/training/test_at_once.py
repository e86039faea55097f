"""The kernel for the jobs of a pass: its numbers are autograd's, whatever the mix, the threads and the neighbours."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from adapters.spec import LoraSpec
from tests.integration.training.runs import Stay, run_together
from tests.integration.training.tiny import (
    as_peft,
    gradients,
    load_tiny,
    make_base,
    make_job,
    make_spec,
    peft_factors,
    peft_loss,
    random_rows,
    randomise,
    share_of,
)
from trainer.warm.adapter import Adapter
from trainer.warm.at_once import MOST_COMPANIES, AllJobs, Tables
from trainer.warm.frozen import AsTheyAre
from trainer.warm.lora import LinearGroup, Routing
from trainer.warm.native.library import Kernels
from trainer.warm.plan import Segment
from trainer.warm.products import OneJob

CPU = torch.device("cpu")


class Layers:
    """Siblings that make nothing of anything, so that all there is comes from jobs, whose numbers are random."""

    def __init__(self, inputs, widths, dtype):
        self.names = tuple(f"layer{at}" for at in range(len(widths)))
        self.inputs, self.dtype, self.widths = inputs, dtype, widths
        self.generator = torch.Generator().manual_seed(1)
        self.layers = [torch.nn.Linear(inputs, width, bias=False).to(dtype) for width in widths]
        for layer in self.layers:
            torch.nn.init.zeros_(layer.weight)

    def adapter(self, rank, members, **lora):
        shapes = {self.names[at]: (self.widths[at], self.inputs) for at in sorted(members)}
        adapter = Adapter(
            shapes,
            LoraSpec(rank=rank, alpha=float(rank) * 1.5, **lora),
            seed=0,
            device=CPU,
            dtype=self.dtype,
            siblings=[self.names],
        )
        adapter.load(self.draw(*adapter.weights_P.shape) / 8)
        adapter.gradient_P.copy_(self.draw(*adapter.gradient_P.shape))
        return adapter

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=self.dtype)

    def computed(self, kernel, segments, x_TI, dy_TO, *, wants_dx=True):  # noqa: N803  shapes
        """y, dx and each adapter's gradient, in the end as it was."""
        routing = Routing(tables=None if kernel is None else Tables(kernel))
        group = LinearGroup(self.names, self.layers, routing, AsTheyAre())
        before = [one.adapter.gradient_P.clone() for one in segments]
        x_TI = x_TI.clone().requires_grad_(wants_dx)
        with routing.to(tuple(segments), len(x_TI)):
            y_TO = group(x_TI)
            y_TO.backward(dy_TO)
        found = [one.adapter.gradient_P.clone() for one in segments]
        for one, gradient_P in zip(segments, before, strict=True):
            one.adapter.gradient_P.copy_(gradient_P)
        return [y_TO.detach(), *([x_TI.grad] if wants_dx else []), *found]


@st.composite
def mixes(draw):
    """Inputs, widths, and of each job the gap before it, its tokens, rank and members."""
    widths = draw(st.lists(st.integers(1, 150), min_size=1, max_size=3))
    members = st.sets(st.integers(0, len(widths) - 1), min_size=1)
    ranks = st.one_of(st.sampled_from([8, 16, 32, 64]), st.integers(1, 70))
    job = st.tuples(st.integers(0, 3), st.integers(0, 110), ranks, members)
    return draw(st.integers(1, 150)), widths, draw(st.lists(job, min_size=1, max_size=5))


def laid_out(layers, jobs):
    start = 0
    for gap, length, rank, members in jobs:
        yield Segment(start + gap, start + gap + length, layers.adapter(rank, members))
        start += gap + length


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["double", "single"]
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mix=mixes())
def test_any_mix_of_jobs_comes_to_what_torch_makes_of_each(kernel, dtype, bound, mix):
    inputs, widths, jobs = mix
    layers = Layers(inputs, widths, dtype)
    segments = list(laid_out(layers, jobs))
    tokens = segments[-1].stop + 2
    x_TI, dy_TO = layers.draw(tokens, inputs), layers.draw(tokens, sum(widths))
    ours = layers.computed(kernel, segments, x_TI, dy_TO)
    theirs = layers.computed(None, segments, x_TI, dy_TO)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=bound * (1 + float(other.abs().max())))


@pytest.fixture
def company():
    """Jobs of several ranks and lengths, one of one token and one without any."""
    layers = Layers(150, [70, 33], torch.float32)
    jobs = [(1, 37, 16, {0, 1}), (0, 1, 8, {1}), (2, 0, 4, {0}), (0, 90, 5, {0}), (1, 20, 32, {1})]
    segments = list(laid_out(layers, jobs))
    tokens = segments[-1].stop
    return layers, segments, layers.draw(tokens, 150), layers.draw(tokens, 103)


@pytest.fixture
def several_threads():
    yield torch.set_num_threads
    torch.set_num_threads(1)


def test_threads_do_not_change_a_bit(kernel, company, several_threads):
    layers, *given = company
    several_threads(1)
    one = layers.computed(kernel, *given)
    for threads in (2, 3, 7):
        several_threads(threads)
        for expected, found in zip(one, layers.computed(kernel, *given), strict=True):
            assert torch.equal(expected, found)


def test_neighbours_do_not_change_a_bit(kernel, company, several_threads):
    several_threads(2)
    layers, segments, x_TI, dy_TO = company
    y_TO, dx_TI, *together = layers.computed(kernel, segments, x_TI, dy_TO)
    for segment, gradient_P in zip(segments, together, strict=True):
        own = slice(segment.start, segment.stop)
        if segment.length:
            alone = Segment(0, segment.length, segment.adapter)
            found = layers.computed(kernel, [alone], x_TI[own], dy_TO[own])
        else:
            found = y_TO[own], dx_TI[own], segment.adapter.gradient_P
        for one, other in zip((y_TO[own], dx_TI[own], gradient_P), found, strict=True):
            assert torch.equal(one, other)


def test_nan_of_one_job_stays_its_own(kernel, company, several_threads):
    several_threads(2)
    layers, segments, x_TI, dy_TO = company
    expected = layers.computed(kernel, segments, x_TI, dy_TO)
    for bad in segments:
        if not bad.length:
            continue
        poisoned_TI = x_TI.clone()
        poisoned_TI[bad.start : bad.stop] = torch.nan
        held_P = bad.adapter.weights_P.clone()
        bad.adapter.weights_P.fill_(torch.nan)
        y_TO, dx_TI, *gradients_P = layers.computed(kernel, segments, poisoned_TI, dy_TO)
        bad.adapter.weights_P.copy_(held_P)
        good_T = torch.ones(len(x_TI), dtype=torch.bool)
        good_T[bad.start : bad.stop] = False
        assert torch.equal(y_TO[good_T], expected[0][good_T])
        assert torch.equal(dx_TI[good_T], expected[1][good_T])
        for segment, found_P, expected_P in zip(segments, gradients_P, expected[2:], strict=True):
            if segment is bad:
                assert found_P.isnan().any()
            else:
                assert torch.equal(found_P, expected_P)


def test_rows_with_gaps_and_inputs_without_gradient_are_fine(kernel, company):
    layers, segments, x_TI, dy_TO = company
    expected = layers.computed(kernel, segments, x_TI, dy_TO)
    turned = x_TI.t().contiguous().t(), dy_TO.t().contiguous().t()
    wide = torch.cat([x_TI, x_TI], 1)[:, :150], torch.cat([dy_TO, dy_TO], 1)[:, :103]
    for rows in (turned, wide):
        assert not rows[0].is_contiguous()
        for one, other in zip(layers.computed(kernel, segments, *rows), expected, strict=True):
            torch.testing.assert_close(one, other)
    y_TO, *gradients_P = layers.computed(kernel, segments, x_TI, dy_TO, wants_dx=False)
    for one, other in zip([y_TO, *gradients_P], [expected[0], *expected[2:]], strict=True):
        torch.testing.assert_close(one, other)


def test_whoever_drops_out_is_computed_beside_the_others(kernel):
    layers = Layers(20, [10], torch.float64)
    plain, dropping = layers.adapter(4, {0}), layers.adapter(4, {0}, dropout=0.5)
    segments = [
        Segment(0, 5, plain),
        Segment(5, 9, dropping, ((5, 9, 3),)),
        Segment(9, 12, plain),
    ]
    routing = Routing(tables=Tables(kernel))
    x_TI, dy_TO = layers.draw(13, 20), layers.draw(13, 10)
    with routing.to(tuple(segments), 13):
        kinds = [type(block) for block in routing.plan.blocks(layers.names, x_TI)]
        pieces = [len(piece) for piece in routing.plan.cut(x_TI)]
    assert kinds == [AllJobs, OneJob]
    assert pieces == [13, 4]
    ours = layers.computed(kernel, segments, x_TI, dy_TO)
    for one, other in zip(ours, layers.computed(None, segments, x_TI, dy_TO), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_half_precision_is_left_to_torch(kernel):
    layers = Layers(8, [8], torch.bfloat16)
    segments = [Segment(0, 3, layers.adapter(2, {0}))]
    routing = Routing(tables=Tables(kernel))
    with routing.to(tuple(segments), 3):
        assert routing.plan.at_once is None
        assert len(routing.plan.parts) == 1


def test_tables_follow_buffers_that_move_and_others_that_come_in_their_place(kernel):
    layers = Layers(8, [8, 6], torch.float64)
    adapter, tables = layers.adapter(2, {0, 1}), Tables(kernel)
    first = tables.of([adapter])
    assert tables.of([adapter]) is first
    adapter.move(*(torch.empty_like(adapter.weights_P) for _ in range(2)), adapter.weights_P)
    assert tables.of([adapter]) is not first
    other = layers.adapter(2, {0})
    other.weights_P, other.gradient_P = adapter.weights_P, adapter.gradient_P
    assert tables.of([other]) is not tables.of([adapter])
    for many in range(2, 3 * MOST_COMPANIES):
        tables.of([adapter] * many)
    assert len(tables._kept) <= MOST_COMPANIES


def test_a_model_with_kernels_has_the_gradients_of_peft(kernels, model_dir, tmp_path):
    base = make_base(model_dir, torch.float64, kernels=kernels)
    jobs = [
        make_job(
            base,
            make_spec(lora=LoraSpec(rank=rank, alpha=7.0, target_modules=targets)),
            tmp_path,
            train=random_rows(3, seed=rank),
            job_id=f"job-{rank}",
        )
        for rank, targets in ((3, "all-linear"), (5, ("v_proj", "down_proj")))
    ]
    shares = []
    for seed, job in enumerate(jobs):
        randomise(job.adapter, seed=seed)
        rows = random_rows(3, seed=job.adapter.spec.rank)
        shares.append(share_of(rows, job.adapter, sum(row.targets for row in rows)))
    base.train(shares)
    for job in jobs:
        peft = as_peft(load_tiny(model_dir, torch.float64), job.adapter)
        peft_loss(peft, random_rows(3, seed=job.adapter.spec.rank)).backward()
        factors = peft_factors(peft)
        for name, (grad_a_RI, grad_b_OR) in gradients(job.adapter).items():
            torch.testing.assert_close(grad_a_RI, factors[f"{name}.lora_A"].grad, rtol=0, atol=1e-9)
            torch.testing.assert_close(grad_b_OR, factors[f"{name}.lora_B"].grad, rtol=0, atol=1e-9)


def test_jobs_that_come_and_go_train_as_without_kernels(kernels, model_dir, tmp_path):
    ends = []
    for number, one in enumerate((Kernels(), kernels)):
        base = make_base(model_dir, torch.float64, kernels=one)
        stays = [
            Stay(
                make_job(
                    base,
                    make_spec(seed=seed),
                    tmp_path / str(number),
                    train=random_rows(8, seed=seed),
                    job_id=f"job-{seed}",
                ),
                joins=seed % 3,
                leaves=3 if seed == 4 else None,
            )
            for seed in range(10)  # more than a cohort begins with, so that everybody moves
        ]
        traces, _ = run_together(base, stays, budget=300, batched_tokens=64)
        ends.append({name: trace.weights[-1] for name, trace in traces.items()})
    for name, weights_P in ends[0].items():
        torch.testing.assert_close(ends[1][name], weights_P, rtol=0, atol=1e-9)


def test_processors_with_shorter_vectors_compute_the_same(kernel, shorter):
    layers = Layers(150, [70, 33], torch.float64)
    jobs = [(1, 37, 16, {0, 1}), (0, 1, 8, {1}), (2, 90, 7, {0})]
    segments = list(laid_out(layers, jobs))
    x_TI, dy_TO = layers.draw(segments[-1].stop, 150), layers.draw(segments[-1].stop, 103)
    ours = layers.computed(shorter[0], segments, x_TI, dy_TO)
    for one, other in zip(ours, layers.computed(kernel, segments, x_TI, dy_TO), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
