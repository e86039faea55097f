"""What the kernels read, as their structs lay it out: numbers and addresses of eight bytes.

Whoever passes an address on keeps the tensor that it is of.

Shapes: T tokens, I inputs, O outputs, o of one sibling, S stacked ranks, R rank.
"""

import struct
from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from torch import Tensor

#: B [o, R] and its gradient; None where the job does not adapt that sibling.
PairOfB: TypeAlias = tuple[Tensor, Tensor] | None

#: `struct job`: its first token, how many it has, by what its products are scaled, and which factors are its.
pack_job = partial(struct.pack, "=qqdq")


def pack_factors(rank: int, a_SI: Tensor, grad_a_SI: Tensor, pairs: Sequence[PairOfB]) -> bytes:
    """`struct factors`, with a pair for each sibling."""
    numbers = [rank, a_SI.data_ptr(), grad_a_SI.data_ptr()]
    for pair in pairs:
        numbers += (0, 0) if pair is None else (pair[0].data_ptr(), pair[1].data_ptr())
    return _pack(numbers)


def no_factors(siblings: int) -> bytes:
    """`struct factors` of a job that adapts none of so many siblings."""
    return _pack([0] * (3 + 2 * siblings))


def pack_head(
    jobs: int,
    inputs: tuple[Tensor, Tensor | None],
    hidden: tuple[Tensor, Tensor | None],
    outputs: Sequence[Tensor],
) -> bytes:
    """`struct head`: x and dx, h and dh, and each sibling's y, or dy. Rows have no gaps within."""
    (x_TI, dx_TI), (h, dh) = inputs, hidden
    numbers = [jobs, len(outputs), x_TI.shape[1], x_TI.data_ptr(), x_TI.stride(0)]
    numbers += (0, 0) if dx_TI is None else (dx_TI.data_ptr(), dx_TI.stride(0))
    numbers += h.data_ptr(), 0 if dh is None else dh.data_ptr()
    for y_To in outputs:
        numbers += y_To.data_ptr(), y_To.stride(0), y_To.shape[1]
    return _pack(numbers)


def pack_dense(rows: Tensor, weight_OI: Tensor, result: Tensor) -> bytes:
    """`struct dense`: x or dy, W, and y or dx. Rows have no gaps within."""
    outputs, inputs = weight_OI.shape
    numbers = [rows.data_ptr(), rows.stride(0), weight_OI.data_ptr(), weight_OI.stride(0)]
    return _pack([*numbers, result.data_ptr(), result.stride(0), len(rows), inputs, outputs])


def _pack(numbers: Sequence[int]) -> bytes:
    return struct.pack(f"={len(numbers)}q", *numbers)
