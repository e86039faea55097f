"""AdamW on a job's flat buffers: torch's own fused kernel, without its optimizer object around it.

Shapes: P all parameters.
"""

import torch
from torch.optim.adamw import adamw

from trainer.warm.adapter import Adapter

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
#: Parameters whose squares are summed in one go.
PIECE = 1 << 16


def gradient_norm(adapter: Adapter) -> float:
    """Euclidean, over all of the job's own parameters and nobody else's. NaN or infinity where the job diverged.

    Summed in pieces: one float32 sum over millions of squares is off by 1e-4, a sum of sums by 1e-7.
    """
    pieces = [torch.linalg.vector_norm(piece) for piece in adapter.gradient_P.split(PIECE)]
    return float(torch.linalg.vector_norm(torch.stack(pieces)))


def clip(adapter: Adapter, norm: float, longest: float) -> None:
    """Shorten the gradient to `longest`; the same epsilon as torch.nn.utils.clip_grad_norm_. 0 means no clipping."""
    factor = longest / (norm + 1e-6)
    if longest > 0 and factor < 1:
        adapter.gradient_P.mul_(factor)


def update(adapter: Adapter, count: int, rate: float, weight_decay: float) -> None:
    """One step. `count` is the number of updates including this one, for Adam's bias correction."""
    adamw(
        [adapter.weights_P],
        [adapter.gradient_P],
        [adapter.first_moment_P],
        [adapter.second_moment_P],
        [],
        # One less: it counts by itself.
        [torch.tensor(float(count - 1), device=adapter.weights_P.device)],
        # One pass over the buffers instead of ten; 3.5 times as fast on 5M parameters (bench/LOG.md).
        fused=True,
        amsgrad=False,
        beta1=BETA1,
        beta2=BETA2,
        lr=rate,
        weight_decay=weight_decay,
        eps=EPSILON,
        maximize=False,
    )
    adapter.weights_changed()
