"""The trainer on models made from shapes: first launches and fixed cost of a step, which decide the rest, then rates.

On a GPU in bfloat16; `--shape tiny` runs anywhere, in float32, to try the benchmark out.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from bench.contest import OURS, Stage, Train, contest
from bench.lessons import OurLoop
from bench.limit import LIMIT, MatrixProducts
from bench.measure import CannotRun, Settings, take_turns
from bench.plain_peft import PlainPeft
from bench.proof import BFLOAT16, FLOAT32
from bench.shapes import FIXED, Shape, gpu_workloads, shape_of
from bench.table import Row, Table
from bench.workloads import RANK, Workload, chosen

PEFT = "plain PEFT"
#: What the CUDA runtime and driver call a launch.
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


def run(settings: Settings) -> Table:
    """Launches, fixed cost, then every workload."""
    shape = shape_of(settings.shape)
    workloads = gpu_workloads(shape)
    asked = chosen(workloads, settings.workloads)
    device = _device(shape)
    torch.set_num_threads(settings.threads)
    stage = _stage(shape, device)
    (many,) = chosen(workloads, [f"small{shape.many}"])
    rows = [_launches(stage, device, workload) for workload in (FIXED, many)]
    rows.append(_fixed_cost(settings.rounds, stage, FIXED))
    for workload in asked:
        rows += contest(settings.rounds, stage, workload)
    return Table(name=f"train_gpu {shape.name}", what=_what(device), rows=rows)


def _what(device: torch.device) -> str:
    where = torch.cuda.get_device_name() if device.type == "cuda" else "a CPU"
    return (
        f"random weights of a Llama's shape on {where}, rank 16, all layers, half of the tokens targets. Peer: "
        "transformers + PEFT + torch's fused AdamW, warm, one job after the other, batches padded to their longest row, "
        "no gradient checkpointing. 'of the limit': share of the rate of the frozen weights' matrix products alone, "
        "as in `train`"
    )


def _device(shape: Shape) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if shape.needs_gpu:
        raise CannotRun(f"Shape {shape.name} needs a GPU; --shape tiny runs without.")
    return torch.device("cpu")


def _stage(shape: Shape, device: torch.device) -> Stage:
    model = make_model(shape, device)
    # The same weights in memory once: only the modules around them are copied.
    theirs = copy.deepcopy(model, memo={id(weight): weight for weight in model.parameters()})
    ours = OurLoop.of_model(model, token_budget=shape.token_budget)
    peft = PlainPeft(theirs, ours.targets)
    trainers: Mapping[str, Train] = {
        OURS: lambda w: ours.train(w.lessons, w.steps),
        PEFT: lambda w: peft.train(w.lessons, w.steps, ours.initial_weights),
    }
    tolerance = BFLOAT16 if device.type == "cuda" else FLOAT32
    limit = MatrixProducts(peft.frozen, peft.head, RANK)
    return Stage(trainers, {LIMIT: limit}, tolerance)


def make_model(shape: Shape, device: torch.device) -> Any:
    """Random weights, drawn where they are used."""
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        vocab_size=shape.vocab_size,
        tie_word_embeddings=shape.tie_word_embeddings,
        max_position_embeddings=8192,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
    )
    torch.manual_seed(0)
    with device:
        model = LlamaForCausalLM._from_config(config)  # noqa: SLF001  the one that heeds dtype
    return model.eval()


def _launches(stage: Stage, device: torch.device, workload: Workload) -> Row:
    """Kernels that are launched for a step of every job; on a CPU, operators that are called."""
    what = "kernel launches" if device.type == "cuda" else "operators"
    counts = {
        name: _per_step(partial(_count, device, train), workload)
        for name, train in stage.trainers.items()
    }
    return Row(
        name=f"{what} for a step, {workload.what}",
        unit="",
        better="lower",
        ours=[counts[OURS]],
        peer=[counts[PEFT]],
    )


def _per_step(count: Callable[[Workload], int], workload: Workload) -> int:
    """Without what comes before the first step and after the last."""
    one, two = (_with_steps(workload, steps) for steps in (1, 2))
    return count(two) - count(one)


def _with_steps(workload: Workload, steps: int) -> Workload:
    return Workload(name=workload.name, what=workload.what, lessons=workload.lessons, steps=steps)


def _count(device: torch.device, train: Train, workload: Workload) -> int:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        train(workload)
    return count_events(
        [(event.key, event.count) for event in profiled.key_averages()], cuda=device.type == "cuda"
    )


def count_events(events: Sequence[tuple[str, int]], *, cuda: bool) -> int:
    """Launches among the events of a profile; operators where there is no GPU."""
    if cuda:
        return sum(count for key, count in events if key in LAUNCHES)
    return sum(count for key, count in events if key.startswith("aten::"))


def _fixed_cost(rounds: int, stage: Stage, workload: Workload) -> Row:
    """Milliseconds of a step that has next to nothing to compute."""
    turns = take_turns(
        rounds, {name: partial(train, workload) for name, train in stage.trainers.items()}
    )

    def milliseconds(name: str) -> list[float]:
        return [1000 * turn[name].seconds / workload.steps for turn in turns]

    return Row(
        name=f"fixed cost of a step, {workload.what}",
        unit="ms",
        better="lower",
        ours=milliseconds(OURS),
        peer=milliseconds(PEFT),
    )
