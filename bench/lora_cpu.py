"""How vLLM multiplies by adapters on a CPU, a copy of the weights for each token, and how it could.

A sketch for upstream; nothing here reaches an engine.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
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
class Group:
    """Rows of a batch with the same adapter. A slice where they are adjacent, so that nothing is gathered."""

    slot: int
    rows: slice | Tensor
    rank: int


def groups_of(slots: Tensor, ranks: Sequence[int]) -> list[Group]:
    """Once for each step of the engine, for all layers. Tokens without an adapter are in no group."""
    groups = []
    for slot in slots.unique().tolist():
        if slot >= 0:
            rows = (slots == slot).nonzero().flatten()
            first, last = int(rows[0]), int(rows[-1])
            adjacent = last - first + 1 == len(rows)
            groups.append(Group(slot, slice(first, last + 1) if adjacent else rows, ranks[slot]))
    return groups


def add_lora_grouped(
    y: Tensor,
    x: Tensor,
    a_stacked: Sequence[Tensor],
    b_stacked: Sequence[Tensor],
    output_slices: Sequence[int],
    groups: Sequence[Group],
) -> None:
    """`PunicaWrapperCPU.add_lora_linear` with a product for each adapter. y += x A^T B^T, slice by slice, in place."""
    for group in groups:
        inputs, offset = x[group.rows], 0
        for a, b, width in zip(a_stacked, b_stacked, output_slices, strict=True):
            shrunk = inputs @ a[group.slot, 0, : group.rank].T
            expand = b[group.slot, 0, :, : group.rank].T
            columns = y[:, offset : offset + width]
            if isinstance(group.rows, slice):
                columns[group.rows].addmm_(shrunk, expand)
            else:
                columns.index_add_(0, group.rows, shrunk @ expand)
            offset += width


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
    engine = EngineSettings()
    layers = read_layers(demo_model(settings)) or {}
    stage = _Stage(
        list(_wrap(layers, engine.max_loras, engine.max_lora_rank)),
        list(_wrap(layers, engine.max_loras, RANK)),
        _Punica(engine.max_loras),
        engine,
    )
    rows = [row for batch in BATCHES for row in _rows(settings.rounds, stage, batch)]
    return Table(
        name="lora_cpu",
        what=(
            f"milliseconds of everything that adapters add to one step of the demo model: {len(stage.padded)} wrapped layers, "
            f"{engine.max_loras} slots padded to rank {engine.max_lora_rank}, adapters of rank {RANK}, float32, "
            f"{settings.threads} threads. The peer is vLLM's PunicaWrapperCPU; all come to the same numbers"
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
    """vLLM's own, told of batches as its model runner does."""

    def __init__(self, slots: int) -> None:
        try:
            wrapper: Any = importlib.import_module("vllm.lora.punica_wrapper.punica_cpu")
            layers: Any = importlib.import_module("vllm.lora.layers")
        except ImportError as error:
            raise CannotRun(f"vLLM cannot be imported: {error}") from error
        self._mapping = layers.LoRAMapping
        self._slots = slots
        self._wrapper = wrapper.PunicaWrapperCPU(MOST_TOKENS, MOST_TOKENS, device="cpu")

    def tell(self, batch: Batch) -> None:
        """Ids are slots and one, since 0 means none."""
        ids = tuple(slot + 1 for slot in batch.slots)
        mapping = self._mapping(ids, ids, is_prefill=batch.is_prefill)
        self._wrapper.update_metadata(
            mapping, [slot + 1 for slot in range(self._slots)], self._slots, 49_152
        )

    def add_lora(self, y: Tensor, x: Tensor, layer: Wrapped) -> None:
        """In place."""
        self._wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.widths)


Step = Callable[[Sequence[Tensor]], None]
VLLM = "vLLM"


@dataclass(frozen=True, slots=True)
class _Stage:
    """The layers as our flags have them, and as `--max-lora-rank` of what the adapters have would."""

    padded: Sequence[Wrapped]
    tight: Sequence[Wrapped]
    punica: _Punica
    engine: EngineSettings


def _rows(rounds: int, stage: _Stage, batch: Batch) -> list[Row]:
    layers = stage.padded
    xs = [torch.randn(len(batch.slots), layer.inputs) for layer in layers]
    ys = [torch.zeros(len(batch.slots), sum(layer.widths)) for layer in layers]
    slots, most = stage.engine.max_loras, stage.engine.max_lora_rank
    contestants: dict[str, Step] = {
        VLLM: partial(_as_vllm, layers, batch, xs, stage.punica),
        f"{VLLM} with --max-lora-rank {RANK}": partial(
            _as_vllm, stage.tight, batch, xs, stage.punica
        ),
        "a product for each adapter": partial(_grouped, layers, batch, xs, [most] * slots),
        "and of its own rank": partial(_grouped, layers, batch, xs, [RANK] * slots),
    }
    _check_same(contestants, ys)
    timed = {name: partial(seconds, partial(act, ys)) for name, act in contestants.items()}
    turns = take_turns(rounds, timed, warm=1)
    return [
        Row(
            name=f"{batch.what}: {name}",
            unit="ms",
            better="lower",
            ours=[1e3 * turn[name] for turn in turns],
            peer=[1e3 * turn[VLLM] for turn in turns],
        )
        for name in contestants
        if name != VLLM
    ]


def _as_vllm(
    layers: Sequence[Wrapped],
    batch: Batch,
    xs: Sequence[Tensor],
    punica: _Punica,
    ys: Sequence[Tensor],
) -> None:
    punica.tell(batch)
    for layer, x, y in zip(layers, xs, ys, strict=True):
        punica.add_lora(y, x, layer)


def _grouped(
    layers: Sequence[Wrapped],
    batch: Batch,
    xs: Sequence[Tensor],
    ranks: Sequence[int],
    ys: Sequence[Tensor],
) -> None:
    groups = groups_of(torch.tensor(batch.slots), ranks)
    for layer, x, y in zip(layers, xs, ys, strict=True):
        add_lora_grouped(y, x, layer.a, layer.b, layer.widths, groups)


def _check_same(contestants: dict[str, Step], ys: Sequence[Tensor]) -> None:
    """Nobody is timed for other numbers."""
    found = {}
    for name, act in contestants.items():
        for y in ys:
            y.zero_()
        act(ys)
        found[name] = [y.clone() for y in ys]
    for name, theirs in found.items():
        for mine, other in zip(theirs, found[VLLM], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5, msg=name)
