"""How vLLM multiplies by adapters on a CPU, a copy of the weights for each token, and how our plugin for it does."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from adapters.layers import LinearLayers, read_layers
from bench.demo import demo_model
from bench.measure import CannotRun, Settings, seconds, take_turns
from bench.table import Row, Table
from bench.workloads import RANK
from service.settings import EngineSettings

#: Most tokens of a batch here.
MOST_TOKENS = 256
#: The ranks that slots are padded to: what is served by default without a GPU, and with one.
PADDED = (RANK, 64)


@dataclass(frozen=True, slots=True)
class Batch:
    """The slot of each token's adapter; -1 where it has none."""

    what: str
    slots: tuple[int, ...]
    is_prefill: bool = False


BATCHES = (
    Batch("1 token", (0,)),
    Batch("8 tokens of 1 adapter", (0,) * 8),
    Batch("8 tokens of 4 adapters", (0, 1, 2, 3) * 2),
    Batch("a prompt of 40 tokens", (0,) * 40, is_prefill=True),
    Batch("4 prompts of 64 tokens, 4 adapters", tuple(i // 64 for i in range(256)), True),  # noqa: FBT003
)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """What one adapted layer of vLLM's holds: factors of all slots, padded to the largest rank that is served."""

    inputs: int
    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    widths: tuple[int, ...]


def run(settings: Settings) -> Table:
    """All adapted layers of the demo model, one step after the other."""
    torch.set_num_threads(settings.threads)
    slots = EngineSettings().max_loras
    layers = read_layers(demo_model(settings)) or {}
    punica = {
        VLLM: _Punica("vllm.lora.punica_wrapper.punica_cpu", "PunicaWrapperCPU", slots),
        OURS: _Punica("vllm_plugin.punica", "GroupedPunica", slots),
    }
    wrapped = {padded: list(_wrap(layers, slots, padded)) for padded in PADDED}
    rows = [
        _row(settings.rounds, wrapped[padded], punica, batch, padded)
        for padded in PADDED
        for batch in BATCHES
    ]
    return Table(
        name="lora_cpu",
        what=(
            f"milliseconds of everything that adapters add to one step of the demo model, {slots} slots, adapters of "
            f"rank {RANK} padded to that of the slots, float32, {settings.threads} threads. Ours: vllm_plugin. Peer: "
            "vLLM's PunicaWrapperCPU. Both come to the same numbers"
        ),
        rows=rows,
    )


def _wrap(layers: LinearLayers, slots: int, padded: int) -> Iterator[Wrapped]:
    """As vLLM does: q, k, v are one layer, and gate and up."""
    together = {"q_proj": ("k_proj", "v_proj"), "gate_proj": ("up_proj",)}
    followers = {name for names in together.values() for name in names}
    chance = torch.Generator().manual_seed(0)  # the same numbers, however much they are padded
    for path, (_, inputs) in layers.items():
        parent, _, end = path.rpartition(".")
        if end in followers:
            continue
        widths = tuple(layers[f"{parent}.{name}"][0] for name in (end, *together.get(end, ())))
        a = tuple(torch.zeros(slots, 1, padded, inputs) for _ in widths)
        b = tuple(torch.zeros(slots, 1, width, padded) for width in widths)
        for one in a:
            one[:, :, :RANK] = torch.randn(slots, 1, RANK, inputs, generator=chance) * 0.02
        for one in b:
            one[..., :RANK] = torch.randn(*one.shape[:-1], RANK, generator=chance) * 0.02
        yield Wrapped(inputs, a, b, widths)


class _Punica:
    """One way to multiply, told of batches as vLLM's model runner does."""

    def __init__(self, module: str, name: str, slots: int) -> None:
        try:
            wrapper: Any = importlib.import_module(module)
            layers: Any = importlib.import_module("vllm.lora.layers")
        except ImportError as error:
            raise CannotRun(f"vLLM cannot be imported: {error}") from error
        self._mapping = layers.LoRAMapping
        self._slots = slots
        self._wrapper = getattr(wrapper, name)(MOST_TOKENS, MOST_TOKENS, device="cpu")

    def step(
        self, layers: Sequence[Wrapped], batch: Batch, xs: Sequence[Tensor], ys: Sequence[Tensor]
    ) -> None:
        """In place."""
        self._tell(batch)
        for layer, x, y in zip(layers, xs, ys, strict=True):
            self._wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.widths)

    def _tell(self, batch: Batch) -> None:
        """Ids are slots and one, since 0 means none."""
        ids = tuple(slot + 1 for slot in batch.slots)
        mapping = self._mapping(ids, ids, is_prefill=batch.is_prefill)
        known = [slot + 1 for slot in range(self._slots)]
        self._wrapper.update_metadata(mapping, known, self._slots, 49_152)


Step = Callable[[Sequence[Tensor]], None]
VLLM, OURS = "vLLM", "ours"


def _row(
    rounds: int,
    layers: Sequence[Wrapped],
    punica: Mapping[str, _Punica],
    batch: Batch,
    padded: int,
) -> Row:
    xs = [torch.randn(len(batch.slots), layer.inputs) for layer in layers]
    ys = [torch.zeros(len(batch.slots), sum(layer.widths)) for layer in layers]
    steps = {name: partial(one.step, layers, batch, xs) for name, one in punica.items()}
    _check_same(steps, ys)
    turns = take_turns(
        rounds, {name: partial(seconds, partial(step, ys)) for name, step in steps.items()}, warm=1
    )
    return Row(
        name=f"{batch.what}, slots of rank {padded}",
        unit="ms",
        better="lower",
        ours=[1e3 * turn[OURS] for turn in turns],
        peer=[1e3 * turn[VLLM] for turn in turns],
    )


def _check_same(steps: Mapping[str, Step], ys: Sequence[Tensor]) -> None:
    """Nobody is timed for other numbers."""
    found = {}
    for name, step in steps.items():
        for y in ys:
            y.zero_()
        step(ys)
        found[name] = [y.clone() for y in ys]
    for mine, other in zip(found[OURS], found[VLLM], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
