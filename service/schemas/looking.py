"""What is answered to those who look before they leap: reports on data, estimates, previews."""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.datasets import DatasetReport
from adapters.errors import Details, InvalidValue

#: The most rows of one preview.
MOST_ROWS = 20


class Asides(BaseModel):
    """Fields that say what to do with a request and are no part of what a job computes."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = False
    #: Rows of a preview.
    n: int = Field(5, ge=1, le=MOST_ROWS)


class WireWarning(BaseModel):
    """Something that would be done as asked, and is probably not what is wanted."""

    code: str
    message: str


class WireBar(BaseModel):
    """A bar of a histogram: how many rows have at most so many tokens, and more than the bar before."""

    up_to: int
    rows: int


class WireTokens(BaseModel):
    """The rows in tokens of the base model, duplicates left out."""

    #: Of one pass over all rows. Scaled up where `sampled`.
    tokens: int
    trained_tokens: int
    #: Of the rows that were looked at.
    longest: int
    histogram: list[WireBar]
    max_seq_length: int
    #: Rows longer than that; training leaves them out.
    too_long: int
    #: Rows that were looked at, and whether they are not all.
    rows: int
    sampled: bool


class WireReport(BaseModel):
    """What `POST /datasets/validate` found."""

    object: Literal["dataset.report"]
    valid: bool
    format: str | None
    #: What the rows are for; null where that cannot be told.
    method: str | None
    rows: int
    duplicates: int
    #: The first 20, as in `error.details` of `POST /finetune`.
    errors: Details
    error_count: int
    warnings: list[WireWarning]
    ignored_fields: list[str]
    #: SHA-256 of the bytes as they came; null where they could not be read that far.
    digest: str | None
    #: Null where the data is not valid, or the base model's tokenizer is not at hand.
    tokens: WireTokens | None
    #: Of the held-out rows that came with the request.
    validation: "WireReport | None"


def take_asides(fields: dict[str, Any], names: Collection[str]) -> Asides:
    """Take those of the names out of the fields, and check them.

    Raises:
        InvalidValue: one is out of range.
    """
    taken = {name: fields.pop(name) for name in names if name in fields}
    try:
        return Asides.model_validate(taken)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        message = f"{field}: {first['msg']} (got {first['input']!r:.80})."
        raise InvalidValue(message, param=field) from error


def wire_report(
    report: DatasetReport,
    *,
    errors: Details,
    warnings: list[WireWarning],
    tokens: WireTokens | None = None,
    validation: WireReport | None = None,
) -> WireReport:
    """The report on a file. `errors` are what is wrong beside the rows' own problems."""
    method = "dpo" if report.compares else "supervised"
    return WireReport(
        object="dataset.report",
        valid=report.valid and not errors and (validation is None or validation.valid),
        format=report.format,
        method=None if report.format is None else method,
        rows=report.rows,
        duplicates=report.duplicates,
        errors=[_detail(problem) for problem in report.problems] + errors,
        error_count=report.total_problems + len(errors),
        warnings=warnings,
        ignored_fields=list(report.ignored_fields),
        digest=report.digest,
        tokens=tokens,
        validation=validation,
    )


def unreadable_report(details: Details) -> WireReport:
    """The report on rows of a JSON body that are none."""
    return WireReport(
        object="dataset.report",
        valid=False,
        format=None,
        method=None,
        rows=0,
        duplicates=0,
        errors=details,
        error_count=len(details),
        warnings=[],
        ignored_fields=[],
        digest=None,
        tokens=None,
        validation=None,
    )


def _detail(problem: Any) -> dict[str, object]:
    return {
        "line": problem.line,
        "field": problem.field,
        "code": problem.code,
        "message": problem.message,
    }
