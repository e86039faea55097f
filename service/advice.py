"""What a person who has fine-tuned before would say about a request, before anything is computed."""

from collections.abc import Iterator

from adapters.datasets import DatasetReport
from service.schemas.looking import WireWarning

#: Below this many distinct rows an adapter learns the rows rather than what they have in common.
_FEW_ROWS = 10


def about_rows(report: DatasetReport) -> Iterator[WireWarning]:
    """Of the data alone."""
    distinct = report.rows - report.duplicates
    if report.valid and distinct < _FEW_ROWS:
        yield WireWarning(
            code="few_rows",
            message=f"{_count(distinct, 'distinct row')}: an adapter will know these rows, and little else. A few dozen "
            "that say the same things in different words teach more.",
        )
    if report.duplicates:
        yield WireWarning(
            code="duplicates",
            message=f"{_count(report.duplicates, 'row')} repeat earlier ones, up to white space. Training leaves them out.",
        )
    if report.ignored_fields:
        yield WireWarning(
            code="ignored_fields",
            message=f"These fields of the data are not used: {', '.join(report.ignored_fields)}.",
        )


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"
