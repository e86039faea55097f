"""A job's result is its own: whoever comes, goes, diverges or runs out of memory beside it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from adapters.spec import (
    Dpo,
    LoraSpec,
    OptimizerSpec,
    Supervised,
    TrainingSpec,
)
from tests.integration.training.runs import (
    Stay,
    broken,
    pairs,
    peft_trace,
    relative,
    run_alone,
    run_together,
    work_dirs,
)
from tests.integration.training.tiny import (
    as_peft,
    load_tiny,
    make_base,
    make_job,
    make_spec,
    of_kind,
    random_rows,
)
from trainer.messages import Failed
from trainer.warm.job import Job
from trainer.warm.model import BaseModel
from trainer.warm.native.library import Kernels


@pytest.fixture(scope="module", params=["torch", "kernels"])
def computed(request: pytest.FixtureRequest) -> Kernels:
    """Who multiplies."""
    return request.getfixturevalue("kernels") if request.param == "kernels" else Kernels()


@pytest.fixture(scope="module")
def base(model_dir: Path, computed: Kernels) -> BaseModel:
    return make_base(model_dir, kernels=computed)


@pytest.fixture(scope="module")
def base64(model_dir: Path, computed: Kernels) -> BaseModel:
    return make_base(model_dir, torch.float64, kernels=computed)


TARGETS = ["all-linear", ("q_proj", "v_proj"), ("k_proj", "down_proj"), ("o_proj", "gate_proj")]


@dataclass(frozen=True)
class Visit:
    """A job of a random mix."""

    spec: TrainingSpec
    rows: int
    longest: int
    held_out: int
    joins: int
    leaves: int | None

    def job(self, base: BaseModel, work_dir: Path, name: str) -> Job:
        def samples(count: int, seed: int):
            rows = random_rows(count, seed=seed, shortest=5, longest=self.longest)
            return pairs(rows, seed=seed) if isinstance(self.spec.method, Dpo) else rows

        seed = self.spec.seed
        train, valid = samples(self.rows, seed), samples(self.held_out, seed + 1)
        return make_job(base, self.spec, work_dir, train=train, valid=valid, job_id=name)


@st.composite
def visits(draw: st.DrawFn, *, dropout: tuple[float, ...] = (0.0, 0.2)) -> Visit:
    optimizer = OptimizerSpec(
        learning_rate=draw(st.sampled_from([1e-4, 1e-3, 1e-2])),
        weight_decay=draw(st.sampled_from([0.0, 0.1])),
        max_grad_norm=draw(st.sampled_from([0.0, 0.3, 1.0])),
        warmup_ratio=draw(st.sampled_from([0.0, 0.05, 0.5])),
        lora_plus_ratio=draw(st.sampled_from([1.0, 16.0])),
    )
    rank = draw(st.integers(4, 64))
    lora = LoraSpec(
        rank=rank,
        alpha=float(rank),
        dropout=draw(st.sampled_from(dropout)),
        target_modules=draw(st.sampled_from(TARGETS)),
        rslora=draw(st.booleans()),
    )
    spec = make_spec(
        lora=lora,
        optimizer=optimizer,
        method=draw(st.sampled_from([Supervised(), Dpo(beta=0.3)])),
        batch_size=draw(st.integers(1, 5)),
        n_epochs=draw(st.integers(1, 2)),
        seed=draw(st.integers(0, 1000)),
    )
    return Visit(
        spec,
        rows=draw(st.integers(3, 8)),
        longest=draw(st.sampled_from([12, 30, 90])),
        held_out=draw(st.sampled_from([0, 0, 3])),
        joins=draw(st.integers(0, 6)),
        leaves=draw(st.sampled_from([None, None, None, 5, 9])),
    )


mixes = st.tuples(
    st.lists(visits(), min_size=2, max_size=5),
    st.sampled_from([40, 128, 300, 4000]),
    st.sampled_from([0, 0, 100, 1000]),
)
few = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes: run it by hand
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="session")
def new_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Hypothesis runs one test many times, in one temporary directory."""
    return work_dirs(tmp_path_factory.mktemp("isolation"))


