"""Norms and gated feed-forward parts of Llama-shaped layers, with fewer passes over memory and gradients of their own.

What transformers writes as several operations, each of which reads and writes all hidden states, costs on a CPU some
percent of a step (bench/LOG.md). A part is taken over only where it is of a known shape and proves to compute the same;
whatever is not recognised stays as it is. GPUs keep transformers' own: nothing was measured there.

Shapes: T tokens, D hidden size, F intermediate size.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from trainer.warm.lora import LinearGroup, LoraLinear, whole_group

log = logging.getLogger(__name__)

#: A part is taken over if it agrees within so much, relative to the largest value: a few roundings of float32.
AGREEMENT = 1e-5
PROOF_TOKENS = 5
#: So many times as much is given, too: what is clamped somewhere shows then.
LOUD = 1000.0
#: As transformers names the modules of a gated feed-forward part.
GATE, UP, DOWN, ACTIVATION = "gate_proj", "up_proj", "down_proj", "act_fn"


def take_shortcuts(decoder: nn.Module) -> int:
    """Take over what can be, in place, keeping every name. Returns how many parts that were.

    Call once linear layers are replaced (adopt.py), before anything else stands before a part's `forward`.
    """
    if not pays(decoder):
        return 0
    taken = 0
    for module in decoder.modules():
        shortcut = _norm(module) or _feed_forward(module)
        if shortcut is not None and _agrees(module, *shortcut):
            # Not a module around it, which would change the names of what is inside.
            module.forward = shortcut[0]
            taken += 1
    log.info("%d norms and feed-forward parts take the short way", taken)
    return taken


def pays(decoder: nn.Module) -> bool:
    """Whether it is as what was measured. Elsewhere, transformers computes norms in a dtype of its own."""
    return all(
        one.device.type == "cpu" and one.dtype == torch.float32 for one in decoder.parameters()
    )


class RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        """[..., D] to [..., D]."""
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean.add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight_D)
        return (x * scale).mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        """With g = dy * weight: scale * g - x * scale^3 * mean(g * x). The weight is frozen."""
        x, scale, weight_D = ctx.saved_tensors
        dx = dy * weight_D
        along = torch.linalg.vecdot(dx, x).unsqueeze(-1).mul_(scale.pow(3)).div_(x.shape[-1])
        return dx.mul_(scale).addcmul_(x, along, value=-1), None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) * up (Shazeer, arXiv:2002.05202), of both in one tensor, as their layers' one product makes them."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        """[..., 2F] to [..., F]. Remembers only what it was given."""
        ctx.save_for_backward(both)
        gate, up = both.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """Written where the layers' products read it, so that the halves need not be put together."""
        (both,) = ctx.saved_tensors
        gate, up = both.chunk(2, dim=-1)
        dboth = torch.empty_like(both)
        dgate, dup = dboth.chunk(2, dim=-1)
        torch.mul(silu(gate), dy, out=dup)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=dgate)
        return dboth


#: What to call instead of a module's forward, and the width of its input.
_Shortcut = tuple[Callable[[Tensor], Tensor], int]


def _norm(module: nn.Module) -> _Shortcut | None:
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(eps, float):
        return None
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1:
        return None
    return partial(_normalise, module, eps), len(weight)


def _normalise(module: Any, eps: float, x: Tensor) -> Tensor:
    # The weight is looked up each time: spread over ranks, it is another tensor inside a pass.
    y: Tensor = RmsNorm.apply(x, module.weight, eps)
    return y


def _feed_forward(module: nn.Module) -> _Shortcut | None:
    gate, up, down = (getattr(module, name, None) for name in (GATE, UP, DOWN))
    group = whole_group(gate, up)
    # Two of one width, and nothing else that reads the same input.
    if group is None or group.widths[1:] != group.widths[:1] or not isinstance(down, LoraLinear):
        return None
    if "silu" not in type(getattr(module, ACTIVATION, None)).__name__.lower():
        return None
    return partial(_feed, group, down), group.inputs


def _feed(group: LinearGroup, down: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = down(SwiGlu.apply(group(x)))
    return y


def _agrees(module: nn.Module, shortcut: Callable[[Tensor], Tensor], width: int) -> bool:
    """Whether both make the same of something random, quiet and loud."""
    chance = torch.Generator().manual_seed(0)
    x_1TD = torch.randn(1, PROOF_TOKENS, width, generator=chance)
    with torch.no_grad():
        return all(agree(module(x), shortcut(x)) for x in (x_1TD, LOUD * x_1TD))


def agree(one: Tensor, other: Tensor) -> bool:
    """Whether they differ by a few roundings at most."""
    if one.shape != other.shape:
        return False
    bound = AGREEMENT * float(one.abs().max())
    return bool(torch.all((one - other).abs() <= bound))
