"""What only a GPU can show: varlen attention, bfloat16, and memory that runs out. `make testgpu`.

Never run yet on the machines this was written on; the CPU suite in tests/integration/training covers everything else.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.integration.training.tiny import (
    make_base,
    make_job,
    make_loop,
    make_spec,
    of_kind,
    random_rows,
    run_to_end,
    write_model,
)
from trainer.messages import Failed, Finished
from trainer.warm.batch import Share
from trainer.warm.model import BaseModel, adopt

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_model(path)
    return path


def on_gpu(directory: Path, dtype: torch.dtype) -> BaseModel:
    model = LlamaForCausalLM.from_pretrained(directory, dtype=dtype).cuda().eval()
    card = make_base(directory).card
    return adopt(model, PreTrainedTokenizerFast.from_pretrained(directory), card)


def losses(base: BaseModel) -> torch.Tensor:
    rows = list(random_rows(6, seed=3))
    with torch.no_grad():
        return base.losses(base.assemble([Share(rows, None, 0.0)]))[1].float().cpu()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
def test_packed_losses_on_the_gpu_are_those_of_the_cpu(
    directory: Path, dtype: torch.dtype, tolerance: float
) -> None:
    expected = losses(make_base(directory))
    torch.testing.assert_close(
        losses(on_gpu(directory, dtype)), expected, rtol=tolerance, atol=tolerance
    )


def test_a_job_in_bfloat16_learns_its_rows_with_float32_master_weights(
    directory: Path, tmp_path: Path
) -> None:
    base = on_gpu(directory, torch.bfloat16)
    job = make_job(base, make_spec(n_epochs=30), tmp_path, train=random_rows(8, seed=1))
    assert job.adapter.weights_P.dtype is torch.float32
    loop, reports = make_loop(base, job)
    run_to_end(loop)
    [finished] = of_kind(reports, Finished)
    assert finished.manifest.result.train_loss < 0.7 * float(losses(base).mean())


def test_memory_that_runs_out_halves_the_budget_and_the_job_still_ends_well(
    directory: Path, tmp_path: Path
) -> None:
    base = on_gpu(directory, torch.bfloat16)
    rows = random_rows(64, seed=2, shortest=200, longest=400)
    job = make_job(base, replace(make_spec(), n_epochs=1, batch_size=64), tmp_path, train=rows)
    loop, reports = make_loop(base, job, budget=1 << 20)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    try:
        run_to_end(loop)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert of_kind(reports, Failed) == []
    assert loop.token_budget < 1 << 20
    assert of_kind(reports, Finished)
