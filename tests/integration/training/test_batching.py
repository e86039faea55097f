"""How a step is cut into micro-batches changes its speed and nothing else."""

import pytest

from adapters.spec import (
    Dpo,
    LoraSpec,
    OptimizerSpec,
    Supervised,
)
from tests.integration.training.runs import Trace, pairs
from tests.integration.training.tiny import make_job, make_spec, random_rows, run_to_end
from trainer.warm.budget import SMALLEST
from trainer.warm.limits import Limits
from trainer.warm.loop import Loop
from trainer.warm.meters import Blind

T = 400


class Tides:
    """Memory that comes and goes, so that the budget is another one in every pass. Obeys Meter."""

    def __init__(self):
        self.passes = 0

    def begin(self):
        self.passes += 1

    def took(self):
        return 100_000

    def free(self):
        return [10**6, 200_000, 50_000, 10**7][self.passes % 4]

    def release(self):
        pass


def curve(base, work_dir, method, budget, meter):
    """The job's losses by step, and the sizes of its passes."""
    rows = random_rows(24, seed=1, shortest=10, longest=60)
    spec = make_spec(
        method=method,
        lora=LoraSpec(rank=8, alpha=16.0),
        optimizer=OptimizerSpec(learning_rate=2e-3),
        batch_size=12,
        n_epochs=6,
    )
    train = pairs(rows, seed=2) if isinstance(method, Dpo) else rows
    job = make_job(base, spec, work_dir, train=train)
    trace, passes = Trace.of(job), []
    loop = Loop(base, lambda _: None, Limits(budget, 1e9, meter))
    loop.admit(job)
    take = job.take

    def note(*args, **options):
        share = take(*args, **options)
        passes.append(len(share.samples))
        return share

    job.take = note
    run_to_end(loop)
    assert trace.steps == job.total_steps
    return trace.losses, passes


@pytest.mark.parametrize("method", [Supervised(), Dpo()], ids=["supervised", "dpo"])
def test_the_loss_curve_is_the_same_whatever_the_budget(base, tmp_path, method):
    whole, at_once = curve(base, tmp_path / "whole", method, 100_000, Blind())
    assert set(at_once) == {12}
    assert whole[-1] < whole[0] - 0.1, "a flat curve would show nothing"
    fixed, one_by_one = curve(base, tmp_path / "fixed", method, SMALLEST, Blind())
    assert set(one_by_one) == {1}
    for name, budget, meter in (
        ("t", T, Blind()),
        ("half", T // 2, Blind()),
        ("tides", 4096, Tides()),
    ):
        losses, sizes = curve(base, tmp_path / name, method, budget, meter)
        assert losses == pytest.approx(whole, abs=1e-4)
        assert len(set(sizes)) > 1, "dynamic"
    assert fixed == pytest.approx(whole, abs=1e-4)
