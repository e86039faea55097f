"""AdamW on a job's flat buffers. The same arithmetic as torch.optim.AdamW, which a test compares it with.

Shapes: P all parameters.
"""

import math

import torch

from trainer.warm.adapter import Adapter

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def gradient_norm(adapter: Adapter) -> float:
    """Euclidean, over all of the job's own parameters and nobody else's. NaN or infinity where the job diverged."""
    return float(torch.linalg.vector_norm(adapter.gradient_P))


def clip(adapter: Adapter, norm: float, longest: float) -> None:
    """Shorten the gradient to `longest`; the same epsilon as torch.nn.utils.clip_grad_norm_. 0 means no clipping."""
    factor = longest / (norm + 1e-6)
    if longest > 0 and factor < 1:
        adapter.gradient_P.mul_(factor)


def update(adapter: Adapter, count: int, rate: float, weight_decay: float) -> None:
    """One step. `count` is the number of updates including this one, for Adam's bias correction."""
    weights_P, gradient_P = adapter.weights_P, adapter.gradient_P
    first_P, second_P = adapter.first_moment_P, adapter.second_moment_P
    weights_P.mul_(1 - rate * weight_decay)
    first_P.lerp_(gradient_P, 1 - BETA1)
    second_P.mul_(BETA2).addcmul_(gradient_P, gradient_P, value=1 - BETA2)
    correction1, correction2 = 1 - BETA1**count, 1 - BETA2**count
    denominator_P = second_P.sqrt().div_(math.sqrt(correction2)).add_(EPSILON)
    weights_P.addcdiv_(first_P, denominator_P, value=-rate / correction1)
    adapter.weights_changed()
