"""The low-rank products of all jobs of a pass in one call of a kernel, for one group of sibling layers.

Nothing is padded, and a call is one operation to start, however many jobs there are (native/lowrank.c).

Shapes: T tokens of the pass, I inputs, o outputs of one sibling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from torch import Tensor

from trainer.warm.adapter import Adapter, Siblings
from trainer.warm.native.layout import no_factors, pack_head
from trainer.warm.native.library import Lowrank

#: Companies of jobs whose tables are kept: where there is no room for all jobs in a pass, they take turns.
MOST_COMPANIES = 8


@dataclass(frozen=True, slots=True)
class Table:
    """Where all factors of some jobs lie, for some siblings."""

    packed: bytes
    #: Of each job; 0 where it adapts none of them.
    stacked: tuple[int, ...]

    @classmethod
    def of(cls, adapters: Sequence[Adapter], names: Siblings) -> "Table":
        """Of these, for these."""
        found = [adapter.factors.get(names) for adapter in adapters]
        none = no_factors(len(names))
        return cls(
            b"".join(none if one is None else one.table for one in found),
            tuple(0 if one is None else len(one.a_SI) for one in found),
        )


class Tables:
    """What a kernel reads, kept from one pass to the next: to make all anew would be a hundredth of a step."""

    def __init__(self, kernel: Lowrank) -> None:
        self.kernel = kernel
        #: By where the jobs' buffers are: their forms, which tell what is where in these, and tables by siblings.
        self._kept: dict[tuple[int, ...], tuple[list[object], dict[Siblings, Table]]] = {}

    def of(self, adapters: Sequence[Adapter]) -> dict[Siblings, Table]:
        """Those of some jobs that there are already; whoever makes one puts it here."""
        where = tuple(
            buffer_P.data_ptr() for one in adapters for buffer_P in (one.weights_P, one.gradient_P)
        )
        forms, tables = self._kept.get(where, ([], {}))
        # Of others that lay in the same place, where those are gone.
        if len(forms) != len(adapters) or any(
            form is not one.form for form, one in zip(forms, adapters, strict=True)
        ):
            if len(self._kept) >= MOST_COMPANIES:
                self._kept.clear()
            tables = {}
            self._kept[where] = [one.form for one in adapters], tables
        return tables


@dataclass(frozen=True, slots=True)
class Company:
    """The jobs of a pass."""

    kernel: Lowrank
    adapters: tuple[Adapter, ...]
    #: Their buffers, which a table has only the addresses of.
    buffers: tuple[Tensor, ...]
    #: In tokens.
    lengths: tuple[int, ...]
    #: `struct job` of each.
    jobs: bytes
    tables: dict[Siblings, Table]

    def block(self, names: Siblings) -> "AllJobs | None":
        """Their products for some siblings; None where nobody adapts them."""
        table = self.tables.get(names)
        if table is None:
            table = self.tables[names] = Table.of(self.adapters, names)
        hidden = sum(map(mul, self.lengths, table.stacked))
        return AllJobs(self, table.packed, hidden) if hidden else None


@dataclass(frozen=True, slots=True)
class AllJobs:
    """A Block, see products.py, of the whole pass. It leaves alone what is not of these jobs."""

    company: Company
    table: bytes
    #: Numbers of all jobs' x A^T.
    hidden: int

    def forward(self, x_NI: Tensor, ys_No: Sequence[Tensor]) -> Tensor:
        """See Block. What it returns is the kernel's own: job after job, scaled."""
        company, x_TI = self.company, _without_gaps(x_NI)
        h = company.buffers[0].new_empty(self.hidden)
        assert x_TI.dtype == h.dtype, "the kernel believes what it is told"
        head = pack_head(len(company.lengths), (x_TI, None), (h, None), ys_No)
        company.kernel.forward(h.dtype, head, company.jobs, self.table)
        return h

    def backward(
        self, h: Tensor, dys_No: Sequence[Tensor], x_NI: Tensor, dx_NI: Tensor | None
    ) -> None:
        """See Block."""
        company, x_TI = self.company, _without_gaps(x_NI)
        dh = h.new_empty(self.hidden)
        dys_To = [_without_gaps(dy_To) for dy_To in dys_No]
        head = pack_head(len(company.lengths), (x_TI, dx_NI), (h, dh), dys_To)
        company.kernel.backward(h.dtype, head, company.jobs, self.table)


def _without_gaps(rows: Tensor) -> Tensor:
    """The same numbers, with those of a row side by side."""
    return rows if rows.stride(1) == 1 else rows.contiguous()
