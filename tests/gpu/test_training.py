"""What only a GPU can show: varlen attention, bfloat16, and memory that runs out. `make testgpu`.

Never run yet on the machines this was written on; the CPU suite in tests/integration/training covers everything else.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from adapters.spec import LoraSpec
from tests.integration.training.tiny import (
    make_base,
    make_job,
    make_loop,
    make_spec,
    of_kind,
    random_rows,
    run_to_end,
    share_of,
    write_model,
)
from trainer.messages import Failed, Finished
from trainer.warm.frozen import keeper_for
from trainer.warm.memory import meter_for
from trainer.warm.model import BaseModel, Held, adopt
from trainer.warm.rows import Row

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_model(path)
    return path


def on_gpu(directory: Path, dtype: torch.dtype) -> BaseModel:
    model = LlamaForCausalLM.from_pretrained(directory, dtype=dtype).cuda().eval()
    card = make_base(directory).card
    return adopt(model, PreTrainedTokenizerFast.from_pretrained(directory), card)


def losses(base: BaseModel, rows: tuple[Row, ...] | None = None) -> torch.Tensor:
    return base.look([share_of(rows or random_rows(6, seed=3))])[0].float().cpu()


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
    assert loop.budget.tokens < 1 << 20
    assert of_kind(reports, Finished)


def test_a_shared_stem_is_exact_through_flash_attention_too(directory: Path) -> None:
    beginning, generator = torch.arange(50, 110), torch.Generator().manual_seed(1)
    rows = []
    for at in range(4):
        own_T = torch.randint(3, 300, (12 + at,), generator=generator)
        tokens_T = torch.cat([beginning, own_T])
        rows.append(Row(tokens_T, (torch.arange(len(tokens_T)) >= 60).float()))
    base = on_gpu(directory, torch.bfloat16)
    shared = losses(base, tuple(rows))
    apart = torch.cat([losses(base, (row,)) for row in rows])
    torch.testing.assert_close(shared, apart, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_computed_together_are_those_computed_apart(
    directory: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    base = on_gpu(directory, dtype)
    ends = []
    for together in (0, 128):
        jobs = [
            make_job(
                base,
                make_spec(lora=LoraSpec(rank=rank, alpha=2.0 * rank), seed=rank),
                tmp_path / str(together),
                train=random_rows(8, seed=rank),
                job_id=f"ftjob-{rank}",
            )
            for rank in (4, 8, 16)
        ]
        loop, _ = make_loop(base, *jobs, budget=4096, batched_tokens=together)
        run_to_end(loop)
        ends.append([job.train_loss for job in jobs])
    base.routing.batched_tokens = 0
    assert ends[1] == pytest.approx(ends[0], rel=1e-4 if dtype is torch.float32 else 5e-2)


def test_float16_with_its_loss_scaled_learns_what_float32_does(
    directory: Path, tmp_path: Path
) -> None:
    found = []
    for dtype in (torch.float32, torch.float16):
        base = on_gpu(directory, dtype)
        job = make_job(
            base, make_spec(n_epochs=20), tmp_path / str(dtype), train=random_rows(8, seed=1)
        )
        loop, _ = make_loop(base, job)
        run_to_end(loop)
        assert job.state.skipped == 0
        found.append(job.train_loss)
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_the_budget_grows_by_what_the_allocator_says(directory: Path, tmp_path: Path) -> None:
    base = on_gpu(directory, torch.bfloat16)
    rows = random_rows(256, seed=2, shortest=100, longest=200)
    job = make_job(base, replace(make_spec(), n_epochs=2, batch_size=256), tmp_path, train=rows)
    loop, _ = make_loop(base, job, budget=16_384, meter=meter_for(GPU))
    assert loop.budget.tokens == 1024
    run_to_end(loop)
    assert loop.budget.tokens > 4096
    assert loop.budget.bytes_per_token


def test_a_base_in_four_bits_takes_less_than_in_sixteen(directory: Path) -> None:
    def taken(quantization: str) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
        keeper = keeper_for(quantization, directory, GPU, torch.bfloat16)
        base = adopt(model, tokenizer, make_base(directory).card, Held(keeper, device=GPU))
        assert torch.isfinite(losses(base)).all()
        return torch.cuda.memory_allocated() - before

    assert taken("nf4") < taken("none")