@few
@given(mix=mixes)
def test_in_float64_every_step_of_every_job_is_that_of_its_run_alone(base64, new_dir, mix):
    chosen, budget, batched_tokens = mix
    together, apart = next(new_dir), next(new_dir)
    stays = [
        Stay(visit.job(base64, together, f"job-{at}"), visit.joins, visit.leaves)
        for at, visit in enumerate(chosen)
    ]
    traces, _ = run_together(base64, stays, budget=budget, batched_tokens=batched_tokens)
    for at, visit in enumerate(chosen):
        alone = run_alone(base64, visit.job(base64, apart, f"job-{at}"))
        mixed = traces[f"job-{at}"]
        assert visit.leaves is not None or mixed.steps == alone.steps > 0
        for ours, theirs in zip(mixed.weights, alone.weights, strict=False):
            assert relative(ours, theirs) < 1e-9
        for ours, theirs in zip(mixed.losses, alone.losses, strict=False):
            assert ours == pytest.approx(theirs, rel=1e-9)


@settings(few, max_examples=6)
@given(visit=visits(dropout=(0.0,)), neighbour=visits())
def test_in_float64_every_step_is_pefts_with_torchs_adamw(
    base64, model_dir, new_dir, visit, neighbour
):
    visit, neighbour = replace(visit, leaves=None, held_out=0), replace(neighbour, leaves=None)
    job = visit.job(base64, next(new_dir), "job")
    peft = as_peft(load_tiny(model_dir, torch.float64), job.adapter)
    theirs = peft_trace(peft, job)
    beside = neighbour.job(base64, next(new_dir), "neighbour")
    traces, _ = run_together(base64, [Stay(job), Stay(beside)], budget=100)
    ours = traces["job"]
    assert ours.steps == theirs.steps > 0
    assert relative(ours.weights[-1], theirs.weights[-1]) < 1e-9
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-9)


PADDINGS = ({"right": 0}, {"right": 7}, {"left": 5}, {"left": 16, "right": 16})


@pytest.mark.parametrize("seed", [1, 2])
def test_in_float32_jobs_stay_as_close_as_peft_to_itself_with_other_padding(
    base, model_dir, tmp_path, seed
):
    """Adam turns rounding of small gradients into steps of full size, so that the bound is measured, not chosen."""
    spec = make_spec(
        lora=LoraSpec(rank=8, alpha=16.0), optimizer=OptimizerSpec(learning_rate=2e-3), n_epochs=6
    )
    rows = random_rows(12, seed=seed)

    def fresh(name):
        return make_job(base, spec, tmp_path / name, train=rows, job_id="job")

    job = fresh("alone")
    theirs = [
        peft_trace(as_peft(load_tiny(model_dir), job.adapter), job, **padding)
        for padding in PADDINGS
    ]
    start_P = theirs[0].weights[0]
    update = float((theirs[0].weights[-1] - start_P).norm())
    floor = max(
        float((one.weights[-1] - other.weights[-1]).norm()) / update
        for at, one in enumerate(theirs)
        for other in theirs[:at]
    )
    alone = run_alone(base, job)
    neighbours = [
        make_job(
            base,
            make_spec(lora=LoraSpec(rank=rank, alpha=8.0), n_epochs=4, seed=rank),
            tmp_path,
            train=random_rows(9, seed=rank, longest=longest),
            job_id=f"neighbour-{rank}",
        )
        for rank, longest in ((4, 80), (64, 12))
    ]
    stays = [Stay(fresh("mixed")), Stay(neighbours[0], joins=1), Stay(neighbours[1], leaves=7)]
    mixed = run_together(base, stays, budget=150)[0]["job"]

    def apart(one, other):
        return float((one.weights[-1] - other.weights[-1]).norm()) / update

    assert 0 < floor < 5e-3
    assert apart(mixed, alone) <= 3 * floor
    assert max(apart(mixed, one) for one in theirs) <= 3 * floor
    assert max(apart(alone, one) for one in theirs) <= 3 * floor
    assert mixed.losses == pytest.approx(alone.losses, abs=1e-4)
    assert mixed.losses == pytest.approx(theirs[0].losses, abs=1e-4)


