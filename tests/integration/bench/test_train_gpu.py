"""The benchmark from shapes, tried out on a CPU: both sides train, agree, and are counted."""

import pytest
import torch

from bench import train_gpu
from bench.measure import CannotRun, Settings


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_tiny_shape_is_measured_against_peft_and_the_limit(tmp_path):
    settings = Settings(
        rounds=1, home=tmp_path, threads=1, shape="tiny", workloads=("small4", "4x128")
    )
    table = train_gpu.run(settings)
    names = [row.name for row in table.rows]
    assert names == [
        "operators for a step, 1 job of 1 row of 16 tokens",
        "operators for a step, 4 jobs of 4 rows of skewed lengths",
        "fixed cost of a step, 1 job of 1 row of 16 tokens",
        "small4, 4 jobs of 4 rows of skewed lengths: plain PEFT",
        "small4: of the limit",
        "4x128, 1 job of 4 rows of 8 tokens: plain PEFT",
        "4x128: of the limit",
    ]
    assert all(min([*row.ours, *row.peer]) > 0 for row in table.rows)
    one_job, many_jobs, *_ = table.rows
    assert many_jobs.ours[0] < 4 * one_job.ours[0], "jobs do not share a pass"


def test_a_large_shape_without_a_gpu_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CannotRun, match="needs a GPU"):
        train_gpu.run(Settings(rounds=1, home=tmp_path, shape="8b"))


def test_launches_are_counted_by_the_names_that_cuda_gives_them():
    events = [
        ("cudaLaunchKernel", 3),
        ("cuLaunchKernelEx", 2),
        ("cudaMemcpyAsync", 9),
        ("aten::mm", 7),
    ]
    assert train_gpu.count_events(events, cuda=True) == 5
    assert train_gpu.count_events(events, cuda=False) == 7
