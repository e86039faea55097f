"""A loss curve in a few lines of text: braille cells, two by four dots each."""

from collections.abc import Iterator, Sequence

_BLANK = 0x2800
#: The bit of each dot, by column and row within a cell (Unicode numbers them so for historical reasons).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_LABEL = 8

Point = tuple[float, float]


def plot(points: Sequence[Point], *, width: int = 60, height: int = 6) -> list[str]:
    """Lines of text, highest value on top, labelled with the extremes; empty if there are less than two points."""
    if len(points) < 2:  # noqa: PLR2004  one point is no curve
        return []
    xs, ys = [x for x, _ in points], [y for _, y in points]
    cells = [[_BLANK] * width for _ in range(height)]
    for column, y in enumerate(_resampled(sorted(points), width * 2)):
        row = height * 4 - 1 - _scaled(y, min(ys), max(ys), height * 4)
        cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    labels = [f"{max(ys):.3f}", *[""] * (height - 2), f"{min(ys):.3f}"]
    curve = [
        f"{label:>{_LABEL}} ┤{''.join(map(chr, line))}"
        for label, line in zip(labels, cells, strict=True)
    ]
    first, last = f"step {min(xs):g}", f"step {max(xs):g}"
    axis = f"{first} {last:>{max(0, width - len(first) - 1)}}"
    return [*curve, f"{'':>{_LABEL}}  {axis}"]


def _resampled(points: Sequence[Point], count: int) -> Iterator[float]:
    """The curve's height at so many equal distances, on straight lines between the points."""
    (first, _), (last, _) = points[0], points[-1]
    right = 1
    for index in range(count):
        x = first + (last - first) * index / (count - 1)
        while points[right][0] < x and right < len(points) - 1:
            right += 1
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        share = min(1.0, (x - x0) / (x1 - x0)) if x1 > x0 else 0.0
        yield y0 + (y1 - y0) * share


def _scaled(value: float, low: float, high: float, size: int) -> int:
    """The dot, 0 to size - 1, that the value falls on; a flat line lies at the bottom."""
    if high == low:
        return 0
    return round((value - low) / (high - low) * (size - 1))
