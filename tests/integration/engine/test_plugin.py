"""The plugin as vLLM finds it, asks it and uses it: in processes of their own, for vLLM looks for plugins once."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from adapters.settings import TelemetrySettings
from service.engine.start import plan_launch
from service.settings import EngineSettings, has_nvidia_gpu
from tests.support.samples import card

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None or has_nvidia_gpu(), reason="there is no vLLM for CPUs here"
)

WHICH = """
import json
from vllm.platforms import current_platform
print(json.dumps([type(current_platform).__name__, current_platform.get_punica_wrapper()]))
"""
BOTH = """
import itertools

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper

torch.manual_seed(0)
slots, rank, inputs, widths = 3, 4, 16, (8, 8, 12)
a = tuple(torch.randn(slots, 1, rank, inputs) for _ in widths)
b = tuple(torch.randn(slots, 1, width, rank) for width in widths)
ours, theirs = get_punica_wrapper(64, 8, device="cpu"), PunicaWrapperCPU(64, 8, device="cpu")
assert type(ours).__name__ == "GroupedPunica"
# Of vLLM's adapters, 11 lies in the second slot, 12 in the first; 0 is none, which vLLM's own gets wrong.
cases = (((11,) * 5 + (12,) * 3, True), ((11, 12, 11, 12), False), ((11,), False))
coarse = tuple(tuple(one.bfloat16() for one in factors) for factors in (a, b))  # --lora-dtype
for (ids, is_prefill), factors in itertools.product(cases, ((a, b), coarse)):
    x, y = torch.randn(len(ids), inputs), torch.randn(len(ids), sum(widths))
    results = []
    for wrapper in (ours, theirs):
        wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill), [12, 11, None], slots, 100)
        result = y.clone()
        wrapper.add_lora_linear(result, x, *factors, 1.0, widths)
        results.append(result)
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0], y)
ids = (0, 11, 0)
x, y = torch.randn(3, inputs), torch.randn(3, sum(widths))
ours.update_metadata(LoRAMapping(ids, ids, False), [12, 11, None], slots, 100)
result = y.clone()
ours.add_lora_linear(result, x, a, b, 1.0, widths)
assert torch.equal(result[::2], y[::2])
assert not torch.equal(result[1], y[1])
# Where vLLM has its layers compiled, what is traced must hold for every batch.
traced = torch.compile(
    lambda y, x: ours.add_lora_linear(y, x, a, b, 1.0, widths), backend="eager", fullgraph=True
)
for ids in ((11, 12), (12, 11)):
    x, y = torch.randn(2, inputs), torch.randn(2, sum(widths))
    for wrapper in (ours, theirs):
        wrapper.update_metadata(LoRAMapping(ids, ids, False), [12, 11, None], slots, 100)
    wanted, result = y.clone(), y.clone()
    theirs.add_lora_linear(wanted, x, a, b, 1.0, widths)
    traced(result, x)
    torch.testing.assert_close(result, wanted)
"""


#: Comparisons and others, as the scheduler sees them: what waits, what runs, and when.
GATHERS = """
from types import SimpleNamespace
from vllm_plugin import scheduler

def request(name, prompt_logprobs):
    return SimpleNamespace(
        request_id=name, sampling_params=SimpleNamespace(prompt_logprobs=prompt_logprobs)
    )

now = [100.0]
scheduler.time = SimpleNamespace(monotonic=lambda: now[0])
made = scheduler.GatheringScheduler.__new__(scheduler.GatheringScheduler)
comparison, question = request("c", 0), request("q", None)
made.running = []
made.waiting = [comparison]
assert made._gathers()
assert made.schedule().total_num_scheduled_tokens == 0
now[0] += scheduler.GATHER_S
assert not made._gathers(), "it waits no longer than that"
made.waiting = [request("another", 0)]
assert made._gathers(), "each has its own time"
made.waiting = [question]
assert not made._gathers(), "a question waits for nobody"
made.waiting = [request("c2", 0), question]
assert not made._gathers(), "the question has come"
made.waiting, made.running = [request("c3", 0)], [question]
assert not made._gathers(), "something is computed anyway"
made.waiting, made.running = [SimpleNamespace(request_id="p", sampling_params=None)], []
assert not made._gathers(), "an embedding is no comparison"
"""


def run(code: str, *, as_our_engine: bool, tmp_path: object) -> str:
    # One whose layers may be compiled.
    settings = EngineSettings(extra_args=("--no-enforce-eager",))
    plan = plan_launch(
        settings,
        card(),
        tmp_path,
        tmp_path,
        gpu=False,
        computing=tmp_path,
        telemetry=TelemetrySettings(),
    )
    environment = dict(os.environ)  # noqa: TID251  handed on, not read
    if as_our_engine:
        environment = plan.environment_over(environment)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_an_engine_of_ours_finds_it_and_no_other_vllm_does(tmp_path) -> None:
    ours = run(WHICH, as_our_engine=True, tmp_path=tmp_path)
    assert json.loads(ours.splitlines()[-1]) == [
        "GraftCpuPlatform",
        "vllm_plugin.punica.GroupedPunica",
    ]
    assert "GraftCpuPlatform" not in run(WHICH, as_our_engine=False, tmp_path=tmp_path)


def test_it_computes_what_vllm_does_and_nothing_where_there_is_no_adapter(tmp_path) -> None:
    run(BOTH, as_our_engine=True, tmp_path=tmp_path)


def test_only_a_comparison_by_itself_waits_for_its_question(tmp_path) -> None:
    run(GATHERS, as_our_engine=True, tmp_path=tmp_path)
