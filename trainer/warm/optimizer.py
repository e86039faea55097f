"""AdamW on a job's flat buffers: torch's own fused kernel, without its optimizer object around it.

Shapes: P all parameters.
"""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from adapters.spec import OptimizerSpec
from trainer.warm.adapter import Adapter

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
#: Parameters whose squares are summed in one go.
PIECE = 1 << 16


def gradient_norm(adapter: Adapter) -> float:
    """Euclidean, over all of the job's own parameters and nobody else's. NaN or infinity where the job diverged.

    Summed in pieces: one float32 sum over millions of squares is off by 1e-4, a sum of sums by 1e-7.
    """
    gradient_P = adapter.gradient_P
    whole = gradient_P.numel() // PIECE * PIECE
    pieces = torch.linalg.vector_norm(gradient_P[:whole].view(-1, PIECE), dim=1)
    rest = torch.linalg.vector_norm(gradient_P[whole:])
    return float(torch.linalg.vector_norm(torch.cat([pieces, rest[None]])))


def clip(adapter: Adapter, norm: float, longest: float) -> None:
    """Shorten the gradient to `longest`; the same epsilon as torch.nn.utils.clip_grad_norm_. 0 means no clipping."""
    factor = longest / (norm + 1e-6)
    if longest > 0 and factor < 1:
        adapter.gradient_P.mul_(factor)


def update(adapter: Adapter, count: int, rate: float, optimizer: OptimizerSpec) -> None:
    """One step. `count` is the number of updates including this one, for Adam's bias correction.

    With LoRA+ (arXiv:2402.12354) all B learn `lora_plus_ratio` times as fast as all A.
    """
    ratio = optimizer.lora_plus_ratio
    if ratio == 1.0:
        buffers = [(*_buffers(adapter), rate)]
    else:
        halves = zip(*(adapter.halves(buffer) for buffer in _buffers(adapter)), strict=True)
        buffers = [
            (*half, half_rate) for half, half_rate in zip(halves, (rate, rate * ratio), strict=True)
        ]
    for weights, gradient, first_moment, second_moment, own_rate in buffers:
        adamw(
            [weights],
            [gradient],
            [first_moment],
            [second_moment],
            [],
            # One less: it counts by itself.
            [torch.tensor(float(count - 1), device=weights.device)],
            # One pass over the buffers instead of ten; 3.5 times as fast on 5M parameters (bench/LOG.md).
            fused=True,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=own_rate,
            weight_decay=optimizer.weight_decay,
            eps=EPSILON,
            maximize=False,
        )
    adapter.weights_changed()


def _buffers(adapter: Adapter) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        adapter.weights_P,
        adapter.gradient_P,
        adapter.first_moment_P,
        adapter.second_moment_P,
    )
