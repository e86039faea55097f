"""Rows that begin alike share a stem: fewer tokens, the same losses and gradients."""

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings, strategies as st

from adapters.spec import LoraSpec
from tests.integration.training.architectures import random_base
from tests.integration.training.runs import relative
from tests.integration.training.tiny import make_job, make_spec, randomise
from trainer.warm.adapter import Adapter
from trainer.warm.batch import Share, assemble
from trainer.warm.evaluate import look_up_references
from trainer.warm.objective import CrossEntropy, Preference, Reference
from trainer.warm.rows import Row, Sample

ARCHITECTURES = {
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 1, "sliding_window": 9, "head_dim": 8},
    "qwen2": {"num_key_value_heads": 4},
}
#: Before which no token is a target: everything in text rows, replies elsewhere.
TARGETS_FROM = {"text": 1, "chat": 20, "late": 40}


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def any_base(request: pytest.FixtureRequest):
    return random_base(request.param, **ARCHITECTURES[request.param])


@st.composite
def shares_of(draw: st.DrawFn):
    """Jobs whose rows have a common beginning, of which pairs share more; also rows that share nothing."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def some(count: int):
        return torch.randint(3, 300, (count,), generator=generator)

    jobs = []
    for _ in range(draw(st.integers(1, 3))):
        system_T = some(draw(st.integers(0, 40)))
        paired = draw(st.booleans())
        start = TARGETS_FROM[draw(st.sampled_from(sorted(TARGETS_FROM)))]
        samples = []
        for _ in range(draw(st.integers(1, 4))):
            question_T = torch.cat([system_T, some(draw(st.integers(1, 30)))])
            rows = []
            for _ in range(2 if paired else 1):
                tokens_T = torch.cat([question_T, some(draw(st.integers(1, 20)))])
                weights_T = (torch.arange(len(tokens_T)) >= min(start, len(tokens_T) - 1)).float()
                rows.append(Row(tokens_T, weights_T * draw(st.sampled_from([1.0, 0.5]))))
            samples.append(Sample(tuple(rows)))
        jobs.append(samples)
    return jobs


def as_shares(base, jobs):
    shares = []
    for at, samples in enumerate(jobs):
        adapter = base.new_adapter(LoraSpec(rank=3 + at, alpha=6.0), at)
        randomise(adapter, seed=at)
        prefers = len(samples[0].rows) == 2 and at % 2 == 0
        objective = Preference(0.2, Reference(None)) if prefers else CrossEntropy()
        shares.append(Share(samples, adapter, objective, step_size=float(len(samples))))
    return shares


def computed(base, jobs, least_saved):
    """Losses, gradients and tokens laid down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.warm.batch.LEAST_SAVED", least_saved)
        shares = as_shares(base, jobs)
        look_up_references(shares, base)
        batch = base.assemble(shares)
        losses_N, _ = base.train(shares)
    return losses_N, [share.adapter.gradient_P for share in shares], batch.tokens_T.numel()


NEVER, ALWAYS = 10**9, 1


@settings(max_examples=15, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
@given(jobs=shares_of())
def test_shared_stems_change_neither_losses_nor_gradients(any_base, jobs):
    losses_N, gradients, tokens = computed(any_base, jobs, ALWAYS)
    apart_N, expected, all_tokens = computed(any_base, jobs, NEVER)
    assert all_tokens == sum(read(sample) for samples in jobs for sample in samples)
    torch.testing.assert_close(losses_N, apart_N, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert relative(ours, theirs) < 1e-12
    pairs = [sample for samples in jobs for sample in samples if len(sample.rows) == 2]
    together = [min(row.read for row in sample.rows) > 1 for sample in pairs]
    assert tokens < all_tokens or not any(together)


def read(sample):
    return sum(row.read for row in sample.rows)


def rows_after(beginning, count, *, length=6):
    for at in range(count):
        own_T = torch.randint(3, 300, (length + at,))
        own_T[0] = 3 + at  # else two rows may begin alike by chance for one token more
        tokens_T = torch.cat([beginning, own_T])
        yield Row(tokens_T, (torch.arange(len(tokens_T)) >= len(beginning)).float())


def test_a_system_prompt_is_laid_down_once(any_base):
    rows = list(rows_after(torch.arange(50, 110), 5))
    tokens = computed(any_base, [[Sample((row,)) for row in rows]], 24)[2]
    assert tokens == 60 + sum(row.read - 60 for row in rows)


def test_of_pairs_with_different_questions_each_shares_its_own(any_base):
    samples = [Sample(tuple(rows_after(torch.randint(3, 300, (30,)), 2))) for _ in range(3)]
    tokens = computed(any_base, [samples], 24)[2]
    assert tokens == sum(read(sample) - 30 for sample in samples)


def test_what_saves_too_little_is_not_shared(any_base):
    samples = [Sample(tuple(rows_after(torch.arange(50, 60), 2)))]
    assert computed(any_base, [samples], 24)[2] == read(samples[0])


def test_jobs_never_share_with_each_other(any_base):
    rows = list(rows_after(torch.arange(50, 110), 2))
    tokens = computed(any_base, [[Sample((row,))] for row in rows], ALWAYS)[2]
    assert tokens == sum(row.read for row in rows)


def test_with_dropout_nothing_is_shared(any_base, tmp_path):
    rows = list(rows_after(torch.arange(50, 110), 3))
    for dropout, shared in ((0.1, False), (0.0, True)):
        spec = make_spec(lora=LoraSpec(rank=4, alpha=8.0, dropout=dropout))
        job = make_job(any_base, spec, tmp_path, train=rows)
        batch = any_base.assemble([job.take(10_000, at_least_one=True)])
        assert (batch.tokens_T.numel() < sum(row.read for row in rows)) == shared


def test_flash_attentions_keys_are_those_of_the_padded_call():
    """The layout that a GPU reads: each piece's keys are its stem's and its own."""
    adapter = Adapter(
        {"a": (4, 4)}, LoraSpec(), seed=0, device=torch.device("cpu"), dtype=torch.float32
    )
    rows = list(rows_after(torch.arange(50, 90), 3))
    share = Share([Sample((row,)) for row in rows], adapter, CrossEntropy())
    batch = assemble([share], torch.device("cpu"), torch.float32)
    packing = batch.packing
    keys_K = batch.tokens_T[packing.keys_at_K]
    stops = packing.key_boundaries.tolist()
    seen = [keys_K[start:stop].tolist() for start, stop in itertools.pairwise(stops)]
    assert sorted(seen) == sorted(
        [list(range(50, 90)), *[row.tokens_T[: row.read].tolist() for row in rows]]
    )
