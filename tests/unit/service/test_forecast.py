"""Steps, time, queue and sizes, from what is known beforehand."""

import json
import struct
from dataclasses import replace

import pytest

from adapters.records import (
    Job,
    JobStatus,
    Phase,
    Progress,
)
from adapters.spec import (
    LoraSpec,
    OptimizerSpec,
    TrainingSpec,
)
from service.advice import about_capacity, about_settings
from service.footprint import Footprint, Linear, available_memory, read_footprint
from service.forecast import plan, speed
from service.tokens.messages import Counted
from tests.support.samples import BASE, new_job

SPEC = TrainingSpec(batch_size=4, n_epochs=2)
SIZE = Footprint(parameters=1_000_000, bytes=4_000_000, linears=(Linear("q_proj", 10, 20),))


def counted(rows: int, **changes: object) -> Counted:
    found = Counted(
        rows=rows,
        complete=True,
        too_long=0,
        tokens=10 * rows,
        trained_tokens=4 * rows,
        samples=rows,
        longest=10,
        histogram=(),
    )
    return replace(found, **changes)


def job(status: JobStatus = JobStatus.RUNNING, **progress: float | None) -> Job:
    new = new_job()
    return Job(
        id=new.id,
        adapter=new.adapter,
        base_model=BASE,
        training_file=new.training_file,
        validation_file=None,
        spec=new.spec,
        dataset=new.dataset,
        metadata=None,
        status=status,
        phase=Phase.TRAINING,
        progress=Progress(**progress),
        created_at=0.0,
        started_at=0.0,
        finished_at=None,
        attempt=1,
        losses=0,
        lost_at=0,
        worker="w",
        lease_expires_at=None,
        error=None,
        fine_tuned_model=None,
        trained_tokens=None,
    )


# ---- steps


def test_what_is_held_out_is_not_trained_on():
    course = plan(SPEC, rows=200, held_out=None, counted=counted(200))
    assert (course.valid_rows, course.train_samples) == (10, 190)
    assert (course.steps_per_epoch, course.steps) == (48, 96)
    assert (course.tokens_per_epoch, course.trained_tokens_per_epoch) == (1900, 760)


def test_rows_that_came_to_be_held_out_cost_the_training_rows_nothing():
    course = plan(SPEC, rows=200, held_out=7, counted=counted(200))
    assert (course.valid_rows, course.train_samples, course.tokens_per_epoch) == (7, 200, 2000)


def test_what_is_too_long_is_neither_trained_on_nor_held_out():
    found = counted(60, too_long=20, tokens=400, trained_tokens=160, samples=40)
    course = plan(SPEC, rows=60, held_out=None, counted=found)
    assert (course.dropped_rows, course.valid_rows, course.train_samples) == (20, 0, 40)


def test_a_row_that_becomes_several_samples_makes_as_many():
    course = plan(SPEC, rows=10, held_out=None, counted=counted(10, samples=25))
    assert (course.train_samples, course.steps_per_epoch) == (25, 7)


def test_a_part_is_scaled_up():
    found = counted(100, complete=False, too_long=10, tokens=900, samples=90)
    course = plan(SPEC, rows=1000, held_out=0, counted=found)
    assert (course.dropped_rows, course.train_samples, course.tokens_per_epoch) == (100, 900, 9000)


def test_without_a_count_there_are_steps_and_no_tokens():
    course = plan(SPEC, rows=200, held_out=None, counted=None)
    assert (course.steps_per_epoch, course.valid_rows) == (48, 10)
    assert (course.tokens_per_epoch, course.dropped_rows) == (None, None)


# ---- speed


def test_speed_is_the_median_of_the_newest_jobs_that_have_one():
    rates = [100.0, 300.0, None, 200.0, *[250.0] * 5, 9999.0]
    jobs = [job(tokens_per_second=rate) for rate in rates]
    found = speed(jobs, SIZE, gpu=False)
    assert (found.tokens_per_second, found.basis) == (250.0, "measured")