def three(base, work_dir):
    """Two that are well, of unlike methods and shapes, and the one that something happens to."""
    healthy = make_spec(lora=LoraSpec(rank=8, alpha=16.0), n_epochs=4, batch_size=3)
    prefers = make_spec(method=Dpo(), n_epochs=5, seed=3)
    ill = make_spec(lora=LoraSpec(rank=16, alpha=16.0), n_epochs=4, seed=4)
    rows = [random_rows(8, seed=seed) for seed in (1, 2)]
    return [
        make_job(base, healthy, work_dir, train=rows[0], valid=rows[1][:2], job_id="healthy"),
        make_job(base, prefers, work_dir, train=pairs(rows[1], seed=2), job_id="prefers"),
        make_job(base, ill, work_dir, train=random_rows(8, seed=5, longest=70), job_id="ill"),
    ]


def nan(hidden, segment):
    inside_T = torch.zeros(hidden.shape[1], dtype=torch.bool)
    inside_T[segment.start : segment.stop] = True
    return torch.where(inside_T[None, :, None], torch.nan, hidden)


def infinite_weights(hidden, segment):
    segment.adapter.load(torch.full_like(segment.adapter.weights_P, torch.inf))
    return hidden


@pytest.mark.parametrize("fault", [nan, infinite_weights])
@pytest.mark.parametrize(("budget", "batched_tokens"), [(90, 0), (1000, 0), (1000, 500)])
def test_a_neighbour_whose_numbers_are_not_finite_changes_nothing(
    base64, tmp_path, fault, budget, batched_tokens
):
    jobs = three(base64, tmp_path / "together")
    with broken(base64, jobs[2], fault):
        traces, reports = run_together(
            base64, [Stay(job) for job in jobs], budget=budget, batched_tokens=batched_tokens
        )
    (failed,) = of_kind(reports, Failed)
    assert (failed.job_id, failed.code) == ("ill", "loss_diverged")
    assert jobs[2].state.skipped == 3
    for job in three(base64, tmp_path / "alone")[:2]:
        alone, mixed = run_alone(base64, job), traces[job.identity.job_id]
        assert mixed.steps == alone.steps > 5
        for ours, theirs in zip(mixed.weights, alone.weights, strict=True):
            assert relative(ours, theirs) < 1e-9


def test_not_a_bit_of_the_others_changes_while_the_neighbour_is_not_finite(base, tmp_path):
    """In the same micro-batches as with a healthy neighbour, so that even the order of sums is the same."""

    def weights(fault, name):
        jobs = three(base, tmp_path / name)
        with broken(base, jobs[2], fault):
            traces, _ = run_together(base, [Stay(job) for job in jobs], budget=1000)
        return {job.identity.job_id: traces[job.identity.job_id].weights[:4] for job in jobs}

    well, unwell = weights(lambda hidden, _: hidden, "well"), weights(nan, "unwell")
    for name in ("healthy", "prefers"):
        assert len(well[name]) == 4
        for ours, theirs in zip(unwell[name], well[name], strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(unwell["ill"][0], unwell["ill"][-1])


def out_of_memory(hidden, segment):
    raise torch.OutOfMemoryError


def out_of_memory_on_long_rows(hidden, segment):
    if segment.stop - segment.start > 40:
        raise torch.OutOfMemoryError
    return hidden


@pytest.mark.parametrize("fault", [out_of_memory, out_of_memory_on_long_rows])
@pytest.mark.parametrize("budget", [90, 1000])
def test_a_neighbour_that_runs_out_of_memory_changes_nothing(base64, tmp_path, fault, budget):
    jobs = three(base64, tmp_path / "together")
    with broken(base64, jobs[2], fault):
        traces, reports = run_together(base64, [Stay(job) for job in jobs], budget=budget)
    (failed,) = of_kind(reports, Failed)
    assert (failed.job_id, failed.code) == ("ill", "out_of_memory")
    for job in three(base64, tmp_path / "alone")[:2]:
        alone, mixed = run_alone(base64, job), traces[job.identity.job_id]
        assert mixed.steps == alone.steps > 5
        for ours, theirs in zip(mixed.weights, alone.weights, strict=True):
            assert relative(ours, theirs) < 1e-9
