"""What adapters add to a layer: one matrix product for each adapter of a batch, over all of its tokens.

Shapes: T tokens of the batch, I inputs of a layer, O outputs of all its slices (q, k and v are one layer to vLLM, gate
and up are), o outputs of one slice, S slots for adapters, R the rank to which slots are padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, tensor


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a batch with the same adapter. A slice where they are adjacent, so that nothing is gathered."""

    slot: int
    rows: slice | Tensor


def groups_of(slots_T: Sequence[int]) -> list[Group]:
    """Once for each batch, for all layers. Tokens without an adapter, whose slot is -1, are in no group."""
    rows_of: dict[int, list[int]] = {}
    for row, slot in enumerate(slots_T):
        if slot >= 0:
            rows_of.setdefault(slot, []).append(row)
    return [Group(slot, _adjacent(rows)) for slot, rows in rows_of.items()]


def _adjacent(rows: list[int]) -> slice | Tensor:
    first, last = rows[0], rows[-1]
    return slice(first, last + 1) if last - first + 1 == len(rows) else tensor(rows)


def add_adapters(
    y_TO: Tensor,
    x_TI: Tensor,
    a_S1RI: Sequence[Tensor],
    b_S1oR: Sequence[Tensor],
    widths: Sequence[int],
    groups: Sequence[Group],
) -> None:
    """Add x A^T B^T to y in place, with A and B of each row's own adapter, slice by slice.

    In the number format of y and x throughout, as PEFT computes it.
    """
    for group in groups:
        x_gI, offset = x_TI[group.rows], 0
        for a, b, width in zip(a_S1RI, b_S1oR, widths, strict=True):
            x_gR = x_gI @ a[group.slot, 0].T
            b_Ro = b[group.slot, 0].T
            y_To = y_TO[:, offset : offset + width]
            if isinstance(group.rows, slice):
                y_To[group.rows].addmm_(x_gR, b_Ro)
            else:
                y_To.index_add_(0, group.rows, x_gR @ b_Ro)
            offset += width