def test_speed_is_assumed_by_size_where_none_was_measured():
    cpu, gpu = (speed([job()], SIZE, gpu=gpu) for gpu in (False, True))
    assert cpu.basis == gpu.basis == "assumed"
    assert cpu.tokens_per_second == 15_000
    assert gpu.tokens_per_second > 1000 * cpu.tokens_per_second
    assert speed([], None, gpu=False) is None


# ---- sizes


def write_weights(path, tensors, *, head=None):
    at, header = 0, {"__metadata__": {"format": "pt"}}
    for name, shape in tensors.items():
        count = 1
        for edge in shape:
            count *= edge
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * count]}
        at += 2 * count
    text = json.dumps(header).encode() if head is None else head
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_sizes_are_read_from_the_headers_of_all_files(tmp_path):
    layer = "model.layers.0.self_attn"
    write_weights(
        tmp_path / "a.safetensors",
        {"model.embed_tokens.weight": [100, 8], f"{layer}.q_proj.weight": [16, 8]},
    )
    write_weights(
        tmp_path / "b.safetensors",
        {f"{layer}.k_proj.weight": [4, 8], f"{layer}.k_proj.bias": [4], "lm_head.weight": [100, 8]},
    )
    size = read_footprint(tmp_path, ["q_proj", "k_proj"])
    assert size.parameters == 800 + 128 + 32 + 4 + 800
    assert size.bytes == 2 * size.parameters
    assert size.linears == (Linear("q_proj", 8, 16), Linear("k_proj", 8, 4))
    both, one = LoraSpec(rank=4), LoraSpec(rank=4, target_modules=("k_proj",))
    assert (size.adapter_parameters(both), size.adapter_parameters(one)) == (144, 48)
    assert size.adapter_bytes(one) == 48 * 16
    assert size.activation_bytes(10) == 10 * 4 * (24 + 12)


@pytest.mark.parametrize("head", [b"", b"{", b"\xff"])
def test_what_is_no_weights_file_has_no_size(tmp_path, head):
    write_weights(tmp_path / "a.safetensors", {}, head=head)
    assert read_footprint(tmp_path, ["q_proj"]) is None
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 9)
    assert read_footprint(tmp_path, ["q_proj"]) is None
    assert read_footprint(tmp_path / "nowhere", ["q_proj"]) is None


def test_memory_is_what_the_kernel_says(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert available_memory(tmp_path / "meminfo") == 2 << 20
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\n")
    assert available_memory(tmp_path / "meminfo") is None
    assert available_memory(tmp_path / "none") is None


# ---- warnings


def codes(warnings):
    return [warning.code for warning in warnings]


@pytest.mark.parametrize(
    ("rate", "warned"),
    [
        (2e-4, []),
        (2e-3, []),
        (2.1e-3, ["learning_rate_high"]),
        (2e-5, []),
        (1.9e-5, ["learning_rate_low"]),
    ],
)
def test_a_learning_rate_is_far_from_ten_times_on(rate, warned):
    spec = replace(SPEC, optimizer=OptimizerSpec(learning_rate=rate))
    course = plan(spec, rows=200, held_out=None, counted=None)
    assert codes(about_settings(spec, course)) == warned


def test_few_steps_and_nothing_held_out_are_warned_of():
    course = plan(SPEC, rows=20, held_out=None, counted=None)
    few, blind = about_settings(SPEC, course)
    assert (few.code, blind.code) == ("few_steps", "nothing_held_out")
    assert "10 steps (2 epochs of 5)" in few.message


@pytest.mark.parametrize(
    ("tokens", "warned"),
    [
        (2_000_001, ["adapter_small"]),
        (2_000_000, []),
        (100, []),
        (99, ["adapter_large"]),
    ],
)
def test_an_adapter_should_have_the_size_of_its_data(tokens, warned):
    assert codes(about_capacity(1_000_000, tokens)) == warned
