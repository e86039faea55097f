"""Adapters of one form that train together, side by side: each buffer is a row of a tensor that is everybody's.

So one batched product reads all their factors where they lie; stacking them anew for each product costs on a CPU what
batching saves (bench/LOG.md). A row is never given to a second adapter: whoever holds on to the weights of a job that
has left keeps what they were.

Shapes: K rows, P parameters of an adapter.
"""

import torch

from trainer.warm.adapter import Adapter, Factors, Siblings

#: Rows that a cohort begins with, by device. On a CPU, what nobody has moved into takes no memory, and moving
#: everybody once more costs a page fault for each 4 kB.
FIRST_ROWS = {"cpu": 8}


class Cohort:
    """Adapters of one form, in the order of their rows."""

    def __init__(self) -> None:
        self._rows: list[Adapter | None] = []
        self._weights_KP = self._gradient_KP = self._working_KP = torch.empty(0, 0)
        self._views: dict[tuple[int, int], dict[Siblings, Factors]] = {}

    @property
    def empty(self) -> bool:
        """Whether all have left."""
        return not any(self._rows)

    def join(self, adapter: Adapter) -> None:
        """Move the adapter in; where no row is left, everybody moves. Raises what running out of memory raises."""
        if len(self._rows) == len(self._weights_KP):
            self._make_room(adapter)
        self._move(adapter)

    def leave(self, adapter: Adapter) -> None:
        """Its buffers stay what they are."""
        self._rows = [None if one is adapter else one for one in self._rows]

    def row(self, adapter: Adapter) -> int | None:
        """Where it is, if it is here."""
        return next((at for at, one in enumerate(self._rows) if one is adapter), None)

    def factors(self, start: int, stop: int) -> dict[Siblings, Factors]:
        """Of the adapters in these rows, with a dimension for them in front."""
        if (start, stop) not in self._views:
            first = self._rows[start]
            assert first is not None
            working_KP, gradient_KP = self._working_KP[start:stop], self._gradient_KP[start:stop]
            self._views[start, stop] = first.factors_in(working_KP, gradient_KP)
        return self._views[start, stop]

    def _make_room(self, one_more: Adapter) -> None:
        """For half as many again as there are, so that n that come one after the other move O(n) times in all."""
        staying = [adapter for adapter in self._rows if adapter is not None]
        first_rows = FIRST_ROWS.get(one_more.weights_P.device.type, 1)
        rows = max(first_rows, (len(staying) + 1) * 3 // 2)
        # Not zeroed: what nobody has moved into yet is never read.
        weights_KP = one_more.weights_P.new_empty(rows, one_more.weights_P.numel())
        gradient_KP = torch.empty_like(weights_KP)
        working_KP = weights_KP
        if one_more.working_dtype != weights_KP.dtype:
            working_KP = torch.empty_like(weights_KP, dtype=one_more.working_dtype)
        self._weights_KP, self._gradient_KP, self._working_KP = weights_KP, gradient_KP, working_KP
        self._rows = []
        self._views.clear()
        for adapter in staying:
            self._move(adapter)

    def _move(self, adapter: Adapter) -> None:
        at = len(self._rows)
        weights_P, gradient_P = self._weights_KP[at], self._gradient_KP[at]
        one_dtype = self._working_KP is self._weights_KP
        adapter.move(weights_P, gradient_P, weights_P if one_dtype else self._working_KP[at])
        self._rows.append(adapter)


class Cohorts:
    """All adapters under training on one base model."""

    def __init__(self) -> None:
        self._of_form: dict[object, Cohort] = {}

    def join(self, adapter: Adapter) -> None:
        """Its buffers move. Raises what running out of memory raises; then it stays where it is."""
        self._of_form.setdefault(adapter.form, Cohort()).join(adapter)

    def leave(self, adapter: Adapter) -> None:
        """Forget the adapter, which keeps its buffers."""
        cohort = self._of_form.get(adapter.form)
        if cohort is not None:
            cohort.leave(adapter)
            if cohort.empty:
                del self._of_form[adapter.form]

    def find(self, adapter: Adapter) -> tuple[Cohort, int] | None:
        """Its cohort and row; None where it has not joined."""
        cohort = self._of_form.get(adapter.form)
        row = None if cohort is None else cohort.row(adapter)
        return None if cohort is None or row is None else (cohort, row)
