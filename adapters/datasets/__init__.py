"""What a training file means, and what is wrong with it."""

from adapters.datasets.checking import (
    DatasetReport,
    check_dataset,
    file_report,
    read_examples,
    require_valid,
)
from adapters.datasets.examples import Comparison, Conversation, Example, Message, Passage
from adapters.datasets.problems import Problem, ProblemCode
from adapters.datasets.shapes import DatasetFormat
from adapters.datasets.streams import write_rows

__all__ = [
    "Comparison",
    "Conversation",
    "DatasetFormat",
    "DatasetReport",
    "Example",
    "Message",
    "Passage",
    "Problem",
    "ProblemCode",
    "check_dataset",
    "file_report",
    "read_examples",
    "require_valid",
    "write_rows",
]
