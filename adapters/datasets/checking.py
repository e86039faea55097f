"""A training file to Examples, or to a report of what is wrong with it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.datasets.examples import Example, fingerprint
from adapters.datasets.problems import Fault, Problem, invalid_dataset, printable, quoted
from adapters.datasets.rows import Row
from adapters.datasets.shapes import DatasetFormat, Shape, shape_of
from adapters.datasets.streams import not_an_object, read_rows
from adapters.files import FileReport, RowProblem

#: Field names are the client's; a row with a million of them must not fill the report.
_MOST_IGNORED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """What a training file holds."""

    #: None where no row has a known format.
    format: DatasetFormat | None
    #: Whether its rows compare two replies.
    compares: bool
    #: Rows that are not blank, bad ones and duplicates included.
    rows: int
    #: Rows that say the same as an earlier one, up to white space. The trainer leaves them out and says so.
    duplicates: int
    #: Fields that training does not see, e.g. `id` or `messages[].name`; the first 64, then "…".
    ignored_fields: tuple[str, ...]
    #: SHA-256 of the file's bytes, in hex.
    digest: str
    bytes: int
    #: One for each bad row, the first few.
    problems: tuple[Problem, ...]
    total_problems: int

    @property
    def valid(self) -> bool:
        """Whether the file can be trained on as it is."""
        return self.total_problems == 0


def read_examples(path: Path) -> Iterator[Example]:
    """Every row in order. Raises InvalidDataset at the first bad one; a checked file has none."""
    reader = _Reader()
    for row in read_rows(path):
        try:
            example = reader.read(row)
        except Fault as fault:
            problem = row.problem(fault)
            raise invalid_dataset(problem.message, [problem]) from fault
        yield example


def check_dataset(path: Path, *, max_problems: int = 20) -> DatasetReport:
    """Read the whole of `path` and judge it. Bad content never raises; what the operating system says does."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    tally = _Tally(max_problems)
    for row in read_rows(path):
        tally.add(row)
    shape = tally.reader.shape
    return DatasetReport(
        format=shape.name if shape else None,
        compares=shape is not None and shape.compares,
        rows=tally.rows,
        duplicates=tally.duplicates,
        ignored_fields=tuple(sorted(tally.ignored)),
        digest=digest,
        bytes=path.stat().st_size,
        problems=tuple(tally.problems),
        total_problems=tally.total_problems,
    )


def require_valid(report: DatasetReport, *, held_out: bool = False) -> None:
    """Raise InvalidDataset unless the report is without problems; InvalidHeldOut for rows that are held out."""
    if report.valid:
        return
    count = "1 problem" if report.total_problems == 1 else f"{report.total_problems} problems"
    first = f" {report.problems[0].message}" if report.problems else ""
    file = "validation" if held_out else "training"
    raise invalid_dataset(
        f"The {file} file has {count}.{first}", report.problems, held_out=held_out
    )


def file_report(report: DatasetReport) -> FileReport:
    """The report as it is kept with the file."""
    return FileReport(
        format=str(report.format) if report.format else None,
        rows=report.rows,
        duplicates=report.duplicates,
        ignored_fields=report.ignored_fields,
        problems=tuple(
            RowProblem(line=one.line, field=one.field, code=one.code, message=one.message)
            for one in report.problems
        ),
        total_problems=report.total_problems,
    )


class _Reader:
    """Rows to examples. The first row with a known shape decides what the others have to be."""

    def __init__(self) -> None:
        self.shape: Shape | None = None
        self._since = ""

    def read(self, row: Row) -> Example:
        """The example; raises Fault."""
        if row.fault:
            raise row.fault
        if not isinstance(row.value, dict):
            raise not_an_object(row.value)
        shape = shape_of(row.value, self.shape)
        if self.shape is None:
            self.shape, self._since = shape, f"{row.unit.lower()} {row.line}"
        if shape is not self.shape:
            names = f"{quoted(shape.name)}, while {self._since} is {quoted(self.shape.name)}"
            raise Fault(
                "mixed_format", f"this row is {names}; keep one format throughout the file."
            )
        return shape.read(row.line, row.value)


class _Tally:
    """What the report counts. Costs some 120 bytes a row, for telling duplicates."""

    def __init__(self, max_problems: int) -> None:
        self.reader = _Reader()
        self.rows = 0
        self.duplicates = 0
        self.total_problems = 0
        self.problems: list[Problem] = []
        self.ignored: set[str] = set()
        self._line = 0
        self._max_problems = max_problems
        self._seen: set[bytes] = set()

    def add(self, row: Row) -> None:
        """Count one row."""
        # What is wrong between two rows of an array comes as a second row of the same number.
        self.rows += row.line > self._line
        self._line = row.line
        try:
            example = self.reader.read(row)
        except Fault as fault:
            self.total_problems += 1
            if len(self.problems) < self._max_problems:
                self.problems.append(row.problem(fault))
            return
        self._note_duplicate(example)
        self._note_unused(row.value)

    def _note_duplicate(self, example: Example) -> None:
        mark = fingerprint(example)
        self.duplicates += mark in self._seen
        self._seen.add(mark)

    def _note_unused(self, value: object) -> None:
        shape = self.reader.shape
        for name in shape.unused(value) if shape and isinstance(value, dict) else ():
            full = len(self.ignored) >= _MOST_IGNORED
            self.ignored.add("…" if full else printable(name))
