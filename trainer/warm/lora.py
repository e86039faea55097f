"""One linear layer, many adapters: the base product for all rows at once, then each job's low-rank product on its own.

    y = x W^T;   y[s] += scale (x[s] A^T) B^T        for each segment s

Segments are contiguous, one a job, so ranks and targets may differ freely. Gradients go straight into each job's flat
buffer: autograd never sees an adapter weight, and the frozen weights get no gradient at all.

Shapes: T tokens, N tokens of one segment, I inputs, O outputs, R rank.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from trainer.warm.adapter import Adapter, Factors


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
    """Which tokens belong to whom in the pass that is about to run. One for each base model, shared by its layers."""

    segments: tuple[Segment, ...] = ()
    #: Called before each product, forward and backward. May raise, which abandons the pass: a cancelled job
    #: does not have to wait for the end of a micro-batch, which on a CPU takes seconds.
    breathe: Callable[[], None] = _go_on
    #: Makes autograd call our backward where the input itself needs no gradient, as in the first layer.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))


@dataclass(frozen=True, slots=True)
class Part:
    """A segment as one layer sees it."""

    start: int
    stop: int
    scale: float
    factors: Factors
    #: 0 where dropped, else 1 / (1 - p); None without dropout.
    kept_NI: Tensor | None


class LoraLinear(nn.Module):
    """Stands in for a frozen `nn.Linear` of the base model."""

    def __init__(self, name: str, base: nn.Linear, routing: Routing) -> None:
        super().__init__()
        self.name = name
        self.weight = base.weight.requires_grad_(requires_grad=False)
        self.bias = None if base.bias is None else base.bias.requires_grad_(requires_grad=False)
        self.routing = routing

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs and inputs."""
        outputs, inputs = self.weight.shape
        return outputs, inputs

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        self.routing.breathe()
        x_TI = x.reshape(-1, x.shape[-1])
        parts = self._parts(x_TI)
        if not parts and not torch.is_grad_enabled():
            return linear(x, self.weight, self.bias)
        y_TO = SegmentedLora.apply(
            x_TI, self.routing.anchor, self.weight, self.bias, parts, self.routing.breathe
        )
        return y_TO.view(*x.shape[:-1], -1)

    def _parts(self, x_TI: Tensor) -> list[Part]:
        return [
            Part(
                segment.start,
                segment.stop,
                segment.adapter.scale,
                factors,
                _draw_dropout(segment, factors.number, x_TI),
            )
            for segment in self.routing.segments
            if (factors := segment.adapter.factors.get(self.name)) is not None
        ]


def _draw_dropout(segment: Segment, layer: int, x_TI: Tensor) -> Tensor | None:
    """A pure function of job, step, row and layer, so that neighbours, redone steps and resuming cannot change it."""
    rate = segment.adapter.spec.dropout
    if rate == 0.0 or not torch.is_grad_enabled():
        return None
    kept_NI = torch.empty(segment.stop - segment.start, x_TI.shape[1], device=x_TI.device)
    generator = torch.Generator(device=x_TI.device)
    for start, stop, seed in segment.rows:
        generator.manual_seed((seed * 1_000_003 + layer) % 2**63)
        own = kept_NI[start - segment.start : stop - segment.start]
        own.bernoulli_(1.0 - rate, generator=generator)
    return kept_NI.to(x_TI.dtype).div_(1.0 - rate)


class SegmentedLora(torch.autograd.Function):
    """The product above, with its gradients. Verified against autograd in tests/integration/training."""

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917  autograd takes tensors one by one
        ctx: Any,
        x_TI: Tensor,
        anchor: Tensor,  # noqa: ARG004  see Routing
        weight_OI: Tensor,
        bias_O: Tensor | None,
        parts: list[Part],
        breathe: Callable[[], None],
    ) -> Tensor:
        """[T, I] to [T, O]."""
        y_TO = linear(x_TI, weight_OI, bias_O)
        hidden = []
        for part in parts:
            x_NI = _own_inputs(x_TI, part)
            h_NR = x_NI @ part.factors.a_RI.t()
            # In the product's epilogue: `y + scale * (h @ B^T)` would read and write y twice more (~8 % of a step).
            y_TO[part.start : part.stop].addmm_(h_NR, part.factors.b_OR.t(), alpha=part.scale)
            hidden.append(h_NR)
        ctx.save_for_backward(x_TI, weight_OI, *hidden)
        ctx.parts, ctx.breathe = parts, breathe
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        """The gradient of x; those of A and B are added to their buffers."""
        ctx.breathe()
        x_TI, weight_OI, *hidden = ctx.saved_tensors
        dx_TI = dy_TO @ weight_OI if ctx.needs_input_grad[0] else None
        for part, h_NR in zip(ctx.parts, hidden, strict=True):
            factors, dy_NO = part.factors, dy_TO[part.start : part.stop]
            dh_NR = dy_NO @ factors.b_OR
            _accumulate(factors.grad_b_OR, dy_NO.t(), h_NR, part.scale)
            _accumulate(factors.grad_a_RI, dh_NR.t(), _own_inputs(x_TI, part), part.scale)
            if dx_TI is None:
                continue
            dx_NI = dx_TI[part.start : part.stop]
            if part.kept_NI is None:
                dx_NI.addmm_(dh_NR, factors.a_RI, alpha=part.scale)
            else:
                dx_NI.addcmul_(dh_NR @ factors.a_RI, part.kept_NI, value=part.scale)
        return dx_TI, None, None, None, None, None


def _own_inputs(x_TI: Tensor, part: Part) -> Tensor:
    x_NI = x_TI[part.start : part.stop]
    return x_NI if part.kept_NI is None else x_NI * part.kept_NI


def _accumulate(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale * left @ right, also where total is more precise than the factors."""
    if total.dtype == left.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(left @ right, alpha=scale)
