"""Linear layers with many adapters: the base product for all rows at once, then each job's low-rank products.

    y = x W^T;   y[s, o] += scale (x[s] A_o^T) B_o^T        for each segment s of tokens and each layer o

Segments are contiguous, one a job, so ranks and targets may differ freely. Layers that read the same input (q, k and v;
gate and up) are siblings: their weights are stacked and one product serves them all. Gradients go straight into each
job's flat buffer: autograd never sees an adapter weight, and the frozen weights get no gradient at all.

Shapes: T tokens, N tokens of one segment, I inputs, O outputs of all siblings, S stacked ranks of a job.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from trainer.warm.adapter import Adapter, Factors, LinearShape, Siblings
from trainer.warm.frozen import Keeper, stack


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens `start:stop` of a micro-batch, which belong to one job."""

    start: int
    stop: int
    adapter: Adapter
    #: Start, stop and seed of each row; only read where there is dropout.
    rows: tuple[tuple[int, int, int], ...] = ()


def _go_on() -> None:
    """Nothing interrupts."""


@dataclass(slots=True)
class Routing:
    """Which tokens belong to whom in the pass that is running. One for each base model, shared by its layers."""

    segments: tuple[Segment, ...] = ()
    #: Of the whole pass: a layer that is called with only some of them cannot tell whose they are.
    tokens: int | None = None
    #: Called before each product, forward and backward. May raise, which abandons the pass: a cancelled job
    #: does not have to wait for the end of a micro-batch, which on a CPU takes seconds.
    breathe: Callable[[], None] = _go_on
    #: Makes autograd call our backward where the input itself needs no gradient, as in the first layer.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))

    @contextmanager
    def to(self, segments: tuple[Segment, ...], tokens: int) -> Iterator[None]:
        """Inside, tokens belong to these."""
        before = self.segments, self.tokens
        self.segments, self.tokens = segments, tokens
        try:
            yield
        finally:
            self.segments, self.tokens = before


@dataclass(frozen=True, slots=True)
class Part:
    """A segment as one group of siblings sees it."""

    start: int
    stop: int
    scale: float
    factors: Factors
    #: For each member: 0 where dropped, else 1 / (1 - p). Empty without dropout.
    kept_NI: tuple[Tensor, ...] = ()


