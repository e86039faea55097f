"""Products with frozen weights, as the library that torch multiplies with on a CPU, MKL, is fastest at them.

* **Wide**: it takes 1.1 to 1.45 times as long for thousands of outputs in one call as for the same columns in several,
  and both come to the same bits.
* **Few**: where each thread has outputs of its own, few tokens take less time: 1.02 to 1.22 times as fast for 34 on two
  threads, 0.97 to 1.1 for 128. By itself it seems to deal out tokens, and each thread to lay out all weights for its.

Measured on a processor of AMD's (bench/LOG.md).

Shapes: T tokens, I inputs, O outputs, C columns of one call, N what is summed over, M columns of a product, P parts.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear as one_call

#: Of one call, for each thread that works at it. Between 100 and 1000 made no difference.
COLUMNS_OF_A_THREAD = 256
#: Up to so many tokens are few. With 400 it made no difference, with 1000 it was slower.
FEW = 128


def linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, [T, I] to [T, O]. Has no gradient."""
    columns = COLUMNS_OF_A_THREAD * torch.get_num_threads()
    few = _few(x_TI)
    if not _measured(x_TI) or (len(weight_OI) < 2 * columns and not few):
        return one_call(x_TI, weight_OI, bias_O)
    y_TO = x_TI.new_empty(len(x_TI), len(weight_OI))
    for start in range(0, len(weight_OI), columns):
        own = slice(start, start + columns)
        _multiply(x_TI, weight_OI[own].t(), out=y_TO[:, own])
    return y_TO if bias_O is None else y_TO.add_(bias_O)


def linear_backward(dy_TO: Tensor, weight_OI: Tensor) -> Tensor:
    """The gradient of x, [T, O] to [T, I]."""
    if not _few(dy_TO) or not _measured(dy_TO):
        return dy_TO @ weight_OI
    dx_TI = dy_TO.new_empty(len(dy_TO), weight_OI.shape[1])
    _multiply(dy_TO, weight_OI, out=dx_TI)
    return dx_TI


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


def _few(left_TN: Tensor) -> bool:
    return len(left_TN) <= FEW and torch.get_num_threads() > 1


def _measured(x: Tensor) -> bool:
    """Whether MKL computes it: numbers of half the size go to another library."""
    return x.device.type == "cpu" and x.dtype in {torch.float32, torch.float64}
