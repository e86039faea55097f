"""What a benchmark returns, and how it is printed: plain text for people and bench/LOG.md, JSON for everything else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.measure import Better, Spread, speedups, spread

HEADER = ("name", "ours", "peer", "ratio (min..max)", "rounds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison: a figure of ours and one of the peer for each round."""

    name: str
    unit: str
    better: Better
    ours: Sequence[float]
    peer: Sequence[float]
    #: What the ratio does not say, such as a difference in milliseconds.
    note: str = ""

    @property
    def ratio(self) -> Spread:
        """How many times as fast as the peer: above 1 ours is faster, whatever the unit."""
        return spread(speedups(self.ours, self.peer, self.better))

    def as_json(self) -> dict[str, Any]:
        """With every single measurement, so that nobody has to trust our medians."""
        ratio = self.ratio
        return {
            "name": self.name,
            "unit": self.unit,
            "better": self.better,
            "ours": list(self.ours),
            "peer": list(self.peer),
            "ratio": {"median": ratio.median, "min": ratio.low, "max": ratio.high},
            "rounds": len(self.ours),
            "note": self.note,
        }

    def cells(self) -> tuple[str, ...]:
        """Medians, as text."""
        ratio = self.ratio
        return (
            self.name,
            f"{figure(spread(self.ours).median)} {self.unit}",
            f"{figure(spread(self.peer).median)} {self.unit}",
            f"{figure(ratio.median)} ({figure(ratio.low)}..{figure(ratio.high)})",
            f"{len(self.ours)}{f'  {self.note}' if self.note else ''}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The rows of one benchmark, and in plain words what they compare."""

    name: str
    what: str
    rows: Sequence[Row]

    def as_json(self) -> dict[str, Any]:
        """The table as JSON has it."""
        return {"name": self.name, "what": self.what, "rows": [row.as_json() for row in self.rows]}

    def as_text(self) -> str:
        """Title, explanation, and one aligned line for each row."""
        return "\n".join([f"{self.name}: {self.what}", *_aligned([HEADER, *self._cells()])])

    def _cells(self) -> list[tuple[str, ...]]:
        return [row.cells() for row in self.rows]


def figure(value: float) -> str:
    """Three significant digits, never in the notation of engineers: 0.0123, 4.57, 1230."""
    if value == 0:
        return "0"
    digits = 3
    while digits < 12 and "e" in f"{value:.{digits}g}":
        digits += 1
    return f"{float(f'{value:.3g}'):.{digits}g}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
