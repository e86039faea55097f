"""Products with thousands of outputs, on a CPU: some columns after the others.

The library that torch multiplies with there, MKL, takes 1.1 to 1.45 times as long for all columns in one call as for
the same columns in several, and both come to the same bits (bench/LOG.md; seen on a processor of AMD's).

Shapes: T tokens, I inputs, O outputs, C columns of one call.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

#: Of one call, for each thread that works at it. Between 100 and 1000 made no difference.
COLUMNS_OF_A_THREAD = 256


def wide_linear(x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, [T, I] to [T, O]. Has no gradient."""
    columns = COLUMNS_OF_A_THREAD * torch.get_num_threads()
    if len(weight_OI) < 2 * columns or not _measured(x_TI):
        return linear(x_TI, weight_OI, bias_O)
    y_TO = x_TI.new_empty(len(x_TI), len(weight_OI))
    for start in range(0, len(weight_OI), columns):
        own = slice(start, start + columns)
        if bias_O is None:
            torch.mm(x_TI, weight_OI[own].t(), out=y_TO[:, own])
        else:
            torch.addmm(bias_O[own], x_TI, weight_OI[own].t(), out=y_TO[:, own])
    return y_TO


def _measured(x_TI: Tensor) -> bool:
    """Whether MKL computes it: numbers of half the size go to another library."""
    return x_TI.device.type == "cpu" and x_TI.dtype in {torch.float32, torch.float64}
