"""Cross entropy of the target positions only, without ever holding all logits.

At 49k vocabulary entries, float32 logits of 1024 tokens would take 200 MB and the head 21 % of a small model's work.
So hidden states are gathered at target positions before the head, taken in chunks, and the gradient is computed in the
forward pass while a chunk's logits are there (the idea of Liger's fused linear cross entropy). So is what the model
would have said itself.

Shapes: N target positions, C of them in a chunk, D hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import log_softmax

from trainer.warm.matmul import Matmul

#: Logits held at once: 32 MB in float32.
CHUNK_LOGITS = 2**23


@dataclass(frozen=True, slots=True)
class Head:
    """From hidden states to logits: logits = softcap(scale * h W^T)."""

    weight_VD: Tensor
    scale: float = 1.0
    #: c in c * tanh(logits / c), as in Gemma 2.
    softcap: float | None = None
    matmul: Matmul = field(default_factory=Matmul)

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """[C, V], in float32 at least."""
        raw_CV = self.matmul.linear(hidden_CD, self.weight_VD)
        raw_CV = raw_CV.to(torch.promote_types(raw_CV.dtype, torch.float32))
        if self.scale != 1.0:
            raw_CV *= self.scale
        if self.softcap is None:
            return raw_CV
        return raw_CV.div_(self.softcap).tanh_().mul_(self.softcap)

    def backward(self, dlogits_CV: Tensor, slope_CV: Tensor | None) -> Tensor:
        """The gradient of the hidden states [C, D]; `slope_CV` is softcap's derivative, where there is one."""
        if slope_CV is not None:
            dlogits_CV = dlogits_CV * slope_CV
        dlogits_CV = dlogits_CV.to(self.weight_VD.dtype)
        dhidden_CD = self.matmul.linear_backward(dlogits_CV, self.weight_VD)
        return dhidden_CD if self.scale == 1.0 else dhidden_CD * self.scale


@dataclass(frozen=True, slots=True)
class LateWeights:
    """Targets `start:stop`, whose weights follow from their losses (a preference; see objective.py)."""

    start: int
    stop: int
    weigh: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The target tokens of some hidden states, and the derivative of the objective by each one's loss."""

    targets_N: Tensor
    weights_N: Tensor
    #: Parts whose weights are not known beforehand. Costs the logits of these targets a second time.
    late: Sequence[LateWeights] = ()


def cross_entropy(hidden_ND: Tensor, head: Head, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """Something to differentiate, and each target's loss (natural log), and 1 where it is the likeliest token [2, N].

    The first has the objective's gradient in `hidden_ND`. Its value is the weighted sum of losses, which is the
    objective itself only where no weights are late.
    """
    total, told_2N = ChunkedCrossEntropy.apply(hidden_ND, head, wanted)
    return total, told_2N


class ChunkedCrossEntropy(torch.autograd.Function):
    """Forward computes loss and gradient; backward only scales."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, head: Head, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """See `cross_entropy`."""
        wants_gradient = ctx.needs_input_grad[0]
        weights_N = _all_weights(hidden_ND, head, wanted) if wants_gradient else wanted.weights_N
        dhidden_ND = torch.empty_like(hidden_ND) if wants_gradient else None
        told_2N = weights_N.new_empty(2, len(weights_N))
        losses_N, hits_N = told_2N
        for chunk in _chunks(0, len(losses_N), head):
            targets_C = wanted.targets_N[chunk]
            logits_CV = head.logits(hidden_ND[chunk])
            # A seventh of the time of argmax on a CPU.
            likeliest_C = logits_CV.amax(-1)
            hits_N[chunk] = logits_CV.gather(-1, targets_C[:, None]).squeeze(-1) == likeliest_C
            logprobs_CV = log_softmax(logits_CV, -1)
            losses_N[chunk] = _losses(logprobs_CV, targets_C)
            if dhidden_ND is not None:
                gradient_CD = _gradient(head, logits_CV, logprobs_CV, targets_C)
                dhidden_ND[chunk] = gradient_CD * weights_N[chunk, None].to(gradient_CD.dtype)
        ctx.save_for_backward(dhidden_ND)
        ctx.mark_non_differentiable(told_2N)
        return (losses_N * weights_N).sum(), told_2N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """Scale what forward computed."""
        (dhidden_ND,) = ctx.saved_tensors
        return dhidden_ND * dtotal.to(dhidden_ND.dtype), None, None


def _all_weights(hidden_ND: Tensor, head: Head, wanted: Wanted) -> Tensor:
    """Those known beforehand, and the late ones from a first look at their losses."""
    if not wanted.late:
        return wanted.weights_N
    weights_N = wanted.weights_N.clone()
    for part in wanted.late:
        losses = []
        for chunk in _chunks(part.start, part.stop, head):
            logprobs_CV = log_softmax(head.logits(hidden_ND[chunk]), -1)
            losses.append(_losses(logprobs_CV, wanted.targets_N[chunk]))
        weights_N[part.start : part.stop] = part.weigh(torch.cat(losses))
    return weights_N


def _chunks(start: int, stop: int, head: Head) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // head.weight_VD.shape[0])
    for at in range(start, stop, size):
        yield slice(at, min(at + size, stop))


def _losses(logprobs_CV: Tensor, targets_C: Tensor) -> Tensor:
    return -logprobs_CV.gather(-1, targets_C[:, None]).squeeze(-1)


def _gradient(head: Head, logits_CV: Tensor, logprobs_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Softmax - one-hot, through the head [C, D]. Overwrites `logprobs_CV`.

    The targets' weights come afterwards: on C x D numbers instead of C x V.
    """
    slope_CV = None if head.softcap is None else 1 - (logits_CV / head.softcap).square()
    dlogits_CV = logprobs_CV.exp_()
    dlogits_CV[torch.arange(len(targets_C), device=targets_C.device), targets_C] -= 1
    return head.backward(dlogits_CV, slope_CV)