class LinearGroup(nn.Module):
    """The frozen weights of sibling `nn.Linear`s of the base model, stacked, and what their adapters add.

    A sibling is computed with all others when the first of them is called, and the rest is handed out to those that
    are called with the very same input.
    """

    def __init__(
        self, names: Siblings, layers: Sequence[nn.Linear], routing: Routing, keeper: Keeper
    ) -> None:
        super().__init__()
        self.names = names
        self.inputs = layers[0].in_features
        self.frozen = keeper.keep(names, stack([layer.weight for layer in layers]))
        biases = [layer.bias for layer in layers if layer.bias is not None]
        self.bias = nn.Parameter(stack(biases), requires_grad=False) if biases else None
        self.widths = [layer.out_features for layer in layers]
        self.routing = routing
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    @property
    def shapes(self) -> dict[str, LinearShape]:
        """Outputs and inputs of each layer."""
        return {
            name: (outputs, self.inputs)
            for name, outputs in zip(self.names, self.widths, strict=True)
        }

    def output(self, index: int, x: Tensor) -> Tensor:
        """What the sibling of that index makes of x: [..., I] to [..., its outputs]."""
        if self._input is not x or index not in self._outputs:
            y = self.forward(x)
            self._input, self._outputs = x, dict(enumerate(y.split(self.widths, dim=-1)))
        mine = self._outputs.pop(index)
        if not self._outputs:
            self._input = None
        return mine

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O].

        Raises:
            ValueError: the model routes only some of the tokens through this layer, as mixtures of experts do.
        """
        self.routing.breathe()
        x_TI = x.reshape(-1, x.shape[-1])
        if self.routing.tokens not in {None, x_TI.shape[0]}:
            raise ValueError(f"{self.names[0]} is called with some of the tokens only.")
        parts = self._parts(x_TI)
        if not parts and not torch.is_grad_enabled():
            return linear(x, self.frozen.dense(), self.bias)
        y_TO = SegmentedLora.apply(x_TI, self.routing.anchor, self, parts)
        return y_TO.view(*x.shape[:-1], -1)

    def _parts(self, x_TI: Tensor) -> list[Part]:
        return [
            Part(
                segment.start,
                segment.stop,
                segment.adapter.scale,
                factors,
                _draw_dropout(segment, factors, x_TI),
            )
            for segment in self.routing.segments
            if (factors := segment.adapter.factors.get(self.names)) is not None
        ]


class LoraLinear(nn.Module):
    """Stands in for one `nn.Linear` of the base model; the work is its group's."""

    def __init__(self, group: LinearGroup, index: int) -> None:
        super().__init__()
        self.index = index
        # Not as a submodule: the group's weights belong to the group alone.
        self.__dict__["group"] = group

    @property
    def weight(self) -> Tensor:
        """Its rows of the group's weights, for model code that looks at dtype or device."""
        start = sum(self.group.widths[: self.index])
        rows: Tensor = self.group.frozen.dense()[start : start + self.group.widths[self.index]]
        return rows

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`, plus the adapters."""
        y: Tensor = self.group.output(self.index, x)
        return y


def _draw_dropout(segment: Segment, factors: Factors, x_TI: Tensor) -> tuple[Tensor, ...]:
    """A mask for each layer, as PEFT has it.

    A pure function of job, step, row and layer, so that neighbours, redone steps and resuming cannot change it.
    """
    rate = segment.adapter.spec.dropout
    if rate == 0.0 or not torch.is_grad_enabled():
        return ()
    return tuple(_draw_mask(segment, member.number, rate, x_TI) for member in factors.members)


def _draw_mask(segment: Segment, layer: int, rate: float, x_TI: Tensor) -> Tensor:
    kept_NI = torch.empty(segment.stop - segment.start, x_TI.shape[1], device=x_TI.device)
    generator = torch.Generator(device=x_TI.device)
    for start, stop, seed in segment.rows:
        generator.manual_seed((seed * 1_000_003 + layer) % 2**63)
        own = kept_NI[start - segment.start : stop - segment.start]
        own.bernoulli_(1.0 - rate, generator=generator)
    return kept_NI.to(x_TI.dtype).div_(1.0 - rate)


class SegmentedLora(torch.autograd.Function):
    """The products above, with their gradients. Verified against autograd in tests/integration/training."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        anchor: Tensor,  # noqa: ARG004  see Routing
        group: LinearGroup,
        parts: list[Part],
    ) -> Tensor:
        """[T, I] to [T, O]."""
        y_TO = linear(x_TI, group.frozen.dense(), group.bias)
        spans = _spans(group.widths)
        hidden = []
        for part in parts:
            h_NS = _project(x_TI[part.start : part.stop], part)
            y_NO = y_TO[part.start : part.stop]
            for member in part.factors.members:
                # In the product's epilogue: `y + scale * (h @ B^T)` would read and write y twice more (~8 % of a step).
                y_NO[:, spans[member.index]].addmm_(
                    h_NS[:, member.start : member.stop], member.b_OR.t(), alpha=part.scale
                )
            hidden.append(h_NS)
        ctx.save_for_backward(x_TI, *hidden)
        ctx.group, ctx.parts = group, parts
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, None, None, None]:
        """The gradient of x; those of A and B are added to their buffers."""
        group: LinearGroup = ctx.group
        group.routing.breathe()
        x_TI, *hidden = ctx.saved_tensors
        dx_TI = dy_TO @ group.frozen.dense() if ctx.needs_input_grad[0] else None
        spans = _spans(group.widths)
        for part, h_NS in zip(ctx.parts, hidden, strict=True):
            dy_NO = dy_TO[part.start : part.stop]
            dh_NS = torch.empty_like(h_NS)
            for member in part.factors.members:
                dy_No = dy_NO[:, spans[member.index]]
                own = slice(member.start, member.stop)
                torch.mm(dy_No, member.b_OR, out=dh_NS[:, own])
                _accumulate(member.grad_b_OR, dy_No.t(), h_NS[:, own], part.scale)
            dx_NI = None if dx_TI is None else dx_TI[part.start : part.stop]
            _back_project(x_TI[part.start : part.stop], part, dh_NS, dx_NI)
        return dx_TI, None, None, None


def _spans(widths: Sequence[int]) -> list[slice]:
    stops = itertools.accumulate(widths)
    return [slice(stop - width, stop) for width, stop in zip(widths, stops, strict=True)]


def _project(x_NI: Tensor, part: Part) -> Tensor:
    """X A^T of all members [N, S]."""
    a_SI = part.factors.a_SI
    if not part.kept_NI:
        return x_NI @ a_SI.t()
    members = zip(part.factors.members, part.kept_NI, strict=True)
    return torch.cat([(x_NI * kept_NI) @ a_SI[m.start : m.stop].t() for m, kept_NI in members], 1)


def _back_project(x_NI: Tensor, part: Part, dh_NS: Tensor, dx_NI: Tensor | None) -> None:
    """Add to the gradients of A, and to that of x where it is wanted."""
    factors, scale = part.factors, part.scale
    if not part.kept_NI:
        _accumulate(factors.grad_a_SI, dh_NS.t(), x_NI, scale)
        if dx_NI is not None:
            dx_NI.addmm_(dh_NS, factors.a_SI, alpha=scale)
        return
    for member, kept_NI in zip(factors.members, part.kept_NI, strict=True):
        own = slice(member.start, member.stop)
        _accumulate(factors.grad_a_SI[own], dh_NS[:, own].t(), x_NI * kept_NI, scale)
        if dx_NI is not None:
            dx_NI.addcmul_(dh_NS[:, own] @ factors.a_SI[own], kept_NI, value=scale)


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale * left @ right, also where total is more precise than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(left @ right, alpha=scale)
