"""Products with frozen weights, in the fastest way that is known for a CPU.

A kernel of ours (native/dense.c), where it was measured to pay. Else they are made as the library that torch multiplies
with, MKL, is fastest at them:

* **Wide**: it takes 1.1 to 1.45 times as long for thousands of outputs in one call as for the same columns in several,
  and both come to the same bits.
* **Few**: where each thread has outputs of its own, few tokens take less time: 1.02 to 1.22 times as fast for 34 on two
  threads, 0.97 to 1.1 for 128. By itself it seems to deal out tokens, and each thread to lay out all weights for its.

Measured on a processor of AMD's (bench/LOG.md), as the kernel was: it took 0.6 to 1.0 of that.

Shapes: T tokens, I inputs, O outputs, C columns of one call, N what is summed over, M columns of a product, P parts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear as one_call

from trainer.warm.native.library import DTYPES, Dense

#: Of one call, for each thread that works at it. Between 100 and 1000 made no difference.
COLUMNS_OF_A_THREAD = 256
#: Up to so many tokens are few. With 400 it made no difference, with 1000 it was slower.
FEW = 128


@dataclass(frozen=True, slots=True)
class Matmul:
    """Products with frozen weights. They have no gradients."""

    #: Where it pays.
    kernel: Dense | None = None

    def linear(self, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """`torch.nn.functional.linear`, [T, I] to [T, O]."""
        if self.kernel is not None and _computable(x_TI, weight_OI):
            y_TO = self.kernel.linear(x_TI, weight_OI)
        elif not _measured(x_TI) or not _in_parts(x_TI, weight_OI):
            return one_call(x_TI, weight_OI, bias_O)
        else:
            y_TO = _linear_in_parts(x_TI, weight_OI)
        return y_TO if bias_O is None else y_TO.add_(bias_O)

    def linear_backward(self, dy_TO: Tensor, weight_OI: Tensor) -> Tensor:
        """The gradient of x, [T, O] to [T, I]."""
        if self.kernel is not None and _computable(dy_TO, weight_OI):
            return self.kernel.linear_backward(dy_TO, weight_OI)
        if not _few(dy_TO) or not _measured(dy_TO):
            return dy_TO @ weight_OI
        dx_TI = dy_TO.new_empty(len(dy_TO), weight_OI.shape[1])
        _multiply(dy_TO, weight_OI, out=dx_TI)
        return dx_TI


def _linear_in_parts(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    columns = _columns()
    y_TO = x_TI.new_empty(len(x_TI), len(weight_OI))
    for start in range(0, len(weight_OI), columns):
        own = slice(start, start + columns)
        _multiply(x_TI, weight_OI[own].t(), out=y_TO[:, own])
    return y_TO


def _multiply(left_TN: Tensor, right_NM: Tensor, *, out: Tensor) -> None:
    """Into [T, M], which may be columns of something larger."""
    parts = torch.get_num_threads()
    if not _few(left_TN) or right_NM.shape[1] % parts:
        torch.mm(left_TN, right_NM, out=out)
        return
    right_PNC = right_NM.unflatten(1, (parts, -1)).transpose(0, 1)
    made_PTC = torch.bmm(left_TN.expand(parts, *left_TN.shape), right_PNC)
    # Written apart: into columns of something larger, a CPU computes one part's product after the other.
    out.unflatten(1, (parts, -1)).copy_(made_PTC.transpose(0, 1))


def _columns() -> int:
    """Of one call."""
    return COLUMNS_OF_A_THREAD * torch.get_num_threads()


def _in_parts(x_TI: Tensor, weight_OI: Tensor) -> bool:
    return _few(x_TI) or len(weight_OI) >= 2 * _columns()


def _few(left_TN: Tensor) -> bool:
    return len(left_TN) <= FEW and torch.get_num_threads() > 1


def _measured(x: Tensor) -> bool:
    """Whether MKL computes it: numbers of half the size go to another library."""
    return x.device.type == "cpu" and x.dtype in DTYPES


def _computable(rows: Tensor, weight_OI: Tensor) -> bool:
    """Whether the kernel can: it believes what it is told."""
    both = rows, weight_OI
    return (
        _measured(rows)
        and rows.dtype == weight_OI.dtype
        and all(one.stride(1) == 1 for one in both)
    )
