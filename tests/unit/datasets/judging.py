import gzip
import json
from pathlib import Path

import pytest

from adapters.datasets import DatasetReport, Example, Problem, check_dataset, read_examples
from adapters.errors import InvalidDataset


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1)


class Judge:
    """Writes content to a file and says what becomes of it; both ways of reading must agree."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "train.jsonl"

    def report(self, content: bytes, *, max_problems: int = 20) -> DatasetReport:
        self.path.write_bytes(content)
        return check_dataset(self.path, max_problems=max_problems)

    def examples(self, content: bytes) -> list[Example]:
        report = self.report(content)
        assert not report.problems
        examples = list(read_examples(self.path))
        assert len(examples) == report.rows
        return examples

    def example(self, row: object) -> Example:
        (example,) = self.examples(jsonl(row))
        return example

    def problem(self, content: bytes) -> Problem:
        report = self.report(content)
        assert report.total_problems == 1
        with pytest.raises(InvalidDataset) as raised:
            list(read_examples(self.path))
        assert raised.value.message == report.problems[0].message
        return report.problems[0]

    def row_problem(self, row: object) -> Problem:
        return self.problem(jsonl(row))
