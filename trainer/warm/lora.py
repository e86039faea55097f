"""Linear layers with many adapters: the base product for all rows at once, then each job's low-rank products.

    y = x W^T;   y[s, o] += scale (x[s] A_o^T) B_o^T        for each segment s of tokens and each layer o

Segments are contiguous, one a job, so ranks and targets may differ freely; products.py computes what they add. Layers
that read the same input (q, k and v; gate and up) are siblings: their weights are stacked and one product serves them
all. Gradients go straight into each job's flat buffer: autograd never sees an adapter weight, and the frozen weights
get no gradient at all.

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

from trainer.warm.adapter import Adapter, LinearShape, Siblings
from trainer.warm.at_once import Tables
from trainer.warm.cohort import Cohorts
from trainer.warm.frozen import Keeper, stack
from trainer.warm.matmul import Matmul
from trainer.warm.plan import Plan, Segment
from trainer.warm.products import Block


def _go_on() -> None:
    """Nothing interrupts."""


@dataclass(slots=True)
class Routing:
    """Which tokens belong to whom in the pass that is running. One for each base model, shared by its layers."""

    segments: tuple[Segment, ...] = ()
    #: Of the whole pass: a layer that is called with only some of them cannot tell whose they are.
    tokens: int | None = None
    plan: Plan = field(default_factory=Plan)
    #: How products with the base model's own weights are made.
    matmul: Matmul = field(default_factory=Matmul)
    cohorts: Cohorts = field(default_factory=Cohorts)
    #: Where there is a kernel, what it reads; see plan.py.
    tables: Tables | None = None
    #: Of the others, jobs with up to so many tokens in a pass have their products batched.
    batched_tokens: int = 0
    #: By group: an input, and what those siblings make of it that have not been called yet.
    waiting: dict[Siblings, tuple[Tensor, dict[int, Tensor]]] = field(default_factory=dict)
    #: Called before each product, forward and backward. May raise, which abandons the pass: a cancelled job
    #: does not have to wait for the end of a micro-batch, which on a CPU takes seconds.
    breathe: Callable[[], None] = _go_on
    #: Makes autograd call our backward where the input itself needs no gradient, as in the first layer.
    anchor: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))

    def seat(self, adapter: Adapter) -> None:
        """Have it lie beside others, where products are batched. Raises what running out of memory raises."""
        if self.tables is None or not adapter.tabled:
            self.cohorts.join(adapter)

    @contextmanager
    def to(self, segments: tuple[Segment, ...], tokens: int) -> Iterator[None]:
        """Inside, tokens belong to these."""
        before = self.segments, self.tokens, self.plan
        if segments is not self.segments or tokens != self.tokens:
            self.plan = Plan.of(segments, self.cohorts, self.batched_tokens, tokens, self.tables)
        self.segments, self.tokens = segments, tokens
        try:
            yield
        finally:
            self.segments, self.tokens, self.plan = before
            # After a pass that was abandoned between two siblings: it would keep all that was computed before.
            self.waiting.clear()


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

    @property
    def shapes(self) -> dict[str, LinearShape]:
        """Outputs and inputs of each layer."""
        return {
            name: (outputs, self.inputs)
            for name, outputs in zip(self.names, self.widths, strict=True)
        }

    def output(self, index: int, x: Tensor) -> Tensor:
        """What the sibling of that index makes of x: [..., I] to [..., its outputs]."""
        if len(self.widths) == 1:
            return self.forward(x)
        seen, outputs = self.routing.waiting.pop(self.names, (None, {}))
        if seen is not x or index not in outputs:
            outputs = dict(enumerate(self.forward(x).split(self.widths, dim=-1)))
        mine = outputs.pop(index)
        if outputs:
            self.routing.waiting[self.names] = x, outputs
        return mine

    def apart(self, y_TO: Tensor) -> Sequence[Tensor]:
        """What is each sibling's."""
        return (y_TO,) if len(self.widths) == 1 else y_TO.split(self.widths, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O].

        Raises:
            ValueError: the model routes only some of the tokens through this layer, as mixtures of experts do.
        """
        self.routing.breathe()
        x_TI = x.reshape(-1, x.shape[-1])
        if self.routing.tokens not in {None, x_TI.shape[0]}:
            raise ValueError(f"{self.names[0]} is called with some of the tokens only.")
        plan = self.routing.plan
        blocks = plan.blocks(self.names, x_TI)
        if not any(blocks) and not torch.is_grad_enabled():
            y_TO = self.routing.matmul.linear(x_TI, self.frozen.dense(), self.bias)
            return y_TO.view(*x.shape[:-1], -1)
        y_TO = SegmentedLora.apply(x_TI, self.routing.anchor, self, plan, blocks)
        return y_TO.view(*x.shape[:-1], -1)


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


def whole_group(*layers: object) -> LinearGroup | None:
    """The group that these layers are, in their order and without anybody else; None where they are not one."""
    mine = [layer for layer in layers if isinstance(layer, LoraLinear)]
    if len(mine) < len(layers):
        return None
    group: LinearGroup = mine[0].__dict__["group"]
    together = all(layer.__dict__["group"] is group for layer in mine)
    in_order = [layer.index for layer in mine] == list(range(len(group.widths)))
    return group if together and in_order else None


class SegmentedLora(torch.autograd.Function):
    """The products above, with their gradients. Verified against autograd in tests/integration/training."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TI: Tensor,
        anchor: Tensor,  # noqa: ARG004  see Routing
        group: LinearGroup,
        plan: Plan,
        blocks: Sequence[Block | None],
    ) -> Tensor:
        """[T, I] to [T, O]."""
        y_TO = group.routing.matmul.linear(x_TI, group.frozen.dense(), group.bias)
        hidden = []
        siblings = [plan.cut(y_To) for y_To in group.apart(y_TO)]
        for block, x_NI, *ys_No in zip(blocks, plan.cut(x_TI), *siblings, strict=True):
            if block is not None:
                hidden.append(block.forward(x_NI, ys_No))
        ctx.save_for_backward(x_TI, *hidden)
        ctx.group, ctx.plan, ctx.blocks = group, plan, blocks
        return y_TO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TO: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        """The gradient of x; those of A and B are added to their buffers."""
        group: LinearGroup = ctx.group
        plan: Plan = ctx.plan
        routing = group.routing
        routing.breathe()
        x_TI, *saved = ctx.saved_tensors
        hidden = iter(saved)
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = routing.matmul.linear_backward(dy_TO, group.frozen.dense())
        dxs = itertools.repeat(None, len(ctx.blocks)) if dx_TI is None else plan.cut(dx_TI)
        siblings = [plan.cut(dy_To) for dy_To in group.apart(dy_TO)]
        own = zip(ctx.blocks, plan.cut(x_TI), dxs, *siblings, strict=True)
        for block, x_NI, dx_NI, *dys_No in own:
            if block is not None:
                block.backward(next(hidden), dys_No, x_NI, dx_NI)
        return dx_TI, None, None, None, None
